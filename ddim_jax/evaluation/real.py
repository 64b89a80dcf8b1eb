"""Figures of real images: the paper's Table 2, bits per dimension, and what the extractor sees of images made worse."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ddim_jax.data.images import grid, to_float, to_uint8
from ddim_jax.evaluation import bits, damage, measuring, moments
from ddim_jax.evaluation.cells import Cell
from ddim_jax.evaluation.measuring import Measured
from ddim_jax.evaluation.report import Picture, Plot, Table
from ddim_jax.evaluation.subject import NONE, Section, Subject, joined, number
from ddim_jax.evaluation.tables import figures_of
from ddim_jax.inference import pictures
from ddim_jax.inference.adjusting import Adjustment

COLUMNS = 10  # images of the picture of reconstructions
PAPER_RECONSTRUCTION = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}  # CIFAR-10


def table_2(subject: Subject) -> Section:
    """Section 5.4, Table 2: the error of real images that are encoded and decoded again, told their class if there is one."""
    model, (images, labels) = subject.model, _held_out(subject, "table 2")
    generator = model.generator(Adjustment())

    def reconstructed(which: np.ndarray, steps: int) -> np.ndarray:
        x0, told = np.asarray(to_float(images[which])), model.told(len(which), None if labels is None else labels[which])
        return pictures.reconstruction(generator, model.params, model.tau(steps), x0, told, batch_size=subject.batch_size)

    def cell(steps: int) -> Cell:
        def run() -> Mapping[str, Any]:
            mine = measuring.share(len(images))
            error = (reconstructed(mine, steps) - np.asarray(to_float(images[mine]))) / 2  # on [0, 1]
            return _mean(np.square(error, dtype=np.float64).mean(axis=tuple(range(1, error.ndim))))

        return Cell(f"reconstruction_S{steps}", 2 * steps * len(images), 0, run)

    picture = f"reconstruction_{joined(subject.steps)}"

    def draw() -> Mapping[str, Any]:
        some = np.linspace(0, len(images) - 1, min(COLUMNS, len(images))).astype(int)  # many a set has one class after another
        rows = [np.asarray(to_float(images[some])), *(reconstructed(some, steps) for steps in subject.steps)]
        return {picture: grid(np.asarray(to_uint8(np.stack(rows))))}

    def show(found: Mapping[str, Mapping[str, Any]]) -> list[Table | Plot | Picture]:
        columns = subject.columns
        ours = [_with_error(found[f"reconstruction_S{steps}"]) for steps in subject.steps]
        theirs = [number(PAPER_RECONSTRUCTION.get(steps)) for steps in subject.steps]
        rows = {"this network": ours, "the paper, cifar10": theirs}
        told = "" if labels is None else " The network is told the class of each."
        note = f"Mean squared error a value, on [0, 1], of {len(images):,} images, and its standard error.{told}"
        listed = f"Above the images themselves; below S = {', '.join(map(str, subject.steps))}."
        return [
            Table("Table 2: error of reconstruction", "", columns, rows, note),
            Picture("Reconstructions", picture, listed),
        ]

    evaluations = 2 * sum(subject.steps) * COLUMNS
    return Section([*map(cell, subject.steps), Cell(picture, evaluations, 0, draw)], show)


def likelihoods(subject: Subject) -> Section:
    """Bits per dimension, by the bound (Eq. 11) and by the ODE (Eq. 14)."""
    model, (images, _) = subject.model, _held_out(subject, "likelihood")  # of p(x): the class is not told
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
        return [Table("Bits per dimension", "", subject.columns, rows, note)]

    return Section([cell(name, steps) for name in ways for steps in subject.steps], show)


def extractor_sight(subject: Subject) -> Section:
    """What the extractor sees: distances of real images from real ones, and from real ones made worse."""
    names: dict[str, damage.Damage | None] = {"real": None} | {
        f"{kind}, {strength}": do for kind, each in damage.DAMAGES.items() for strength, do in each.items()
    }

    def files_name(name: str) -> str:
        return "sight_" + name.replace(",", "").replace("%", "").replace(" ", "_").replace(".", "")

    @functools.cache
    def others() -> Measured:
        return measuring.measure_images(subject.describe, subject.training()[0][::2])

    def cell(name: str) -> Cell:
        def run() -> Mapping[str, Any]:
            images, labels = subject.training()
            do = names[name]
            if name.startswith("class") and labels is None:
                return {}
            half = images[1::2] if do is None else do(images[1::2], None if labels is None else labels[1::2])
            return measuring.compare(measuring.measure_images(subject.describe, half), others())

        return Cell(files_name(name), 0, subject.num_samples, run)

    def show(found: Mapping[str, Mapping[str, Any]]) -> list[Table | Plot | Picture]:
        cells = {name: found[files_name(name)] for name in names}  # empty where there are no classes to lose
        texts = {title: text for title, (_, text) in figures_of(subject.extractor).items() if "limit" not in title}
        texts = {title: text for title, text in texts.items() if text(cells["real"]) != NONE}
        rows = {name: [text(cell) if cell else NONE for text in texts.values()] for name, cell in cells.items()}
        real = cells["real"]
        note = (
            f"{real['n']:,} training images against {real['reference_n']:,} others: as they are, which is what two sets of real "
            "images differ by, and made worse. What is seen little here is seen little in samples, too."
        )
        return [Table(f"What {subject.extractor.name} sees", "", list(texts), rows, note)]

    return Section([cell(name) for name in names], show)


def _held_out(subject: Subject, what: str) -> tuple[np.ndarray, np.ndarray | None]:
    if subject.held_out is None:
        raise ValueError(f"{what} needs images that the network did not learn from: give --images, a folder of some")
    return subject.held_out


def _mean(values: np.ndarray) -> dict[str, float]:
    """Mean and standard error of values [n], one for each image of this host's share."""
    total = moments.over_hosts(moments.of(values[:, None]))
    return {"n": total.n, "mean": total.mean.item(), "error": float(np.sqrt(total.covariance.item() / total.n))}


def _with_error(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.4g} ± {found['error']:.2g}"
