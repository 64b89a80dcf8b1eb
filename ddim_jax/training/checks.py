"""What must hold before and while a run trains; each check says what to do where it does not."""

import math
import pathlib

import jax
import ml_collections
import numpy as np

from ddim_jax import configuration

EVERY = ("steps", "log_every", "sample_every", "checkpoint_every")
FREE_TO_CHANGE = {*(f"training.{field}" for field in EVERY), "data.directory", "data.memory_limit_mb"}  # when a run goes on
RANGES = {  # of the numbers that nothing else checks: at least, at most
    "training.seed": (0, 2**31 - 1),
    "training.batch_size": (1, math.inf),
    "training.steps_per_call": (1, math.inf),
    "training.learning_rate": (0, math.inf),
    "training.warmup_steps": (0, math.inf),
    "training.grad_clip": (0, math.inf),
    "training.ema_decay": (0, 1),
    "training.min_snr_gamma": (0, math.inf),
    "training.label_dropout": (0, 1),
    "model.dropout": (0, 1),
}


class DivergedError(FloatingPointError):
    """The loss or the gradient is no longer a finite number."""


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError where the fields of config.diffusion or the numbers of config.training do not go together."""
    run = config.training
    for name, (least, most) in RANGES.items():
        part, field = name.split(".")
        if not least <= config[part][field] <= most:
            raise ValueError(f"config.{name} is {config[part][field]}; it must lie between {least} and {most}")
    if config.diffusion.categories and not 2 <= config.diffusion.categories <= 256:
        raise ValueError(
            f"config.diffusion.categories is {config.diffusion.categories}; expected 2 to 256, or 0 for Gaussian noise"
        )
    configuration.make_loss(config)
    if run.batch_size % jax.device_count():
        raise ValueError(
            f"config.training.batch_size is {run.batch_size}, which the {jax.device_count()} devices here do not divide; "
            f"try {-(-run.batch_size // jax.device_count()) * jax.device_count()}"
        )
    for field in EVERY:
        if run[field] < 1 or run[field] % run.steps_per_call:
            raise ValueError(
                f"config.training.{field} is {run[field]}; it must be a multiple of steps_per_call = {run.steps_per_call}, "
                "the steps of one compiled call"
            )


def check_same(config: ml_collections.ConfigDict, before: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Raises ValueError where a run would go on with other settings than it began with (see FREE_TO_CHANGE)."""

    def settings(c):
        return {
            f"{part}.{field}": list(value) if isinstance(value, tuple) else value
            for part in ("data", "model", "diffusion", "training")
            for field, value in c[part].items()
            if f"{part}.{field}" not in FREE_TO_CHANGE
        }

    now, then = settings(config), settings(before)
    changed = [f"config.{k} was {then.get(k)!r}, now {now.get(k)!r}" for k in sorted({*now, *then}) if now.get(k) != then.get(k)]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another configuration: {'; '.join(changed)}. Go on with the old one, or give another "
            f"--workdir. Only {', '.join(sorted(FREE_TO_CHANGE))} may change."
        )


def check_finite(metrics: dict[str, np.ndarray], step: int, kept: int | None) -> None:
    """Raises DivergedError unless all metrics of the call that ended at `step` are finite; `kept` is the last checkpoint."""
    for name, values in metrics.items():
        if not np.all(np.isfinite(values)):
            bad = step - len(values) + 1 + int(np.argmin(np.isfinite(values)))
            raise DivergedError(
                f"the {name} of step {bad} is {values[~np.isfinite(values)][0]}: training has diverged. "
                + (f"The checkpoint of step {kept} is kept. " if kept else "No checkpoint was due yet. ")
                + "Try a smaller learning_rate, more warmup_steps or a smaller grad_clip in config.training, in a new --workdir."
            )
