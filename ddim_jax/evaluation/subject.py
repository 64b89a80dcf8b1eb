"""What is judged and how: a model with its judges, the ways in which samples are drawn, and what a table is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddim_jax.evaluation.cells import Cell
from ddim_jax.evaluation.features import Extractor
from ddim_jax.evaluation.measuring import Describe
from ddim_jax.evaluation.reference import Reference
from ddim_jax.evaluation.report import Picture, Plot, Table
from ddim_jax.inference.adjusting import Adjustment
from ddim_jax.inference.generate import Generator
from ddim_jax.inference.model import Model

NONE = "–"  # where there is no figure


class Way(NamedTuple):
    """A way to draw samples: a row of a table."""

    name: str  # in names of files
    label: str
    solver: str
    arguments: Mapping[str, Any]
    clip: bool = False


def eta(value: float) -> Way:
    """The paper's sampler."""
    return Way(f"eta{value:g}", f"η = {value:g}", "ddim", {"eta": value})


HATS = {
    "hat_clipped": Way("hat_clipped", "σ̂, x̂_0 clipped", "ddpm", {"variance": "large"}, clip=True),
    "hat": Way("hat", "σ̂", "ddpm", {"variance": "large"}),
}
ROWS = ("0", "0.2", "0.5", "1", *HATS)  # of Table 1, by default; numbers are values of η


def way(row: str) -> Way:
    """The row of this name. Raises ValueError unless it is a number, "hat" or "hat_clipped"."""
    if row in HATS:
        return HATS[row]
    try:
        return eta(float(row))
    except ValueError:
        raise ValueError(f"unknown row {row!r}; expected a value of η, such as 0.5, or one of {', '.join(HATS)}") from None


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model, and what it is judged by."""

    model: Model
    data: str  # name of the data set
    extractor: Extractor
    describe: Describe  # of the extractor
    reference: Reference
    num_samples: int
    batch_size: int
    seed: int
    steps: tuple[int, ...]  # S, the columns
    rows: tuple[str, ...]  # of Table 1
    # Real images uint8 [N, H, W, C] that the network did not learn from, and their classes if it is told any; or None.
    held_out: tuple[np.ndarray, np.ndarray | None] | None
    training: Callable[[], tuple[np.ndarray, np.ndarray | None]]  # images it did learn from, and their classes if there are any

    @property
    def columns(self) -> list[str]:
        """The heads of the columns of a table."""
        return [f"S = {steps}" for steps in self.steps]

    def sampler(self, way: Way, steps: int) -> tuple[Generator, Any]:
        """What draws in a way. Predictions are as the network makes them, unless the way itself clips them."""
        return self.model.generator(Adjustment(clip=way.clip)), self.model.table(steps, None, way.solver, **way.arguments)

    def label(self, count: int) -> dict[str, np.ndarray]:
        """What the network is told of the class of each of `count` samples: all classes in turn."""
        return self.model.told(count, self.model.classes)


class Section(NamedTuple):
    """A table or figure: the figures that it needs, and how it shows them."""

    cells: list[Cell]
    show: Callable[[Mapping[str, Mapping[str, Any]]], list[Table | Plot | Picture]]  # figures by the name of their cell


def number(value: float | None) -> str:
    """As it stands in a table."""
    return NONE if value is None else f"{value:.4g}"


def joined(values: Sequence[Any]) -> str:
    """For the name of a picture, so that one of other values is another."""
    return "-".join(map(str, values))


def check(model: Model, told_an_image: bool) -> None:
    """Raises ValueError for a model that the tables are not of."""
    if not model.process.has_latents:
        raise ValueError("these tables are of networks with Gaussian noise, and this one is of discrete values")
    if told_an_image:
        raise ValueError("these tables are of samples that are drawn freely, and this network is told an image for each")
    if len(model.shape) != 3:
        raise ValueError(f"these tables are of images, and this network draws examples of shape {model.shape}")
