"""The paper's Figures 3 to 6: pictures of fixed latents, and the time to draw."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ddim_jax.data.images import grid, to_uint8
from ddim_jax.evaluation.cells import Cell
from ddim_jax.evaluation.report import Picture, Plot, Table
from ddim_jax.evaluation.subject import Section, Subject, Way, eta, joined, number, way
from ddim_jax.inference import pictures

COLUMNS, LINES = 10, 4  # latents side by side, and lines between two latents
LINE_STEPS = 50  # of Figure 6, as in the paper


def _drawn(subject: Subject, way: Way, steps: int) -> np.ndarray:
    """COLUMNS samples of fixed latents."""
    generator, table = subject.sampler(way, steps)
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
        return f"figure_3_{joined(subject.rows)}_S{steps}"

    note = f"Rows: {', '.join(each.label for each in ways)}; columns: latents."
    return Section(
        [cell(steps) for steps in chosen],
        lambda found: [Picture(f"Figure 3: S = {steps}", name(steps), note) for steps in chosen],
    )


def figure_5(subject: Subject) -> Section:
    """Figure 5: the same latents at several S, η = 0."""
    name = f"figure_5_{joined(subject.steps)}"

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
        generator, table = subject.sampler(eta(0), steps)
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
        columns = subject.columns
        rows = {
            f"seconds a batch of {size}": [number(times[steps]) for steps in subject.steps],
            "image-steps a second": [number(steps * size / times[steps]) for steps in subject.steps],
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
    generator, table = subject.sampler(eta(0), steps)
    x, keys = generator.latents(subject.seed, np.arange(subject.batch_size))
    label, times = subject.label(subject.batch_size), []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        jax.block_until_ready(generator.sample(subject.model.params, table, x, keys, label))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
