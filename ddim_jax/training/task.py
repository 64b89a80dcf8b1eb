"""What is trained, as objects: `loop.train` takes one, and knows nothing of where they came from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from ddim_jax.diffusion.losses import drawn_loss
from ddim_jax.diffusion.schedule import Schedule
from ddim_jax.models.network import Network
from ddim_jax.training.step import LossFn, Prepare, as_they_are


class Hook(NamedTuple):
    """Something that is done now and then with the averaged parameters, for the log: samples drawn, a loss on held-out data.

    `run` is called on every host, so that all of them may share the work and wait for each other, and each must return the
    same names: numbers, and pictures uint8 [H, W, C].
    """

    every: int  # steps
    run: Callable[[Any], Mapping[str, float | np.ndarray]]  # of the averaged parameters, on the host
    keep: Callable[[int, Any, Mapping[str, Any]], None] | None = None  # of step, parameters and results, on the first host alone


class Task(NamedTuple):
    """A network, what it learns and from what. See `step.train_step` for loss, prepare, teacher and the three numbers."""

    network: Network
    schedule: Schedule
    source: Any  # examples in memory, an array [N, ...] or a dict of them; or anything with a length and an index
    optimizer: optax.GradientTransformation
    loss: LossFn = drawn_loss
    prepare: Prepare = as_they_are
    condition_dropout: float = 0.0
    ema_decay: float = 0.9999
    accumulate: int = 1
    skips_nonfinite: bool = False  # whether the optimizer skips steps that are not finite; else the first of them ends the run
    teacher: Any = None  # parameters, which the loss then asks
    initial: Any = None  # the parameters that a new run begins with; None: as the network draws them
    learning_rate: optax.Schedule | None = None  # for the log alone: the rate that the optimizer takes at each step from 0
    hooks: Sequence[Hook] = ()
