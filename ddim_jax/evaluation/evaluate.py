"""Tables and figures of one model, found or gone on with, and the report of them."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ddim_jax.common.files import at, whole
from ddim_jax.evaluation import cells, figures, measuring, real, report, tables
from ddim_jax.evaluation.cells import Cell
from ddim_jax.evaluation.subject import Section, Subject

TABLES: dict[str, Callable[[Subject], Section]] = {
    "1": tables.table_1,
    "2": real.table_2,
    "3": tables.table_3,
    "solvers": tables.by_solver,
    "likelihood": real.likelihoods,
    "extractor": real.extractor_sight,
    "figure3": figures.figure_3,
    "figure4": figures.figure_4,
    "figure5": figures.figure_5,
    "figure6": figures.figure_6,
}


def evaluate(
    subject: Subject,
    names: Sequence[str],
    folder: str | os.PathLike,
    title: str,
    settings: dict[str, Any],
    say: Callable[[str], None],
) -> pathlib.Path:
    """Finds the figures of tables that are not in the folder yet, and writes the report of all of them: its path.

    names:    of TABLES; or "all": those that this subject has what they need for, but Table 3, two rows of Table 1.
    folder:   holds cells/NAME.json, one file for each figure found, settings.json, results.json, report.md, report.html and
              pictures. Hosts share it.
    settings: what decides the figures besides the subject's own numbers: the weights, above all.
    say:      called with lines of progress.

    Raises ValueError before anything is drawn: for unknown tables, for those that need what this subject has not, and where the
    folder holds figures found with other settings.
    """
    folder = at(folder)
    report.check_matplotlib()
    sections, warnings = _sections(subject, names)
    settings = settings | {
        "data": subject.data,
        "reference": subject.reference.name,
        "reference_made_of": subject.reference.made_of,
        "extractor": subject.extractor.name,
        "extractor_digest": subject.extractor.digest,
        "samples": subject.num_samples,
        "batch_size": subject.batch_size,
        "seed": subject.seed,
        "spacing": subject.model.defaults.spacing,
        "held_out": 0 if subject.held_out is None else len(subject.held_out[0]),
        "held_out_classes": subject.held_out is not None and subject.held_out[1] is not None,
    }
    told = cells.check_settings(folder, settings, _noted())
    wanted = {cell.name: cell for section in sections.values() for cell in section.cells}
    left = cells.missing(folder, list(wanted.values()))
    if left:
        cost = _cost(subject)
        _say_cost(subject, sections, left, cost, say)
        cells.run(folder, left, cost, say)
    if jax.process_index() == 0:
        found = cells.found(folder)
        shown = [part for section in sections.values() for part in section.show(found)]
        warnings += _warnings(subject, [found[name] for name in wanted])
        with whole(folder / "results.json") as part:
            part.write_text(json.dumps({"settings": told, "figures": {name: found[name] for name in wanted}}, indent=1) + "\n")
        report.write(folder, title, _about(subject, told), warnings, shown)
    return folder / "report.html"


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for names that are not of TABLES, nor "all"."""
    unknown = [name for name in names if name not in (*TABLES, "all")]
    if unknown or not names:
        raise ValueError(f"unknown table {', '.join(unknown) or '(none)'}; expected some of {', '.join(TABLES)}, or all")


def _sections(subject: Subject, names: Sequence[str]) -> tuple[dict[str, Section], list[str]]:
    """The sections of these names, and what is said of those that "all" leaves out."""
    check_names(names)
    if "all" not in names:
        return {name: TABLES[name](subject) for name in TABLES if name in names}, []
    made, left_out = {}, []
    for name in (name for name in TABLES if name != "3"):
        try:
            made[name] = TABLES[name](subject)
        except ValueError as error:
            left_out.append(f"Left out: {error}.")
    return made, left_out


def _noted() -> dict[str, str]:
    """Where and when figures were found, which does not decide them but is good to know."""
    kind = jax.devices()[0].device_kind
    devices = f"{jax.device_count()} x {kind}" + (f" ({os.cpu_count()} cores, {platform.machine()})" if kind == "cpu" else "")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ddim_jax", "jax", "jaxlib"))
    return {"devices": devices, "versions": versions, "begun": datetime.date.today().isoformat()}


def _about(subject: Subject, told: dict[str, Any]) -> dict[str, str]:
    reference = subject.reference.measured.n
    return {
        "Weights": f"{told['weights']} (SHA-256 of the parameters {told['weights_digest'][:16]}…)",
        "Data set": told["data"],
        "Samples": f"{told['samples']:,} a figure, seed {told['seed']}, in batches of {told['batch_size']}",
        "Reference": told["reference"] + (f", {reference:,} images" if reference else ""),
        "Extractor": f"{told['extractor']} (SHA-256 {told['extractor_digest'][:16]}…)",
        "Steps": f"spread over the schedule as {told['spacing']!r}",
        "Found on": f"{told['devices']}, {told['versions']}, begun on {told['begun']}",
    }


def _warnings(subject: Subject, found: Sequence[dict[str, Any]]) -> list[str]:
    """What is to be said of the figures of samples, once."""
    num_features, distance = len(subject.reference.measured.moments.mean), subject.extractor.distance
    of_samples = [each for each in found if "distance" in each and each["n"] == subject.num_samples]
    return measuring.warnings(of_samples[0], num_features, distance) if of_samples else []


def _cost(subject: Subject) -> Callable[[Cell], float]:
    """Seconds of a cell, from a few batches that are timed: figures of real images and pictures are drawn at the same rate."""
    steps, size = min(subject.steps), subject.batch_size
    evaluation = figures.seconds_to_draw(subject, steps, repeats=1) / (steps * size)
    images = np.zeros((size, *subject.model.shape), np.uint8)
    subject.describe(images)
    started = time.perf_counter()
    subject.describe(images)
    description = (time.perf_counter() - started) / size
    hosts = jax.process_count()
    return lambda cell: (cell.evaluations * evaluation + cell.described * description) / hosts


def _say_cost(
    subject: Subject,
    sections: dict[str, Section],
    left: Sequence[Cell],
    cost: Callable[[Cell], float],
    say: Callable[[str], None],
) -> None:
    names, total = {cell.name for cell in left}, 0.0
    counted: set[str] = set()
    say(f"{'table':<12}{'to find':>8}{'evaluations':>16}{'about':>12}")
    for name, section in sections.items():
        new = [cell for cell in section.cells if cell.name in names - counted]
        counted |= {cell.name for cell in new}
        seconds = sum(map(cost, new))
        total += seconds
        say(f"{name:<12}{len(new):>8}{sum(cell.evaluations for cell in new):>16,}{_duration(seconds):>12}")
    features = len(subject.reference.measured.moments.mean)
    megabytes = 4 * features * (subject.num_samples + (subject.reference.measured.n or 0)) / 1e6
    say(f"{'in all':<36}{_duration(total):>12}, and {megabytes:,.0f} MB for the features of samples and reference")


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
