"""The tables and figures of the paper, and a few of our own: which figures each needs, and how they are shown."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddim_jax.data.images import grid, to_float, to_uint8
from ddim_jax.evaluation import bits, damage, measuring, moments
from ddim_jax.evaluation.cells import Cell
from ddim_jax.evaluation.features import Extractor
from ddim_jax.evaluation.measuring import Describe
from ddim_jax.evaluation.reference import Reference
from ddim_jax.evaluation.report import Picture, Plot, Table
from ddim_jax.inference import pictures
from ddim_jax.inference.adjusting import Adjustment
from ddim_jax.inference.generate import Generator
from ddim_jax.inference.model import Model

COLUMNS, LINES = 10, 4  # of pictures: latents side by side, and lines between two latents
LINE_STEPS = 50  # of Figure 6, as in the paper
NONE = "–"


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
SOLVERS = (
    eta(0)._replace(label="ddim (η = 0)"),
    eta(1)._replace(label="ddpm (η = 1)"),
    *(Way(name, name, name, {}) for name in ("dpmpp_2m", "plms", "unipc")),
)
ROWS = ("0", "0.2", "0.5", "1", *HATS)  # of Table 1, by default; numbers are values of η


def way(row: str) -> Way:
    """The row of this name. Raises ValueError unless it is a number, "hat" or "hat_clipped"."""
    if row in HATS:
        return HATS[row]
    try:
        return eta(float(row))
    except ValueError:
        raise ValueError(f"unknown row {row!r}; expected a value of η, such as 0.5, or one of {', '.join(HATS)}") from None


_PAPER_STEPS = (10, 20, 50, 100, 1000)
PAPER: dict[str, dict[str, tuple[float, ...]]] = {  # what the paper's tables 1 and 3 say, by data set and row
    "cifar10": {
        "eta0": (13.36, 6.84, 4.67, 4.16, 4.04),
        "eta0.2": (14.04, 7.11, 4.77, 4.25, 4.09),
        "eta0.5": (16.66, 8.35, 5.25, 4.46, 4.29),
        "eta1": (41.07, 18.36, 8.01, 5.78, 4.73),
        "hat_clipped": (367.43, 133.37, 32.72, 9.99, 3.17),
    },
    "celeb_a": {
        "eta0": (17.33, 13.73, 9.17, 6.53, 3.51),
        "eta0.2": (17.66, 14.11, 9.51, 6.79, 3.64),
        "eta0.5": (19.86, 16.06, 11.01, 8.09, 4.28),
        "eta1": (33.12, 26.03, 18.48, 13.93, 5.98),
        "hat_clipped": (299.71, 183.83, 71.71, 45.20, 3.26),
    },
    "lsun/bedroom": {"eta0": (16.95, 8.89, 6.75, 6.62), "eta1": (42.78, 22.77, 10.81, 6.81)},
    "lsun/church_outdoor": {"eta0": (19.45, 12.47, 10.84, 10.58), "eta1": (51.56, 23.37, 11.16, 8.27)},
}
PAPER_RECONSTRUCTION = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}  # CIFAR-10


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
    held_out: np.ndarray | None  # real images uint8 [N, H, W, C], which the network did not learn from; None: there are none
    training: Callable[[], tuple[np.ndarray, np.ndarray | None]]  # images it did learn from, and their classes if there are any

    def label(self, count: int) -> dict[str, np.ndarray]:
        """What the network is told of the class of each of `count` samples: all classes in turn."""
        return self.model.told(count, self.model.classes)


class Section(NamedTuple):
    """A table or figure: the figures that it needs, and how it shows them."""

    cells: list[Cell]
    show: Callable[[Mapping[str, Mapping[str, Any]]], list[Table | Plot | Picture]]  # figures by the name of their cell


# How samples are drawn, and their figures shown


def _sampler(subject: Subject, way: Way, steps: int) -> tuple[Generator, Any]:
    """What draws in a way. Predictions are as the network makes them, unless the way itself clips them."""
    model = subject.model
    return model.generator(Adjustment(clip=way.clip)), model.table(steps, None, way.solver, **way.arguments)


def _sampled(subject: Subject, way: Way, steps: int) -> Cell:
    generator, table = _sampler(subject, way, steps)

    def run() -> Mapping[str, Any]:
        measured = measuring.measure_samples(
            generator,
            subject.model.params,
            table,
            subject.describe,
            subject.seed,
            subject.batch_size,
            subject.label(subject.num_samples),
            subject.num_samples,
        )
        return measuring.compare(measured, subject.reference.measured)

    return Cell(f"{way.name}_S{steps}", steps * subject.num_samples, subject.num_samples, run)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _spread(pair: Sequence[float] | None) -> str:
    return NONE if pair is None else f"{pair[0]:.4g} ± {pair[1]:.2g}"


def _figures(extractor: Extractor) -> dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]]:
    """Title -> (note, figures of a cell -> text). Only figures of Inception go by the names that its users know."""
    inception = extractor.distance == "FID"
    return {
        extractor.distance: ("Lower is better.", lambda found: _number(found["distance"])),
        f"{extractor.distance}, limit in 1/n": (
            "Where the distance of n/4, n/2 and n samples leads for n without end.",
            lambda found: _number(found["limit"]),
        ),
        "KID" if inception else "Kernel distance": (
            "Mean and standard deviation over 100 subsets.",
            lambda found: _spread(found["kernel_distance"]),
        ),
        "Inception Score" if inception else "Score by classes": (
            "Higher is better; by the classes of the extractor. Mean and standard deviation over 10 splits.",
            lambda found: _spread(found["inception_score"]),
        ),
        "Precision / recall": (
            "By the third nearest neighbour.",
            lambda found: f"{_number(found['precision'])} / {_number(found['recall'])}",
        ),
        "sFID": ("", lambda found: _number(found["spatial_distance"])),
    }


def _by_steps(subject: Subject, title: str, name: str, ways: Sequence[Way]) -> Section:
    """Ways x S."""
    columns = [f"S = {steps}" for steps in subject.steps]

    def show(found: Mapping[str, Mapping[str, Any]]) -> list[Table | Plot | Picture]:
        parts: list[Table | Plot | Picture] = []
        for figure, (note, text) in _figures(subject.extractor).items():
            rows = {w.label: [text(found[f"{w.name}_S{steps}"]) for steps in subject.steps] for w in ways}
            if any(cell.strip(f" /{NONE}") for row in rows.values() for cell in row):
                parts.append(Table(f"{title}: {figure}", "", columns, rows, note))
        series = {w.label: [(float(steps), found[f"{w.name}_S{steps}"]["distance"]) for steps in subject.steps] for w in ways}
        parts.append(Plot(f"{title}, against S", name, "S, sampling steps", subject.extractor.distance, series))
        return parts

    return Section([_sampled(subject, w, steps) for w in ways for steps in subject.steps], show)


def _with_the_papers(subject: Subject, section: Section, ways: Sequence[Way]) -> Section:
    """A section with what the paper found for these S, for CIFAR-10 where it did not try this data set."""
    known = subject.data if subject.data in PAPER else "cifar10"
    numbers = {w.label: dict(zip(_PAPER_STEPS, PAPER[known].get(w.name, ()))) for w in ways}
    rows = {label: [_number(row.get(steps)) for steps in subject.steps] for label, row in numbers.items()}
    note = "" if known == subject.data else "Of another data set and extractor: compare the order, not the size."
    if not any(row.keys() & set(subject.steps) for row in numbers.values()):
        return section
    table = Table(f"The paper: FID of 50,000 samples of {known}", "", [f"S = {steps}" for steps in subject.steps], rows, note)
    return Section(section.cells, lambda found: [*section.show(found), table])


def table_1(subject: Subject) -> Section:
    """Section 5.1, Table 1: the distance of samples over η and S."""
    ways = [way(row) for row in subject.rows]
    return _with_the_papers(subject, _by_steps(subject, "Table 1", "table_1", ways), ways)


def table_3(subject: Subject) -> Section:
    """Appendix D.4, Table 3: Table 1 for η = 0 and 1 alone."""
    ways = [eta(0), eta(1)]
    return _with_the_papers(subject, _by_steps(subject, "Table 3", "table_3", ways), ways)


def by_solver(subject: Subject) -> Section:
    """All our solvers over S, over the same steps."""
    return _by_steps(subject, "Solvers", "solvers", SOLVERS)


# Figures of real images


def _held_out(subject: Subject, what: str) -> np.ndarray:
    if subject.held_out is None:
        raise ValueError(f"{what} needs images that the network did not learn from: give --images, a folder of some")
    return subject.held_out


def _joined(values: Sequence[Any]) -> str:
    """In the name of a picture, so that one of other values is another."""
    return "-".join(map(str, values))


def _mean(values: np.ndarray) -> dict[str, float]:
    """Mean and standard error of values [n], one for each image of this host's share."""
    total = moments.over_hosts(moments.of(values[:, None]))
    return {"n": total.n, "mean": total.mean.item(), "error": float(np.sqrt(total.covariance.item() / total.n))}


