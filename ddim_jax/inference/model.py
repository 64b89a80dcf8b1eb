"""A trained network as one object to sample from: what `ddim_jax.load` gives."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ddim_jax.data.images import to_float
from ddim_jax.diffusion import schedule as schedules
from ddim_jax.diffusion.schedule import Schedule
from ddim_jax.inference import pictures
from ddim_jax.inference.adjusting import Adjustment
from ddim_jax.inference.generate import Generator
from ddim_jax.inference.processes import Process
from ddim_jax.models.network import Condition, Network

SPACINGS = (*schedules.SPACINGS, "logsnr")
Label = int | Sequence[int] | np.ndarray | None  # one class, or one for each example


@dataclasses.dataclass(frozen=True)
class Defaults:
    """How a model samples unless it is told otherwise."""

    steps: int = 50  # S
    spacing: str = "trailing"  # of SPACINGS
    solver: str = "ddim"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of solvers, by name: {"eta": 0.0, ...}
    clip: bool = False  # whether each predicted x_0 is kept in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its parameters, and the methods of the paper on it.

    Examples are float32 arrays [N, *shape], images in [-1, 1] (`data.images.to_uint8` makes pixels of them). Where a method
    takes data, images uint8 will do. Common arguments:

        steps        S, the number of network evaluations
        spacing      how they are spread over the schedule: one of SPACINGS
        solver       a name in `process.solvers`: ddim, ddpm, dpmpp_2m, plms, unipc
        arguments    of the solver: eta (ddim), variance (ddpm), order (plms, unipc)
        label        the class of each example, or of all; by default all classes in turn where one draws, and "not told" where
                     data is given
        condition    what else the network is told: a dict of arrays with one row an example
        batch_size   how many are drawn at once

    Left out, steps, spacing, solver and its arguments are the model's own (`defaults`). All methods raise ValueError for
    arguments that do not go together, and FloatingPointError where the result is not finite.
    """

    network: Network
    params: Any
    schedule: Schedule
    shape: tuple[int, ...]  # of an example
    process: Process  # its family, and what the network predicts
    defaults: Defaults = Defaults()
    num_classes: int = 0  # of a network that is told the label of each example
    _generators: dict[Adjustment, Generator] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def generator(self, adjustment: Adjustment | None = None) -> Generator:
        """What draws, with predictions adjusted; by default x_0 is clipped where the model's own settings say so, and no more.

        Raises ValueError for an adjustment of a process that takes none.
        """
        adjustment = adjustment or Adjustment(clip=self.defaults.clip)
        if not self.process.has_latents and adjustment != Adjustment():
            raise ValueError("a network of discrete values takes no guidance, clipping or threshold")
        if adjustment not in self._generators:
            build = {"build": adjustment.build(self.schedule, self.network.null)} if self.process.has_latents else {}
            self._generators[adjustment] = Generator(self.network, self.schedule, self.shape, self.process, **build)
        return self._generators[adjustment]

    @property
    def classes(self) -> range | None:
        """What is drawn by default: all classes in turn; None of a network that is told none."""
        return range(self.num_classes) if self.num_classes else None

    def tau(self, steps: int | None = None, spacing: str | None = None) -> np.ndarray:
        """The sub-sequence of steps [S+1]."""
        steps = self.defaults.steps if steps is None else steps
        spacing = self.defaults.spacing if spacing is None else spacing
        if spacing not in SPACINGS:
            raise ValueError(f"unknown spacing {spacing!r}; expected one of {', '.join(SPACINGS)}")
        if spacing == "logsnr":
            return schedules.log_snr_subsequence(self.schedule, steps)
        return schedules.subsequence(self.schedule.num_steps, steps, spacing)

    def table(self, steps: int | None = None, spacing: str | None = None, solver: str | None = None, **arguments: Any) -> Any:
        """The step table of a solver."""
        name = solver or ("ddim" if "eta" in arguments else self.defaults.solver)
        known = self.process.solvers
        if name not in known:
            raise ValueError(f"unknown solver {name!r}; expected one of {', '.join(known)}")
        takes = {each: set(list(inspect.signature(function).parameters)[2:]) for each, function in known.items()}
        for argument in arguments.keys() - takes[name]:
            takers = [each for each in known if argument in takes[each]] or ["no solver of this model"]
            raise ValueError(f"{argument} is of {' and '.join(takers)}, but the solver is {name}: set solver, or leave it out")
        own = {argument: value for argument, value in self.defaults.arguments.items() if argument in takes[name]}
        return known[name](self.schedule, self.tau(steps, spacing), **(own | arguments))

    def told(self, count: int, label: Label, condition: Condition = {}) -> dict[str, np.ndarray]:
        """The condition of `count` examples; a label below `count` long is repeated."""
        rows = {name: np.asarray(values) for name, values in condition.items()}
        for name, values in rows.items():
            if len(values) != count:
                raise ValueError(f"the condition {name!r} has {len(values)} rows for {count} examples; give one row each")
        if label is None:
            return rows
        if not self.num_classes:
            raise ValueError("a label was given, but the network was not trained on classes")
        labels = np.atleast_1d(np.asarray(label))
        if not labels.size or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(f"label is {label}; the classes are 0 to {self.num_classes - 1}")
        return rows | {"label": np.resize(labels.astype(np.int32), count)}

    def sample(
        self,
        num: int,
        *,
        steps: int | None = None,
        spacing: str | None = None,
        solver: str | None = None,
        seed: int = 0,
        label: Label = None,
        condition: Condition = {},
        guidance: float = 1.0,
        batch_size: int = 256,
        **arguments: Any,
    ) -> np.ndarray:
        """The examples 0 .. num-1 of a seed: float32 [num, *shape].

        Example i of a seed is the same at any batch size, on any number of devices. `guidance` is the weight of
        classifier-free guidance (1: none; it needs a network that was trained with its condition withheld at times).
        """
        if num < 1:
            raise ValueError(f"num is {num}; expected how many examples to draw, at least 1")
        table = self.table(steps, spacing, solver, **arguments)
        rows = self.told(num, self.classes if label is None else label, condition)
        generator = self.generator(Adjustment(weight=guidance, clip=self.defaults.clip) if guidance != 1 else None)
        drawn = generator.batches(self.params, table, seed, np.arange(num), batch_size, rows)
        return np.concatenate([np.asarray(batch) for batch in drawn])

    def encode(
        self,
        x0: np.ndarray | jax.Array,
        *,
        steps: int | None = None,
        spacing: str | None = None,
        label: Label = None,
        condition: Condition = {},
        batch_size: int = 256,
    ) -> np.ndarray:
        """Latents [N, *shape] of data [N, *shape], by DDIM upwards (section 4.3)."""
        x0 = self._data(x0)
        rows = self.told(len(x0), label, condition)
        return pictures.encode(self.generator(), self.params, self.tau(steps, spacing), x0, rows, batch_size=batch_size)

    def decode(
        self,
        latents: np.ndarray | jax.Array,
        *,
        steps: int | None = None,
        spacing: str | None = None,
        solver: str | None = None,
        label: Label = None,
        condition: Condition = {},
        batch_size: int = 256,
        **arguments: Any,
    ) -> np.ndarray:
        """The examples [N, *shape] of latents [N, *shape], by a solver without noise."""
        self._data(latents)
        table = self.table(steps, spacing, solver, **arguments)
        rows = self.told(len(latents), label, condition)
        return pictures.decode(self.generator(), self.params, table, latents, rows, batch_size=batch_size)

    def reconstruct(
        self,
        x0: np.ndarray | jax.Array,
        *,
        steps: int | None = None,
        spacing: str | None = None,
        label: Label = None,
        condition: Condition = {},
        batch_size: int = 256,
    ) -> np.ndarray:
        """Data [N, *shape] encoded and decoded again over the same steps (section 5.4)."""
        x0 = self._data(x0)
        rows = self.told(len(x0), label, condition)
        return pictures.reconstruction(self.generator(), self.params, self.tau(steps, spacing), x0, rows, batch_size=batch_size)

    def interpolate(
        self,
        num: int,
        *,
        latents: np.ndarray | jax.Array | None = None,
        seed: int = 0,
        steps: int | None = None,
        spacing: str | None = None,
        solver: str | None = None,
        label: int | None = None,
        condition: Condition = {},
        batch_size: int = 256,
        **arguments: Any,
    ) -> np.ndarray:
        """The line of `num` examples [num, *shape] between two latents [2, *shape]; by default those of a seed (Figure 6).

        All are told the same: `label` is one class, and a condition has one row.
        """
        if latents is None:
            latents, _ = self.generator().latents(seed, np.arange(2))
        if self._data(latents).shape[0] != 2:
            raise ValueError(f"latents have shape {np.shape(latents)}; expected (2, *{self.shape}), the two ends of the line")
        table = self.table(steps, spacing, solver, **arguments)
        rows = self.told(1, label, condition)
        pairs = jax.numpy.asarray(latents)[None]
        return pictures.interpolation(self.generator(), self.params, table, pairs, num, rows, batch_size=batch_size)[0]

    def _data(self, x0: np.ndarray | jax.Array) -> jax.Array:
        """Data as the network sees it. Raises ValueError for another shape, or a process that has no latents."""
        if not self.process.has_latents:
            raise ValueError("a network of discrete values has no latents to encode to, or to decode from")
        if np.shape(x0)[1:] != self.shape:
            raise ValueError(f"data has shape {np.shape(x0)}; expected [N, ...] with {self.shape} after N")
        return to_float(x0) if x0.dtype == np.uint8 else jax.numpy.asarray(x0)
