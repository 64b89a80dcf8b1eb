"""Black and white digits by appendix A of the paper: two categories a pixel, and noise that is a pixel drawn anew.

Source:   DDIM, appendix A; the network and data of configs/demo.py.
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]), black below half of white.
Command:  python -m experiments.train --config=configs/demo_discrete.py --workdir=runs/discrete
Sample:   python -m experiments.sample --workdir=runs/discrete --num_images=100
Cost:     1,500 steps of 64 images, at 3 x 0.35 GFLOP an image: 38 minutes on 2 cores of an AMD EPYC (Zen 5), shared with
          other work.
Expect:   a loss of .163. A classifier (95.8% right on held-out digits in black and white, at least 0.8 sure of 94.6%) is as
          sure of 87%, 92% and 95% of 300 samples in 100 steps at eta = 0, 0.5 and 1: here noise helps, since a pixel that
          was drawn wrong is drawn again.
"""

from configs import demo


def get_config():
    config = demo.get_config()
    config.diffusion.update(categories=2, prediction="x0", zero_terminal_snr=True)
    config.model.update(input_skip=False)
    config.training.update(steps=1500, ema_decay=0.995, min_snr_gamma=0.0)
    config.training.update(sample_every=500, checkpoint_every=500)
    config.sampling.update(steps=100)
    return config
