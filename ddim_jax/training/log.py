"""The record of a run: JSON lines, TensorBoard's files, pictures, and a line or a bar for who watches."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from ddim_jax.common import files
from ddim_jax.data.images import save_png


class Log:
    """Averages metrics and writes them to `workdir`/metrics.jsonl and its TensorBoard folder. Use as a context.

    A resumed run starts at step `start` and drops what an earlier one logged beyond it; `begun` is what that one had `notes` of.
    A process that is not `active` writes nothing. Speed and time left do not count the first call, which compiles. The log has
    the share of `peak_rate`, in steps a second, as `mfu`.
    Objects in a bucket cannot be appended to: there the files are of a folder of this machine, which `publish` copies.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        start: int,
        total: int,
        batch_size: int,
        active: bool,
        peak_rate: float | None = None,
        begun: Mapping[str, Any] = {"steps": 0, "skipped": 0, "sums": {}},
    ):
        self.batch_size, self._workdir, self._total, self._step = batch_size, workdir, total, start
        self._peak_rate = peak_rate
        self._file = self._board = self._bar = self._temporary = None
        self._sums: dict[str, float] = dict(begun["sums"])
        self._steps, self._skipped, self._timed_steps = begun["steps"], begun["skipped"], 0
        self._seconds: dict[str, float] = {}
        self._clock: float | None = None  # None until the first call is over
        self._shows_bar = active and sys.stderr.isatty()
        self._shows_lines = active and not self._shows_bar  # a file or pipe would fill with frames of the bar
        if active:
            place = workdir
            if files.in_bucket(workdir):
                self._temporary = tempfile.TemporaryDirectory()
                place = pathlib.Path(self._temporary.name)
                for before in workdir.glob("metrics*.jsonl"):
                    (place / before.name).write_bytes(before.read_bytes())
            _drop_beyond(start, place / "metrics.jsonl")
            self._file = open(place / "metrics.jsonl", "a", buffering=1)
            from tensorboardX import SummaryWriter  # which imports PyTorch where that is installed

            self._board = SummaryWriter(str(place / "tensorboard"), purge_step=start + 1)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._file and self._board:
            self._file.close()
            self._board.close()
        self.publish()
        if self._temporary:
            self._temporary.cleanup()

    def publish(self) -> None:
        """Copies the files to the bucket: to be called before a checkpoint is saved, so that no record before it can be lost."""
        if self._temporary and self._board:
            self._board.flush()
            place = pathlib.Path(self._temporary.name)
            for file in place.rglob("*.*"):
                files.put(file, self._workdir / file.relative_to(place))

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics of one call, each [K]. A step at which one is not finite counts as skipped."""
        count = max(map(len, metrics.values()))
        finite = np.all([np.isfinite(values) for values in metrics.values()], axis=0)
        for name, values in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(np.sum(values[finite], dtype=np.float64))
        self._steps += count
        self._skipped += count - int(np.sum(finite))
        self._step += count
        if self._clock is None:
            self._clock = time.perf_counter()
            if self._shows_bar:
                self._bar = tqdm(initial=self._step, total=self._total, unit="step", dynamic_ncols=True)
            return
        self._timed_steps += count
        if self._bar is not None:
            self._bar.update(count)

    def notes(self) -> dict[str, Any]:
        """What has been added since the last time it was written, as JSON has it: the run that goes on from here `begun` with."""
        return {"steps": self._steps, "skipped": self._skipped, "sums": dict(self._sums)}

    def write(self, step: int, more: Mapping[str, float]) -> None:
        """Writes the means of all steps since the last time that were not skipped, the speed, and what else is given."""
        seconds = time.perf_counter() - self._clock if self._clock is not None else 0.0
        told = max(self._steps - self._skipped, 1)
        record = {name: total / told for name, total in self._sums.items()} | dict(more) | self._seconds
        if self._skipped:
            record["skipped_steps"] = self._skipped
        if self._timed_steps:
            record["steps_per_second"] = self._timed_steps / seconds
            record["images_per_second"] = record["steps_per_second"] * self.batch_size
            if self._peak_rate:
                record["mfu"] = record["steps_per_second"] / self._peak_rate
        self._write(step, record)
        said = f"loss {record['loss']:.4f}"
        if self._timed_steps:
            said += f", {record['images_per_second']:.0f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(said)
        if self._shows_lines:
            left = (self._total - step) / record["steps_per_second"] if self._timed_steps else None
            end = "" if left is None else f", {tqdm.format_interval(left)} left"
            print(f"step {step} of {self._total}: {said}{end}", file=sys.stderr, flush=True)
        self._sums, self._seconds = {}, {}
        self._steps, self._skipped, self._timed_steps, self._clock = 0, 0, 0, time.perf_counter()

    def write_results(self, step: int, results: Mapping[str, float | np.ndarray]) -> None:
        """Writes what a hook found: numbers into the log, pictures uint8 [H, W, C] as `workdir`/NAME/step_N.png too."""
        numbers = {name: float(value) for name, value in results.items() if np.ndim(value) == 0}
        if numbers:
            self._write(step, numbers)
        for name, picture in results.items():
            if name not in numbers and self._board:
                save_png(self._workdir / name / f"step_{step:07d}.png", np.asarray(picture))
                self._board.add_image(name, picture, step, dataformats="HWC")
        self.publish()  # its step's checkpoint is there already, and a run that goes on from it does not draw again

    def _write(self, step: int, record: Mapping[str, float]) -> None:
        if self._file and self._board:
            self._file.write(json.dumps({"step": step, **record}) + "\n")
            for name, value in record.items():
                self._board.add_scalar(name, value, step)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds what is done within to the seconds of this name in the next record."""
        began = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """Keeps what is done within out of the reported speed."""
        began = time.perf_counter()
        yield
        if self._clock is not None:
            self._clock += time.perf_counter() - began


def _drop_beyond(start: int, path: pathlib.Path) -> None:
    """Leaves the lines of steps up to `start`. What is no line of a log is set aside in a file of its own, and said."""
    kept, damaged = [], []
    for line in io.BytesIO(path.read_bytes() if path.exists() else b""):
        step = _step_of(line)
        if not line.endswith(b"\n"):
            break  # the last, not written to its end: what a killed process leaves
        if step is None:
            damaged.append(line)
        elif step <= start:
            kept.append(line)
    if damaged:
        aside = path.with_stem("metrics_damaged")
        with aside.open("ab") as file:
            file.writelines(damaged)
        warnings.warn(
            f"{path.name} has {len(damaged)} lines that are no records: they are set aside in {aside.name}", stacklevel=3
        )
    with files.whole(path) as part:
        part.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> int | None:
    """The step that a line of the log is of; None for what is no such line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None
