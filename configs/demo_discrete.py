"""Black and white digits by appendix A of the paper: two categories a pixel, and noise that is a pixel drawn anew.

Source:   DDIM, appendix A; the network and data of configs/demo.py.
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]), black below half of white.
Command:  python -m experiments.train --config=configs/demo_discrete.py --workdir=runs/discrete
Sample:   python -m experiments.sample --workdir=runs/discrete --num_images=100
Cost:     1,500 steps of 64 images, at 3 x 0.35 GFLOP an image.
Expect:   PLACEHOLDER
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
