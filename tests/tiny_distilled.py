"""Distillation in seconds, of the network of tiny.py, told the classes. Also a config file: --config=tests/tiny_distilled.py"""

import ml_collections

from tests import tiny


def get_config():
    config = tiny.get_config()
    config.distillation = ml_collections.ConfigDict(dict(student_steps=(2, 1)))
    config.model.update(num_classes=10)
    config.training.update(steps=2, sample_every=2, checkpoint_every=2)
    return config
