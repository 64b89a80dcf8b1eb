"""The paper's Tables 1 and 3, and the same for every solver: distances of samples from real images over ways and S."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddim_jax.evaluation import measuring
from ddim_jax.evaluation.cells import Cell
from ddim_jax.evaluation.features import Extractor
from ddim_jax.evaluation.report import Picture, Plot, Table
from ddim_jax.evaluation.subject import NONE, Section, Subject, Way, eta, number, way

SOLVERS = (
    eta(0)._replace(label="ddim (η = 0)"),
    eta(1)._replace(label="ddpm (η = 1)"),
    *(Way(name, name, name, {}) for name in ("dpmpp_2m", "plms", "unipc")),
)

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


def _by_steps(subject: Subject, title: str, name: str, ways: Sequence[Way]) -> Section:
    """Ways x S."""
    columns = subject.columns

    def show(found: Mapping[str, Mapping[str, Any]]) -> list[Table | Plot | Picture]:
        parts: list[Table | Plot | Picture] = []
        for figure, (note, text) in figures_of(subject.extractor).items():
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
    rows = {label: [number(row.get(steps)) for steps in subject.steps] for label, row in numbers.items()}
    note = "" if known == subject.data else "Of another data set and extractor: compare the order, not the size."
    if not any(row.keys() & set(subject.steps) for row in numbers.values()):
        return section
    table = Table(f"The paper: FID of 50,000 samples of {known}", "", subject.columns, rows, note)
    return Section(section.cells, lambda found: [*section.show(found), table])


def _sampled(subject: Subject, way: Way, steps: int) -> Cell:
    generator, table = subject.sampler(way, steps)

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


def figures_of(extractor: Extractor) -> dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]]:
    """Title -> (note, figures of a cell -> text). Only figures of Inception go by the names that its users know."""
    inception = extractor.distance == "FID"
    return {
        extractor.distance: ("Lower is better.", lambda found: number(found["distance"])),
        f"{extractor.distance}, limit in 1/n": (
            "Where the distance of n/4, n/2 and n samples leads for n without end.",
            lambda found: number(found["limit"]),
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
            lambda found: f"{number(found['precision'])} / {number(found['recall'])}",
        ),
        "sFID": ("", lambda found: number(found["spatial_distance"])),
    }


def _spread(pair: Sequence[float] | None) -> str:
    return NONE if pair is None else f"{pair[0]:.4g} ± {pair[1]:.2g}"


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
