"""A configuration that trains in seconds: digits in patches of 4x4, and the smallest U-Net there is.

Also a config file: --config=tests/tiny.py
"""

from configs import demo


def get_config():
    config = demo.get_config()
    config.model.update(channels=32, multipliers=(1,), num_blocks=1, attention_sides=(7,), patch_size=4, dropout=0.1)
    config.model.update(num_classes=0)
    config.training.update(steps=8, batch_size=8, learning_rate=1e-3, warmup_steps=2, steps_per_call=2, min_snr_gamma=0.0)
    config.training.update(log_every=2, sample_every=8, held_out_every=0, checkpoint_every=4)
    config.sampling.update(steps=2, count=4)
    return config


def log_brightness(x, t, label):
    """A "classifier" for which every class is bright: [B]."""
    return x.mean((1, 2, 3))