def _with_error(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.4g} ± {found['error']:.2g}"


def table_2(subject: Subject) -> Section:
    """Section 5.4, Table 2: the error of real images that are encoded and decoded again."""
    model, images = subject.model, _held_out(subject, "table 2")
    generator = model.generator(Adjustment())

    def reconstructed(images: np.ndarray, steps: int) -> np.ndarray:
        x0 = np.asarray(to_float(images))
        return pictures.reconstruction(generator, model.params, model.tau(steps), x0, batch_size=subject.batch_size)

    def cell(steps: int) -> Cell:
        def run() -> Mapping[str, Any]:
            mine = images[measuring.share(len(images))]
            error = (reconstructed(mine, steps) - np.asarray(to_float(mine))) / 2  # on [0, 1]
            return _mean(np.square(error, dtype=np.float64).mean(axis=tuple(range(1, error.ndim))))

        return Cell(f"reconstruction_S{steps}", 2 * steps * len(images), 0, run)

    picture = f"reconstruction_{_joined(subject.steps)}"

    def draw() -> Mapping[str, Any]:
        some = images[:COLUMNS]
        rows = [np.asarray(to_float(some)), *(reconstructed(some, steps) for steps in subject.steps)]
        return {picture: grid(np.asarray(to_uint8(np.stack(rows))))}

    def show(found: Mapping[str, Mapping[str, Any]]) -> list[Table | Plot | Picture]:
        columns = [f"S = {steps}" for steps in subject.steps]
        ours = [_with_error(found[f"reconstruction_S{steps}"]) for steps in subject.steps]
        theirs = [_number(PAPER_RECONSTRUCTION.get(steps)) for steps in subject.steps]
        rows = {"this network": ours, "the paper, cifar10": theirs}
        note = f"Mean squared error a value, on [0, 1], of {len(images):,} images, and its standard error."
        listed = f"Above the images themselves; below S = {', '.join(map(str, subject.steps))}."
        return [
            Table("Table 2: error of reconstruction", "", columns, rows, note),
            Picture("Reconstructions", picture, listed),
        ]

    evaluations = 2 * sum(subject.steps) * COLUMNS
    return Section([*map(cell, subject.steps), Cell(picture, evaluations, 0, draw)], show)


