"""What lies beside an exported network so that another program can sample with it: model.json and tables.json.

model.json says what the network takes and predicts, and its schedule. tables.json holds the tables of all solvers, so that the
other program needs no solver of its own: it runs the rows; see docs/export.md.
"""

import json
import pathlib
from typing import Any

import numpy as np

import ddim_jax
from ddim_jax.common.files import digest
from ddim_jax.diffusion import solvers
from ddim_jax.inference.model import Model

STEPS = (4, 10, 20, 50, 100)  # the numbers of steps that there are tables for
ETAS = tuple(i / 10 for i in range(11))
FORMAT = 1  # of both files


def check(model: Model) -> None:
    """Raises ValueError for a model that rows of `solvers.StepTable` do not sample from."""
    if not model.process.has_latents:
        raise ValueError(
            "this network is of discrete values, whose steps are no sums of predictions: there is no table to export it with"
        )
    told = sorted(model.network.null.keys() - {"label"})
    if told:
        raise ValueError(f"this network is told {' and '.join(told)}; what is exported can be told the class alone (label)")


def write(folder: pathlib.Path, model: Model, prediction: str, name: str, network: str, history: int = 0) -> None:
    """Writes model.json and tables.json into a folder that holds the file `network`.

    history: how many weights each row of a table has of x_0 and of eps, zeros behind the solver's own; 0: as many as those.
    """
    null = model.network.null
    described = {
        "format": FORMAT,
        "name": name,
        "shape": list(model.shape),
        "prediction": prediction,
        "num_classes": model.num_classes or None,
        "null_label": int(null["label"]) if "label" in null else None,
        "clip_x0": model.defaults.clip,
        "alpha_bar": np.asarray(model.schedule.alpha_bar, np.float64).tolist(),
        "network": network,
        "sha256": digest(folder / network),
        "made_by": f"ddim_jax {ddim_jax.__version__}",
    }
    _write(folder / "model.json", described)
    _write(folder / "tables.json", {"format": FORMAT, "tables": tables(model, history)})


def tables(model: Model, history: int = 0) -> list[dict[str, Any]]:
    """The tables of every solver of the model at each of STEPS, over its own spacing, as fields of JSON; see `write`.

    A solver that the schedule does not allow (an eta past its limit, UniPC from pure noise) has none.
    """
    asked: list[tuple[str, dict[str, Any]]] = [("ddim", {"eta": eta}) for eta in ETAS]
    asked += [("ddpm", {"variance": "small"}), ("ddpm", {"variance": "large"})]
    asked += [(solver, {}) for solver in model.process.solvers if solver not in ("ddim", "ddpm")]
    made = []
    for steps in (steps for steps in STEPS if steps <= model.schedule.num_steps):
        for solver, arguments in asked:
            name = "ddpm large variance" if arguments.get("variance") == "large" else solver
            try:
                table = model.table(steps, solver=solver, **arguments)
            except ValueError:
                continue
            made.append({"solver": name, "eta": arguments.get("eta"), "steps": steps} | _fields(table, history))
        for ask in ("departure", "arrival"):
            table = solvers.encode(model.schedule, model.tau(steps), ask)
            if np.all(np.isfinite(table.eps)):
                made.append({"solver": "encode", "eta": None, "steps": steps, "ask": ask} | _fields(table, history))
    return made


def _fields(table: solvers.StepTable, history: int) -> dict[str, list]:
    """The columns of a table: whole numbers, and weights to the 9 digits that tell every float32."""
    steps = {column: np.asarray(getattr(table, column)).tolist() for column in ("t", "s")}
    weights = {"noise": _rounded(table.noise)}
    for column, rows in (("x0", table.x0), ("eps", table.eps)):
        missing = max(0, history - np.shape(rows)[1])
        weights[column] = _rounded(np.pad(np.asarray(rows), ((0, 0), (0, missing))))
    return steps | weights


def _rounded(weights: Any) -> list:
    return np.vectorize(lambda weight: float(f"{weight:.9g}"))(np.asarray(weights)).tolist()


def _write(path: pathlib.Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, separators=(",", ":"), allow_nan=False) + "\n")
