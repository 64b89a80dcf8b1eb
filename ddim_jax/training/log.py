"""The record of a run: a JSON line, TensorBoard scalars and a progress bar, from the metrics of each call."""

import contextlib
import json
import pathlib
import time

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from ddim_jax.common.files import whole


class Log:
    """Averages metrics and writes them to `workdir`/metrics.jsonl and its TensorBoard folder. Use as a context.

    A resumed run starts at step `start` and drops what an earlier one logged beyond it. A process that is not `active`
    writes nothing.
    """

    def __init__(self, workdir: pathlib.Path, start: int, total: int, batch_size: int, active: bool):
        self.batch_size = batch_size
        self._bar = tqdm(initial=start, total=total, unit="step", disable=not active, dynamic_ncols=True)
        self._file = self._board = None
        self._sums, self._steps, self._clock = {}, 0, time.perf_counter()
        if active:
            path = workdir / "metrics.jsonl"
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
            with whole(path) as part:
                part.write_text("".join(kept))
            self._file = open(path, "a", buffering=1)
            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._bar.close()
        if self._file:
            self._file.close()
            self._board.close()

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Takes the metrics of one call, each [K]."""
        for name, values in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(np.sum(values, dtype=np.float64))
        self._steps += len(values)
        self._bar.update(len(values))

    def write(self, step: int) -> None:
        """Writes the means of all steps since the last time or the resumption, and the speed."""
        seconds = time.perf_counter() - self._clock
        record = {name: total / self._steps for name, total in self._sums.items()}
        record["steps_per_second"] = self._steps / seconds
        record["images_per_second"] = record["steps_per_second"] * self.batch_size
        self._bar.set_postfix_str(f"loss {record['loss']:.4f}, {record['images_per_second']:.0f} images/s")
        if self._file:
            self._file.write(json.dumps({"step": step, **record}) + "\n")
            for name, value in record.items():
                self._board.add_scalar(name, value, step)
        self._sums, self._steps, self._clock = {}, 0, time.perf_counter()

    @contextlib.contextmanager
    def untimed(self):
        """Keeps what is done within out of the reported speed."""
        began = time.perf_counter()
        yield
        self._clock += time.perf_counter() - began

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 [H, W, C], in TensorBoard."""
        if self._board:
            self._board.add_image(name, picture, step, dataformats="HWC")