def likelihoods(subject: Subject) -> Section:
    """Bits per dimension, by the bound (Eq. 11) and by the ODE (Eq. 14)."""
    model, images = subject.model, _held_out(subject, "likelihood")
    if model.schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "likelihood needs a schedule that keeps some signal at its end, and this one has none (zero terminal SNR)"
        )
    ways: dict[str, tuple[str, Callable, str, int]] = {  # label, what finds it, spacing, and what a step costs
        "bound": ("bound, η = 1", bits.by_bound, "trailing", 1),
        "ode": ("ODE", bits.by_ode, "logsnr", 8),
    }

    def cell(name: str, steps: int) -> Cell:
        _, find, spacing, cost = ways[name]

        def run() -> Mapping[str, Any]:
            mine = measuring.share(len(images))
            return _mean(find(model, model.tau(steps, spacing), images[mine], mine, subject.seed))

        return Cell(f"{name}_S{steps}", cost * steps * len(images), 0, run)

    def show(found: Mapping[str, Mapping[str, Any]]) -> list[Table | Plot | Picture]:
        rows = {label: [_with_error(found[f"{name}_S{steps}"]) for steps in subject.steps] for name, (label, *_) in ways.items()}
        note = (
            f"Of {len(images):,} images, with the standard error. Lower is better: 8 is what a value takes without any model. "
            "Steps are even for the bound, and even in log SNR for the ODE, whose figure is right only once it no longer changes "
            "with S."
        )
        return [Table("Bits per dimension", "", [f"S = {steps}" for steps in subject.steps], rows, note)]

    return Section([cell(name, steps) for name in ways for steps in subject.steps], show)


