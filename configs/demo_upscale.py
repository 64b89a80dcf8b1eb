"""Digits of 14x14 pixels drawn anew at 28x28: a network that is told an image (super-resolution, by an image condition).

Source:   an image joined to the channels of the input (Saharia et al., arXiv 2104.07636); network and data of configs/demo.py.
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]); each digit's 2x2 means are what the network is told.
Command:  python -m experiments.train --config=configs/demo_upscale.py --workdir=runs/upscale
Sample:   python -m experiments.sample --workdir=runs/upscale --modes=restore --num_images=20
Cost:     to be measured
Expect:   to be measured
"""

from configs import demo


def get_config():
    config = demo.get_config()
    config.data.update(degrade="half_size")
    config.model.update(num_classes=0)
    config.training.update(steps=2000, ema_decay=0.995)
    config.training.update(sample_every=500, checkpoint_every=500)
    config.sampling.update(steps=20, count=20)
    return config
