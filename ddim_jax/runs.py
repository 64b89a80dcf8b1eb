"""Runs that a configuration describes, in a folder that says so: training, and distillation stage by stage."""

import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ddim_jax import configuration, weights
from ddim_jax.common.files import at, whole
from ddim_jax.configuration import Config
from ddim_jax.data import sources
from ddim_jax.training import planning
from ddim_jax.training.checkpoints import Checkpoints, of_all_hosts
from ddim_jax.training.loop import train
from ddim_jax.training.step import TrainState
from ddim_jax.training.task import Hook


def train_config(config: Config, workdir: str | os.PathLike, profile: tuple[int, int] | None = None) -> TrainState:
    """Trains what a configuration describes; goes on where an earlier run in `workdir` stopped. See `training.loop.train`.

    profile: the first and the last step of which a trace is written.
    Raises ValueError, before anything is written, for a configuration that cannot work or is not that of the run in `workdir`.
    """
    return _run(config, workdir, profile, initial=None if _begun(at(workdir)) else weights.initial(config))


def distil(config: Config, workdir: str | os.PathLike) -> Iterator[tuple[pathlib.Path, TrainState]]:
    """Halves the steps of config.training.initial_weights, stage by stage (arXiv 2202.00512): each stage's folder and end.

    A stage trains a student, which begins as its teacher, in WORKDIR/steps_N, a run like any other. Where a stage was stopped
    before its end, it is the last.
    Raises ValueError as `train_config` does, and where no teacher is named.
    """
    configuration.check_stages(config)
    params = weights.initial(config)
    if params is None:
        raise ValueError("config.training.initial_weights names no teacher; give its weights, or the folder of its run")
    for steps in config.distillation.student_steps:
        stage = config.copy_and_resolve_references()
        stage.sampling.update(steps=steps, spacing="trailing", eta=0.0)
        folder = at(workdir) / f"steps_{steps}"
        loss = configuration.make_distillation_loss(stage, steps)
        state = _run(stage, folder, None, initial=params, teacher=params, loss=loss)
        yield folder, state
        if state.step < stage.training.steps:
            return
        params = state.ema


def _begun(workdir: pathlib.Path) -> bool:
    """Whether a run has left a checkpoint there, whole or not, that one of the hosts sees; one not written to its end is none."""
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return any(of_all_hosts(checkpoints.latest_step() is not None))


def _check_same(config: Config, data: dict[str, str | int], workdir: pathlib.Path) -> None:
    """Raises ValueError where the run in `workdir` would go on with other settings or images than it began with."""
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        notes = checkpoints.load([]).notes
    before = weights.trained_with(notes) if "config" in notes else configuration.load(workdir / "config.json")
    changed = configuration.changes(config, before)
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another configuration: {'; '.join(changed)}. Go on with the old one, or give another "
            f"folder. To train its weights further with new settings, begin a new run with "
            f"--config.training.initial_weights={workdir}"
        )
    if "data" in notes:
        sources.check_unchanged(data, notes["data"], workdir)


def _run(config: Config, workdir: str | os.PathLike, profile: tuple[int, int] | None, **parts: Any) -> TrainState:
    """Trains the task of a configuration, with other `parts`; `workdir` then holds the configuration as config.json."""
    configuration.check(config)
    workdir = at(workdir)
    data = sources.fingerprint(config.data.name, split=config.data.split, directory=config.data.directory)
    if _begun(workdir):
        _check_same(config, data, workdir)
    task = configuration.make_task(config)._replace(**parts)
    if config.training.distance_every:
        judge = configuration.make_judge(config, workdir)
        hook = Hook(config.training.distance_every, judge, functools.partial(_keep_best, config, workdir))
        task = task._replace(hooks=[*task.hooks, hook])
    about = {"config": json.loads(configuration.to_json(config)), "data": data}
    peak_rate = planning.peak_rate(task, config.training.batch_size, jax.devices())
    return train(task, workdir, about=about, profile=profile, peak_rate=peak_rate, **configuration.run_arguments(config))


def _keep_best(config: Config, workdir: pathlib.Path, step: int, params: Any, results: Mapping[str, Any]) -> None:
    """Keeps the weights with the least distance so far as best_STEP.safetensors; best.json names the file, and is written last.

    The newest checkpoint, with which a run goes on, is another thing.
    """
    record = workdir / "best.json"
    before = json.loads(record.read_text()) if record.exists() else {"distance": float("inf")}
    if results["distance"] >= before["distance"]:
        return
    path = workdir / f"best_{step}.safetensors"
    weights.save(path, weights.Weights(config, params))
    with whole(record) as part:
        part.write_text(json.dumps({"step": step, "distance": results["distance"], "file": path.name}) + "\n")
    for older in workdir.glob("best_*.safetensors*"):
        if not older.name.startswith(path.name):
            older.unlink()
