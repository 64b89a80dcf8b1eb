"""The demo's network in four steps: progressive distillation of the weights that ship, 32 steps to 16, 8 and 4.

Source:   Salimans & Ho, arXiv 2202.00512; the network and data of configs/demo.py.
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]).
Command:  python -m experiments.distill --config=configs/demo_distilled.py --workdir=runs/distilled
Sample:   python -m experiments.sample --workdir=runs/distilled/steps_4
Cost:     300 steps of 64 images a stage, each 5 x 0.35 GFLOP an image.
Expect:   PLACEHOLDER
"""

import ml_collections

from configs import demo


def get_config():
    config = demo.get_config()
    config.distillation = ml_collections.ConfigDict(dict(student_steps=(16, 8, 4)))
    config.training.update(initial_weights="ddim_jax/pretrained/digits.safetensors")
    config.training.update(steps=300, learning_rate=2e-4, warmup_steps=50, ema_decay=0.98)
    config.training.update(sample_every=300, checkpoint_every=100)
    return config
