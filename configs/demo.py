"""Handwritten digits on a laptop's processor: the weights that ship with this package, and what `make demo` trains anew.

Source:   the paper's schedule, with a small U-Net of our own that sees a digit as 14x14 patches of 2x2, is told which of the ten
          to draw (arXiv 2207.12598) and learns the faster for Min-SNR weights (arXiv 2303.09556).
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]).
Command:  python -m experiments.train --config=configs/demo.py --workdir=runs/digits
Sample:   python -m experiments.sample --workdir=runs/digits --steps=50 --num_images=100
Cost:     6,000 steps of 64 images, at 3 x 0.35 GFLOP an image: 78 minutes on 2 shared cores of an AMD EPYC (Zen 5).
Expect:   the weights that ship had 16,620 steps in four such runs, to a loss of .0124 (ddim_jax/pretrained/README.md); one run of
          6,000 from random weights has not been judged.
"""

from configs import cifar10


def get_config():
    config = cifar10.get_config()
    config.data.update(name="mnist_5k", image_size=(28, 28), channels=1, flip=False)
    config.model.update(channels=64, multipliers=(1, 2), num_blocks=1, attention_sides=(7,), dropout=0.0)
    config.model.update(patch_size=2, input_skip=True, num_classes=10)
    config.training.update(steps=6000, batch_size=64, learning_rate=5e-4, warmup_steps=100, ema_decay=0.999)
    config.training.update(min_snr_gamma=5.0, condition_dropout=0.1, dtype="float32")
    config.training.update(log_every=20, sample_every=1000, held_out_every=500, checkpoint_every=500)
    config.sampling.update(spacing="trailing", count=100)
    return config
