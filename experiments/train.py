"""Trains a network, or goes on with a run that was stopped (the same command again).

    python -m experiments.train --config=configs/cifar10.py --workdir=runs/cifar10 --config.training.batch_size=64

On a pod, run the same line on every host with --multihost, and a --workdir that all of them share. Every field of the
configuration is a flag; those of configs/cifar10.py, of which the others change some, are:

"""

import jax
from absl import flags
from ml_collections import config_flags

from ddim_jax import runs
from experiments import command

__doc__ += "\n".join(f"  --config.{name}={value!r}" for name, value in command.FIELDS.items())  # which --help shows

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration to train.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: its log, pictures and checkpoints.", required=True)
_MULTIHOST = flags.DEFINE_bool("multihost", False, "Whether this is one of several processes that train together.")


def main(_):
    if _MULTIHOST.value:
        jax.distributed.initialize()
    state, steps = runs.train_config(_CONFIG.value, _WORKDIR.value), _CONFIG.value.training.steps
    if state.step < steps:
        print(f"{_WORKDIR.value}: {state.step} of {steps} steps; the same command goes on from there.")
    else:
        print(
            f"{_WORKDIR.value}: all {state.step} steps are done. More of them: --config.training.steps=N; with other settings, "
            f"in a new folder: --config.training.initial_weights={_WORKDIR.value}"
        )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.run(main)
