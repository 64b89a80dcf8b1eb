"""Trains a network, or goes on with a run that was stopped (the same command again).

    python -m experiments.train --config=configs/cifar10.py --workdir=runs/cifar10 --config.training.batch_size=64

On a pod, run the same line on every host with --multihost, and a --workdir that all of them share.
"""

import functools

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from ddim_jax.inference import weights
from ddim_jax.inference.pictures import training_grid
from ddim_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration to train.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: its log, pictures and checkpoints.", required=True)
_MULTIHOST = flags.DEFINE_bool("multihost", False, "Whether this is one of several processes that train together.")


def main(_):
    logging.set_verbosity(logging.ERROR)  # Orbax tells a great deal
    if _MULTIHOST.value:
        jax.distributed.initialize()
    config = _CONFIG.value
    state = train(config, _WORKDIR.value, training_grid(config), functools.partial(weights.initial, config))
    print(f"{_WORKDIR.value}: {state.step} of {config.training.steps} steps; the same command goes on from there.")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
