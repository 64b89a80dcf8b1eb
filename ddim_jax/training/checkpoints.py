"""Checkpoints of a training run: written whole by Orbax, and read back only if every bit is as it was."""

import concurrent.futures
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddim_jax.common import files
from ddim_jax.common.arrays import check_fit
from ddim_jax.training.step import TrainState

PARTS = ("average", "rest")  # of the state, each readable without the other
# Of what storage says when it fails and the checkpoint may be whole: TensorStore's statuses, and errors of the system's own.
_STORAGE_FAILS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED", "OS error")


class DamagedCheckpoint(ValueError):
    """Checkpoints are there, but none can be trusted."""


class _Fault(Exception):
    """What is wrong with a checkpoint."""


class Saved(NamedTuple):
    """What a checkpoint holds."""

    arrays: dict[str, np.ndarray]  # the leaves of the state by name, such as "ema.conv_in.kernel"
    notes: dict[str, Any]  # what the run said of itself, as JSON has it


class Checkpoints:
    """The newest two checkpoints of a run in `directory`, and every one whose step keep_every divides (0: no other).

    Saves finish behind the training: use as a context. One that is `read_only` may be opened while a run is writing there.
    The first host writes for all, and each reads for itself, so that none waits within Orbax for one whose disk fails.
    """

    def __init__(self, directory: str | os.PathLike, read_only: bool = False, keep_every: int = 0):
        self.directory = files.at(directory)
        if not files.in_bucket(directory):
            self.directory = self.directory.absolute()  # Orbax writes nothing to a relative one, and does not say so
        self._read_only, host, self._said = read_only, jax.process_index(), 0
        how: dict[str, Any] = {"max_to_keep": 2, "keep_period": keep_every or None, "cleanup_tmp_directories": True}
        if read_only or host:
            how = {"read_only": True}
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
        import orbax.checkpoint as ocp  # here, since it takes half a second, which reading a file of weights does not need

        self._args, alone = ocp.args, ocp.options.MultiprocessingOptions(host, {host}, f"host {host}")
        self._manager = ocp.CheckpointManager(
            self.directory, options=ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone, **how)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: Any) -> None:
        failed = self._failed()
        self._manager.close()
        if error[0] is not None or self._read_only:
            return
        if any(of_all_hosts(bool(failed))):  # none leaves before all is written
            there = max(self._manager.all_steps(read=True), default=None)
            raise OSError(
                f"the last checkpoint could not be written to {self.directory} ({failed or 'the first host says why'}). Make "
                f"room or mend the disk, and start again: the run goes on from {f'step {there}' if there else 'its beginning'}"
            )

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, if there is one; whether it is damaged only `load` knows."""
        return max(self._manager.latest_step() or 0, self._said) or None

    def steps(self) -> list[int]:
        """The steps that are there, newest first. Raises ValueError where other hosts see another newest one."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        newest = of_all_hosts(steps[0] if steps else -1)
        if len(set(newest)) > 1:
            seen = ", ".join(f"host {host} sees {step if step >= 0 else 'none'}" for host, step in enumerate(newest))
            raise ValueError(
                f"the hosts do not see the same newest checkpoint in {self.directory}: {seen}. Give a folder that all of them "
                "share; if they do share it, start again, for some file systems show new files late"
            )
        return steps

    def save(self, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any] = {}) -> None:
        """Saves what `copied` gave, and notes that JSON can hold, under the step within.

        Where the save before this one failed, it warns: the disk may have room again.
        """
        if jax.process_index():
            self._said = int(arrays["step"])
            return
        failed = self._failed()
        if failed:
            warnings.warn(f"a checkpoint could not be written ({failed}): training goes on, and this one is tried", stacklevel=2)
        record = {"step": int(arrays["step"]), "crc32": _checksums(arrays), "notes": dict(notes)}
        text = json.dumps(record, sort_keys=True)
        args = self._args.Composite(
            record=self._args.JsonSave({"record": text, "crc32": zlib.crc32(text.encode())}),
            **{part: self._args.StandardSave({n: a for n, a in arrays.items() if _part(n) == part}) for part in PARTS},
        )
        self._manager.save(record["step"], args=args, force=True)

    def check_room(self, arrays: Mapping[str, Any]) -> None:
        """Raises OSError where the disk has no room for the checkpoints that are to come, of these arrays or shapes.

        A bucket has no end.
        """
        if files.in_bucket(self.directory):
            return
        size = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())
        needed = size * max(1, 3 - len(self._manager.all_steps()))  # two are kept while a third is written
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(
                f"the disk of {self.directory} has {free / 1e6:.1f} MB free, and the checkpoints of this run take "
                f"{needed / 1e6:.1f} MB more: make room, or give another folder"
            )

    def reached_preemption(self, step: int) -> bool:
        """Whether a pod's hosts were told to stop and have agreed on this step; False where there is but one process."""
        return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)

    def load(self, parts: Sequence[str] = PARTS) -> Saved:
        """These parts of the newest checkpoint in which they are whole, and its notes.

        A damaged one that is newer is reported, and all hosts step over it alike. Unless this is `read_only` it is set aside
        as well, in a folder `damaged_checkpoints`, where it is in the way of none.
        Raises FileNotFoundError where there is no checkpoint, DamagedCheckpoint where none is whole, OSError where the storage
        fails, which is no damage, and ValueError where hosts see different checkpoints.
        """
        faults: dict[int, str] = {}
        for step in self.steps():
            saved, fault = self._read(step, parts)
            if not any(of_all_hosts(bool(fault))):
                self._report(faults, f"step {step} is used")
                return saved
            faults[step] = fault or "another host finds it damaged"
        if not faults:
            raise FileNotFoundError(f"there is no checkpoint in {self.directory}: train there first")
        found = "; ".join(f"step {step}: {fault}" for step, fault in faults.items())
        raise DamagedCheckpoint(
            f"no checkpoint in {self.directory} is whole. {found}. To begin anew give another folder; nothing here was changed"
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of `load` in the tree of `like`, a state or its shapes, as NumPy arrays; and its notes.

        Raises as `load` does, and ValueError where the checkpoint's arrays are not those of `like`.
        """
        expected, tree = flat(like)
        arrays, notes = self.load()
        check_fit(arrays, expected, f"the checkpoint in {self.directory}")
        return jax.tree.unflatten(tree, [arrays[name] for name in expected]), notes

    def _failed(self) -> str:
        """Waits for the save that is under way, and says why it failed, or ''."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax raises whatever its storage layers raise
            return _in_a_line(error)
        return ""

    def _read(self, step: int, parts: Sequence[str]) -> tuple[Saved, str]:
        """A checkpoint, and what is wrong with it, or ''. Raises OSError where the storage fails."""
        try:
            if (self.directory / str(step) / "state").exists():
                return self._checked_of_old(step), ""
            return self._checked(step, parts), ""
        except _Fault as fault:
            return Saved({}, {}), str(fault)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            return Saved({}, {}), _in_a_line(error)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # Orbax raises whatever its storage layers raise
            told = _in_a_line(error)
            if any(each in str(error) for each in _STORAGE_FAILS):
                raise OSError(f"the checkpoint {self.directory / str(step)} cannot be read now ({told}): try again") from error
            return Saved({}, {}), told

    def _checked(self, step: int, parts: Sequence[str]) -> Saved:
        """A checkpoint. Raises _Fault where it is not what was saved, and whatever Orbax raises."""
        found = self._restore(step, record=self._args.JsonRestore())["record"]
        if zlib.crc32(found["record"].encode()) != found["crc32"]:
            raise _Fault("its record is not the one that was saved")
        record = json.loads(found["record"])
        if record["step"] != step:
            raise _Fault(f"it is of step {record['step']}, in a folder that was renamed")
        restored = self._restore(step, **{part: self._args.StandardRestore() for part in parts}) if parts else {}
        arrays = {name: np.asarray(array) for part in parts for name, array in restored[part].items()}
        sums = {name: value for name, value in record["crc32"].items() if _part(name) in parts}
        wrong = _checksums(arrays).items() ^ sums.items()
        if wrong:
            raise _Fault(f"{min(wrong)[0]} is not as it was saved")
        return Saved(arrays, record["notes"])

    def _checked_of_old(self, step: int) -> Saved:
        """A checkpoint as it was written before checkpoints had notes: all in one item, under one checksum."""
        found = self._restore(step, state=self._args.StandardRestore(), checksum=self._args.JsonRestore())
        arrays, total = {name: np.asarray(array) for name, array in found["state"].items()}, 0
        for name in sorted(arrays):
            total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), total)
        if total != found["checksum"]["crc32"]:
            raise _Fault("its checksum is not the one it was saved with")
        if arrays["step"] != step:
            raise _Fault(f"it is of step {arrays['step']}, in a folder that was renamed")
        return Saved(arrays, {})

    def _restore(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=self._args.Composite(**items))

    def _report(self, faults: Mapping[int, str], instead: str) -> None:
        """Says which checkpoints were stepped over, and sets them aside."""
        for step, fault in faults.items():
            place = self.directory / str(step)
            if not self._read_only:
                place = self.directory.with_name("damaged_checkpoints") / str(step)
                if jax.process_index() == 0:
                    while place.exists():
                        place = place.with_name(place.name + "_again")
                    files.move(self.directory / str(step), place)
            warnings.warn(f"the checkpoint of step {step} is damaged ({fault}): {instead}. It lies in {place}", stacklevel=4)
        if faults and not self._read_only:
            of_all_hosts(0)  # until the first of them has moved it
            self._manager.reload()


def copied(state: TrainState) -> dict[str, np.ndarray]:
    """The leaves of a state by name, on the host, whose buffers may then be donated; its step alone where another host writes."""
    fetched = jax.device_get({"step": state.step} if jax.process_index() else flat(state)[0])
    # Of an accelerator that is a copy already; a processor hands out the buffer itself.
    return {name: np.array(leaf) for name, leaf in fetched.items()} if jax.default_backend() == "cpu" else fetched


def flat(state: TrainState) -> tuple[dict[str, Any], Any]:
    """The state's leaves under names such as "ema.conv_in.kernel", and the tree they came from."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}, tree


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _part(name: str) -> str:
    return "average" if name.split(".")[0] == "ema" else "rest"


def _checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The CRC-32 of each array's bytes, by as many threads as there are cores."""

    def checksum(array: np.ndarray) -> int:
        return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    with concurrent.futures.ThreadPoolExecutor() as threads:
        return dict(zip(arrays, threads.map(checksum, arrays.values())))


def of_all_hosts(value: int) -> list[int]:
    """The value of each host, in their order; a host goes on only once all have come here."""
    return [int(each) for each in np.ravel(multihost_utils.process_allgather(np.array([value])))]
