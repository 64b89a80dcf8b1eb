"""Photographs of 32x32 pixels by a network small enough to ship: CIFAR-10, told which of its ten classes to draw.

Source:   the network of configs/cifar10.py with half its channels, told the class or, one time in ten, nothing (arXiv
          2207.12598). 8,954,883 parameters: 17.9 MB in bfloat16.
Data:     python -m experiments.prepare --name=cifar10   (once; needs the extra ddim_jax[prepare])
Command:  python -m experiments.train --config=configs/photographs.py --workdir=runs/photographs
Sample:   python -m experiments.sample --workdir=runs/photographs --steps=50 --spacing=quadratic --num_images=100
Cost:     60,000 steps of 256 images, at 3 x 3.0 GFLOP an image: 1.4e17 FLOP. About 20 minutes of an H100, by estimate: not
          measured.
Expect:   nothing yet: it has not been trained.
"""

from configs import cifar10


def get_config():
    config = cifar10.get_config()
    config.model.update(channels=64, num_classes=10)
    config.training.update(steps=60_000, batch_size=256, learning_rate=4e-4, warmup_steps=1000, ema_decay=0.9995)
    config.sampling.update(count=100)
    return config
