"""A long list of figures to find, each kept in a file once it is found: what was stopped goes on."""

import datetime
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddim_jax.common.files import whole
from ddim_jax.data.images import save_png


class Cell(NamedTuple):
    """One figure, or some that are found together."""

    name: str  # of its file
    evaluations: int  # of the network, over all images: with the next, what it costs
    described: int  # images that the extractor sees
    # On every host, so that they share the work: figures as JSON has them, and pictures uint8 [H, W, C] by the name of their file
    run: Callable[[], Mapping[str, Any]]


def check_settings(folder: pathlib.Path, settings: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures in a folder were found with, written there before the first: `settings`, and what is only noted.

    Raises ValueError where earlier figures in the folder were found with other settings. What is noted may change: it stays as
    it was when the first figure was looked for.
    """
    path = folder / "settings.json"
    decisive: dict[str, Any] = json.loads(json.dumps(settings))
    if path.exists():
        then = json.loads(path.read_text())
        changed = [
            f"{name} was {then['settings'].get(name)!r}, now {decisive.get(name)!r}"
            for name in sorted({*decisive, *then["settings"]})
            if then["settings"].get(name) != decisive.get(name)
        ]
        if changed:
            raise ValueError(
                f"{folder} holds figures found with other settings: {'; '.join(changed)}. Go on with the old ones, or give "
                "another --output"
            )
        return then["settings"] | then["noted"]
    if jax.process_index() == 0:
        with whole(path) as part:
            part.write_text(json.dumps({"settings": decisive, "noted": dict(noted)}, indent=1) + "\n")
    return decisive | dict(noted)


def missing(folder: pathlib.Path, cells: Sequence[Cell]) -> list[Cell]:
    """The cells whose figures are not in the folder yet, as the first host sees it."""
    there = np.array([_path(folder, cell.name).exists() for cell in cells])
    there = np.asarray(multihost_utils.broadcast_one_to_all(there)).astype(bool)
    return [cell for cell, done in zip(cells, there) if not done]


def run(folder: pathlib.Path, cells: Sequence[Cell], cost: Callable[[Cell], float], say: Callable[[str], None]) -> None:
    """Finds the figures of cells, one after the other; each is written when it is found, whole or not at all.

    cost: of a cell, in any unit, to tell how much time is left.
    say:  called with a line after each.
    """
    started, done, total = time.monotonic(), 0.0, sum(map(cost, cells))
    for i, cell in enumerate(cells, start=1):
        found = dict(cell.run())
        if jax.process_index() == 0:
            for name in [name for name, value in found.items() if isinstance(value, np.ndarray)]:
                save_png(folder / f"{name}.png", found.pop(name))
            with whole(_path(folder, cell.name)) as part:
                part.write_text(json.dumps(found, indent=1) + "\n")
        done += cost(cell)
        left = (time.monotonic() - started) * (total - done) / done
        say(f"{cell.name}: {i} of {len(cells)}, {datetime.timedelta(seconds=round(left))} left")


def found(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """All figures in the folder by the names of their cells. Raises ValueError for a file that is damaged."""
    figures = {}
    for path in sorted((folder / "cells").glob("*.json")):
        try:
            figures[path.stem] = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, and it is found anew") from error
    return figures


def _path(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / "cells" / f"{name}.json"