def extractor_sight(subject: Subject) -> Section:
    """What the extractor sees: distances of real images from real ones, and from real ones made worse."""
    names: dict[str, damage.Damage | None] = {"real": None} | {
        f"{kind}, {strength}": do for kind, each in damage.DAMAGES.items() for strength, do in each.items()
    }

    def files_name(name: str) -> str:
        return "sight_" + name.replace(",", "").replace("%", "").replace(" ", "_").replace(".", "")

    def cell(name: str) -> Cell:
        def run() -> Mapping[str, Any]:
            images, labels = subject.training()
            do = names[name]
            if name.startswith("class") and labels is None:
                return {}
            half = images[1::2] if do is None else do(images[1::2], None if labels is None else labels[1::2])
            measured = [
                measuring.measure(subject.describe, _batches(each, subject.batch_size), len(each)) for each in (half, images[::2])
            ]
            return measuring.compare(*measured)

        return Cell(files_name(name), 0, 2 * subject.num_samples, run)

    def show(found: Mapping[str, Mapping[str, Any]]) -> list[Table | Plot | Picture]:
        figures = {title: text for title, (_, text) in _figures(subject.extractor).items() if "limit" not in title}
        cells = {name: found[files_name(name)] for name in names}  # empty where there are no classes to lose
        rows = {name: [text(cell) if cell else NONE for text in figures.values()] for name, cell in cells.items()}
        note = (
            "Every second training image against the others: as they are, which is what two sets of real images differ by, and "
            "made worse. What is seen little here is seen little in samples, too."
        )
        return [Table(f"What {subject.extractor.name} sees", "", list(figures), rows, note)]

    return Section([cell(name) for name in names], show)


def _batches(images: np.ndarray, size: int) -> list[np.ndarray]:
    mine = images[measuring.share(len(images))]
    return np.split(mine, np.arange(size, len(mine), size))


# Pictures and time


def _drawn(subject: Subject, way: Way, steps: int) -> np.ndarray:
    """COLUMNS samples of fixed latents."""
    generator, table = _sampler(subject, way, steps)
    x, keys = generator.latents(subject.seed, np.arange(COLUMNS))
    return np.asarray(generator.sample(subject.model.params, table, x, keys, subject.label(COLUMNS)))


def figure_3(subject: Subject) -> Section:
    """Figure 3: samples of the same latents over η, at few steps and at many."""
    ways, chosen = [way(row) for row in subject.rows], sorted({min(subject.steps), max(subject.steps)})

    def cell(steps: int) -> Cell:
        def run() -> Mapping[str, Any]:
            rows = np.stack([_drawn(subject, each, steps) for each in ways])
            return {name(steps): grid(np.asarray(to_uint8(rows)))}

        return Cell(name(steps), len(ways) * steps * COLUMNS, 0, run)

    def name(steps: int) -> str:
        return f"figure_3_{_joined(subject.rows)}_S{steps}"

    note = f"Rows: {', '.join(each.label for each in ways)}; columns: latents."
    return Section(
        [cell(steps) for steps in chosen],
        lambda found: [Picture(f"Figure 3: S = {steps}", name(steps), note) for steps in chosen],
    )


