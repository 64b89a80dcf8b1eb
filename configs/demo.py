"""Handwritten digits on a laptop's processor: the weights that ship with this package, and what `make demo` trains anew.

Source:   the paper's objective and schedule, with a small U-Net of our own that sees a digit as 14x14 patches of 2x2.
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]).
Command:  python -m experiments.train --config=configs/demo.py --workdir=runs/digits
Sample:   python -m experiments.sample --workdir=runs/digits --steps=50
Cost:     6,000 steps of 64 images, at 3 x 0.35 GFLOP an image: 66 minutes on 2 shared cores of an AMD EPYC (Zen 5).
Expect:   a loss of .026, and digits that one can read, most of them; ddim_jax/pretrained/README.md has figures.
"""

from configs import cifar10


def get_config():
    config = cifar10.get_config()
    config.data.update(name="mnist_5k", image_size=28, channels=1, flip=False)
    config.model.update(channels=64, multipliers=(1, 2), num_blocks=1, attention_sides=(7,), dropout=0.0, dtype="float32")
    config.model.update(patch_size=2, input_skip=True)
    config.training.update(steps=6000, batch_size=64, learning_rate=8e-4, warmup_steps=300, ema_decay=0.999)
    config.training.update(log_every=20, sample_every=1000, checkpoint_every=500)
    config.sampling.update(spacing="trailing")
    return config
