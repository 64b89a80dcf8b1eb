"""What must hold before and while a run trains; each check says what to do where it does not."""

import pathlib

import jax
import ml_collections
import numpy as np

from ddim_jax import configuration

FREE_TO_CHANGE = ("steps", "log_every", "sample_every", "checkpoint_every")  # between a run and its continuation


class DivergedError(FloatingPointError):
    """The loss or the gradient is no longer a finite number."""


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError where the fields of config.diffusion or the numbers of config.training do not go together."""
    run = config.training
    configuration.make_loss(config)
    if run.batch_size % jax.device_count():
        raise ValueError(
            f"config.training.batch_size is {run.batch_size}, which the {jax.device_count()} devices here do not divide; "
            f"try {-(-run.batch_size // jax.device_count()) * jax.device_count()}"
        )
    for field in FREE_TO_CHANGE:
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
            if (part, field) not in {("training", free) for free in FREE_TO_CHANGE}
        }

    now, then = settings(config), settings(before)
    changed = [f"config.{k} was {then.get(k)!r}, now {now.get(k)!r}" for k in sorted({*now, *then}) if now.get(k) != then.get(k)]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another configuration: {'; '.join(changed)}. Go on with the old one, or give another "
            f"--workdir. Only {', '.join(FREE_TO_CHANGE)} may change."
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