def figure_5(subject: Subject) -> Section:
    """Figure 5: the same latents at several S, η = 0."""
    name = f"figure_5_{_joined(subject.steps)}"

    def run() -> Mapping[str, Any]:
        rows = np.stack([_drawn(subject, eta(0), steps) for steps in subject.steps])
        return {name: grid(np.asarray(to_uint8(rows)))}

    note = f"Rows: S = {', '.join(map(str, subject.steps))}; columns: latents."
    return Section(
        [Cell(name, sum(subject.steps) * COLUMNS, 0, run)],
        lambda found: [Picture("Figure 5: the same latents at several S", name, note)],
    )


def figure_6(subject: Subject) -> Section:
    """Figure 6: lines between pairs of latents."""
    steps = min(LINE_STEPS, subject.model.schedule.num_steps)

    def run() -> Mapping[str, Any]:
        generator, table = _sampler(subject, eta(0), steps)
        latents, _ = generator.latents(subject.seed, np.arange(2 * LINES))
        pairs = latents.reshape(LINES, 2, *subject.model.shape)
        lines = pictures.interpolation(
            generator, subject.model.params, table, pairs, COLUMNS, subject.label(LINES), batch_size=subject.batch_size
        )
        return {"figure_6": grid(np.asarray(to_uint8(lines)))}

    return Section(
        [Cell("figure_6", LINES * COLUMNS * steps, 0, run)],
        lambda found: [Picture("Figure 6: lines between latents", "figure_6", f"S = {steps}.")],
    )


def figure_4(subject: Subject) -> Section:
    """Figure 4: seconds to draw a batch against S."""
    size, repeats = subject.batch_size, 3

    def cell(steps: int) -> Cell:
        def run() -> Mapping[str, Any]:
            return {"seconds": seconds_to_draw(subject, steps, repeats)}

        return Cell(f"seconds_S{steps}", (repeats + 1) * steps * size, 0, run)

    def show(found: Mapping[str, Mapping[str, Any]]) -> list[Table | Plot | Picture]:
        times = {steps: found[f"seconds_S{steps}"]["seconds"] for steps in subject.steps}
        columns = [f"S = {steps}" for steps in subject.steps]
        rows = {
            f"seconds a batch of {size}": [_number(times[steps]) for steps in subject.steps],
            "image-steps a second": [_number(steps * size / times[steps]) for steps in subject.steps],
        }
        title = "Figure 4: time to draw"
        line = [(float(steps), seconds) for steps, seconds in times.items()]
        return [
            Table(title, "", columns, rows, f"Median of {repeats} after a first one, on the devices of one host."),
            Plot(f"{title}, against S", "figure_4", "S, sampling steps", "seconds", {f"a batch of {size}": line}),
        ]

    return Section([cell(steps) for steps in subject.steps], show)


def seconds_to_draw(subject: Subject, steps: int, repeats: int) -> float:
    """Seconds for one batch at η = 0, without compilation: the median of `repeats`."""
    generator, table = _sampler(subject, eta(0), steps)
    x, keys = generator.latents(subject.seed, np.arange(subject.batch_size))
    label, times = subject.label(subject.batch_size), []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        jax.block_until_ready(generator.sample(subject.model.params, table, x, keys, label))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


TABLES: dict[str, Callable[[Subject], Section]] = {
    "1": table_1,
    "2": table_2,
    "3": table_3,
    "solvers": by_solver,
    "likelihood": likelihoods,
    "extractor": extractor_sight,
    "figure3": figure_3,
    "figure4": figure_4,
    "figure5": figure_5,
    "figure6": figure_6,
}


def check(model: Model, told_an_image: bool) -> None:
    """Raises ValueError for a model that the tables are not of."""
    if not model.process.has_latents:
        raise ValueError("these tables are of networks with Gaussian noise, and this one is of discrete values")
    if told_an_image:
        raise ValueError("these tables are of samples that are drawn freely, and this network is told an image for each")
    if len(model.shape) != 3:
        raise ValueError(f"these tables are of images, and this network draws examples of shape {model.shape}")
