"""Trains a network, or goes on with a run that was stopped (the same command again).

    python -m experiments.train --config=configs/cifar10.py --workdir=runs/cifar10 --config.training.batch_size=64

What a run takes (memory, FLOPs, messages, hours), before it is paid for, needs neither its devices nor its data:

    python -m experiments.train --config=configs/cifar10.py --dry_run --topology=v5e:4x4

On a pod, run the same line on every host with --multihost, and a --workdir that all of them share (docs/pods.md). Every field of
the configuration is a flag, and --config=FILE --help lists those of a file.
"""

import re
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from ddim_jax import configuration, runs
from ddim_jax.commands import command
from ddim_jax.common.files import check_writable
from ddim_jax.training import chips, planning

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration to train.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: its log, pictures and checkpoints.")
command.define_multihost()
_PROFILE = flags.DEFINE_string("profile", None, "START:STOP, the steps of which a trace is written to the folder of the run.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Whether to compile a step and say what the run takes, and no more.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Of --dry_run: TPUs or GPUs, like v5e:4x4, h100:8. Default: devices at hand.")


flags.register_validator("workdir", lambda folder: folder is not None or _DRY_RUN.value, "a run needs a folder, a --dry_run none")
flags.register_validator("topology", lambda name: name is None or _DRY_RUN.value, "only a --dry_run can be of a --topology")


def dry_run() -> None:
    """Prints what the run takes. Its data set need not be there, nor its devices where they are a --topology."""
    devices = chips.absent(_TOPOLOGY.value) if _TOPOLOGY.value else jax.devices()
    config = _CONFIG.value
    configuration.check(config, len(devices) if _TOPOLOGY.value else None)
    task = configuration.make_bare_task(config, configuration.stand_in_source(config))
    print(f"compiling for {len(devices)} x {devices[0].device_kind}, which takes minutes", file=sys.stderr)
    plan = planning.plan(task, config.training.batch_size, devices)
    print(planning.describe(plan, config.training.steps))


def main(_: list[str]) -> None:
    """The command, once its flags are parsed."""
    workdir = _WORKDIR.value
    if _DRY_RUN.value or workdir is None:  # which a dry run alone may lack
        return dry_run()
    check_writable(workdir, folder=True)
    command.join()
    profile = re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", _PROFILE.value or "1:1")
    if not profile or not 1 <= int(profile[1]) <= int(profile[2]):
        raise app.UsageError(f"--profile is {_PROFILE.value}; expected START:STOP, two steps from 1, like 100:120")
    span = (int(profile[1]), int(profile[2])) if _PROFILE.value else None
    state, steps = runs.train_config(_CONFIG.value, workdir, span), _CONFIG.value.training.steps
    if state.step < steps:
        print(f"{workdir}: {state.step} of {steps} steps; the same command goes on from there.")
    else:
        print(
            f"{workdir}: all {state.step} steps are done. More of them: --config.training.steps=N; with other settings, "
            f"in a new folder: --config.training.initial_weights={workdir}"
        )


def run(example: str | None = None) -> None:
    """Runs the command line. `example`: a file whose fields --help lists where no --config is given."""
    flags.mark_flag_as_required("config")
    about, path = __doc__ or "", command.config_path(sys.argv) or example
    if path and "--help" in sys.argv:
        about += f"\nThose of {path} are:\n\n"
        about += "\n".join(f"  --config.{name}={value!r}" for name, value in command.fields(path).items())
    command.run(main, about=about)
