"""Handwritten digits on a laptop's processor: the model that ships with this package, and what `make demo` trains.

Source:   the paper's objective and schedule; a small U-Net of our own that sees 28x28 digits as 14x14 patches of 2x2.
Command:  python -m experiments.train --config=configs/demo.py --workdir=runs/digits
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.data = ml_collections.ConfigDict(dict(name="mnist_5k", split="train", directory=None, image_size=28, channels=1, crop="none", flip=False, memory_limit_mb=4096))
    config.model = ml_collections.ConfigDict(
        dict(
            channels=64,
            multipliers=(1, 2),
            num_blocks=1,
            attention_sides=(7,),
            dropout=0.1,
            patch_size=2,
            dtype="float32",
        )
    )
    config.diffusion = ml_collections.ConfigDict(dict(schedule="linear", num_steps=1000, beta_start=1e-4, beta_end=2e-2))
    config.training = ml_collections.ConfigDict(
        dict(
            seed=0,
            steps=8000,
            batch_size=64,
            learning_rate=8e-4,
            warmup_steps=300,
            grad_clip=1.0,
            ema_decay=0.999,
            steps_per_call=1,
            log_every=20,
            sample_every=1000,
            checkpoint_every=500,
        )
    )
    config.sampling = ml_collections.ConfigDict(dict(steps=50, spacing="quadratic", eta=0.0, count=64))
    return config
