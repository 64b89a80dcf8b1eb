"""Halves a trained network's sampling steps, stage by stage, by progressive distillation (arXiv 2202.00512).

    python -m experiments.distill --config=configs/demo_distilled.py --workdir=runs/distilled

Each stage trains a student, which begins as its teacher, in a folder of its own, WORKDIR/steps_N: a run like any other, to sample
from with --steps=N --spacing=trailing. The same command again goes on where it stopped.
"""

from absl import flags
from ml_collections import config_flags

from ddim_jax import runs
from ddim_jax.commands import command
from ddim_jax.common.files import check_writable

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration to distil.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs, one for each stage.", required=True)


def main(_: list[str]) -> None:
    """The command, once its flags are parsed."""
    check_writable(_WORKDIR.value, folder=True)
    steps = _CONFIG.value.training.steps
    for folder, state in runs.distil(_CONFIG.value, _WORKDIR.value):
        if state.step < steps:
            print(f"{folder}: {state.step} of {steps} steps; the same command goes on from there.")
        else:
            print(f"{folder}: a student of {folder.name.removeprefix('steps_')} steps")


def run() -> None:
    """Runs the command line."""
    flags.mark_flag_as_required("config")
    command.run(main)
