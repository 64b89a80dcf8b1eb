"""The demo's network in four steps: progressive distillation of the weights that ship, 32 steps to 16, 8 and 4.

Source:   Salimans & Ho, arXiv 2202.00512; the network and data of configs/demo.py.
Data:     4,500 MNIST digits, which pip brings (the extra ddim_jax[demo]).
Command:  python -m experiments.distill --config=configs/demo_distilled.py --workdir=runs/distilled
Sample:   python -m experiments.sample --workdir=runs/distilled/steps_4
Cost:     300 steps of 64 images a stage, each 5 x 0.35 GFLOP an image: 30 minutes on 2 cores of an AMD EPYC (Zen 5), shared with
          other work.
Expect:   sliced Wasserstein distances of 500 samples to real digits of .031, .032 and .036 in 16, 8 and 4 steps; the teacher's
          are .033, .040 and .065, and .030 in 50.
"""

import ml_collections

from configs import demo


def get_config():
    config = demo.get_config()
    config.distillation = ml_collections.ConfigDict(dict(student_steps=(16, 8, 4)))
    config.training.update(initial_weights="ddim_jax/pretrained/digits.safetensors")
    config.training.update(steps=300, learning_rate=2e-4, warmup_steps=50, ema_decay=0.98, min_snr_gamma=0.0)
    config.training.update(sample_every=300, checkpoint_every=100)
    return config
