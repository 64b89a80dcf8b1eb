"""Checkpoints of a training run: written whole by Orbax, and read back only if every bit is as it was."""

import os
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddim_jax.common.arrays import check_fit
from ddim_jax.training.step import TrainState


class DamagedCheckpoint(ValueError):
    """A checkpoint that is there but cannot be trusted."""


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), total)
    return total


def _flat(state: TrainState) -> tuple[dict[str, Any], Any]:
    """The state's leaves under names such as "ema.conv_in.kernel", and the tree they came from."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}, tree


class Checkpoints:
    """The newest two checkpoints of a run, in `directory`. Saves finish behind the training: use as a context.

    A `read_only` one may be opened while a run is writing there.
    """

    def __init__(self, directory: str | os.PathLike, read_only: bool = False):
        self.directory = pathlib.Path(directory).absolute()  # Orbax writes nothing to a relative one, and does not say so
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: Any) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, if there is one."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Saves the state under its step. It is copied at once, so its buffers may be donated to the next step."""
        arrays = {name: np.array(leaf) for name, leaf in jax.device_get(_flat(state)[0]).items()}
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), checksum=ocp.args.JsonSave({"crc32": _checksum(arrays)}))
        self._manager.save(int(state.step), args=args, force=True)

    def reached_preemption(self, step: int) -> bool:
        """Whether a pod's hosts were told to stop and have agreed on this step; False where there is but one process."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def load(self) -> dict[str, np.ndarray]:
        """The arrays of the newest checkpoint by name. Raises DamagedCheckpoint where they are not what was saved."""
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(f"there is no checkpoint in {self.directory}: train there first")
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(), checksum=ocp.args.JsonRestore())
            found = self._manager.restore(step, args=args)
            state, recorded = found["state"], found["checksum"]["crc32"]
            fault = None if _checksum(state) == recorded else "its checksum is not the one it was saved with"
        except (ConnectionError, PermissionError, TimeoutError):  # the storage cannot be reached; the checkpoint may be whole
            raise
        except Exception as error:  # Orbax raises whatever its storage layers raise
            state, fault = {}, f"{type(error).__name__}: {str(error)[:300]}"
        if fault:
            others = [str(other) for other in self._manager.all_steps() if other != step]
            cure = f"the one before it (there is step {', '.join(others)})" if others else "nothing (there is no other)"
            raise DamagedCheckpoint(
                f"the checkpoint {self.directory / str(step)} is damaged: {fault}. Delete that folder to resume from {cure}"
            )
        return state

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint as NumPy arrays in the tree of `like`, a state or its shapes.

        Raises DamagedCheckpoint as `load` does, and ValueError where the checkpoint's arrays are not those of `like`.
        """
        expected, tree = _flat(like)
        arrays = self.load()
        check_fit(arrays, expected, f"the checkpoint in {self.directory}")
        return jax.tree.unflatten(tree, [arrays[name] for name in expected])
