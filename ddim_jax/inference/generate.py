"""Drawing from a trained network: one compiled program, batches spread over the devices of this process."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ddim_jax.common.devices import LocalDevices
from ddim_jax.common.seeds import stream
from ddim_jax.diffusion import process, sampling
from ddim_jax.diffusion.schedule import Schedule
from ddim_jax.inference.adjusting import Build, plain
from ddim_jax.inference.processes import Process, gaussian
from ddim_jax.models.network import Condition, Network

STREAM = "sampling"  # of a seed's random keys, those that examples are drawn with
ROWS = 10  # of a table at once, where nothing is kept of them: so one program serves any number of steps


def example_keys(key: jax.Array, index: np.ndarray | jax.Array) -> jax.Array:
    """Of each example numbered `index` [B] two keys [B, 2], the latent's and the noise's, from the key of STREAM."""
    return jax.vmap(jax.random.split)(jax.vmap(jax.random.fold_in, (None, 0))(key, index))


def _nothing(step: Any) -> None:
    """A record of nothing."""


def _path(step: Any) -> tuple[jax.Array, jax.Array]:
    return step.x, step.x0


class Generator:
    """Runs step tables with a network.

    Parameters, tables and conditions are arguments of its compiled programs: others of the same shape compile nothing. `sample`
    takes tables in parts of ROWS, so that numbers of steps that ROWS divides share one program. A batch may hold any number of
    examples; whole batches of one size, which the devices divide, are compiled once.

    network:  see `models.network`.
    schedule: the one it was trained with.
    shape:    of an example: (H, W, C) of an image, () of a number, whatever x [B, ...] has after B.
    process:  its family, and what the network predicts; by default Gaussian noise and eps.
    build:    how the predictor to sample with is made of the network's; see `adjusting`.
    """

    def __init__(
        self,
        network: Network,
        schedule: Schedule,
        shape: tuple[int, ...],
        process: Process | None = None,
        build: Build = plain,
    ):
        self.network, self.schedule, self.shape = network, schedule, shape
        self.process = process or gaussian(schedule)
        self._devices = LocalDevices()
        self._build = build
        self._compiled = jax.jit(self._run, static_argnames=("record", "rows"))

    def _run(
        self,
        params: Any,
        condition: Condition,
        extra: Any,
        table: Any,
        carry: Any,
        keys: Any,
        first: Any,
        *,
        record: Any,
        rows: Any,
    ):
        def predict_for(condition: Condition) -> Callable:
            def network(x: jax.Array, step: jax.Array) -> jax.Array:
                return self.network.apply(params, x, step, condition, None)

            return self.process.predictor(process.number_from_zero(network))

        predict = self._build(predict_for, condition, extra)
        rows = None if rows is None else np.array(rows)
        return self.process.go_on(predict, table, carry, keys, record, rows, first)

    def latents(self, seed: int, index: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """x_T [B, ...] and random keys [B] of the examples numbered `index` [B] of a seed, alike in any batch.

        Raises ValueError for a seed that is not a whole number from 0 to 2**31 - 1.
        """
        keys = example_keys(stream(seed, STREAM), index)
        return self.process.noise(keys[:, 0], self.shape), keys[:, 1]

    def sample(
        self,
        params: Any,
        table: Any,
        x: jax.Array,
        keys: jax.Array | None = None,
        condition: Condition = {},
        extra: Mapping[str, Any] = {},
    ) -> jax.Array:
        """Takes x [B, ...] through the table: float32 [B, ...].

        params:    the network's.
        table:     of `process.solvers`, or `diffusion.solvers.encode`.
        x:         latents x_T, or data where the table encodes.
        keys:      random keys [B]; a table without noise needs none.
        condition: what the network is told, arrays [B, ...].
        extra:     what `build` takes besides, arrays [B, ...].

        Raises ValueError for a table that draws noise, without keys.
        """
        at_hand, carry, keys = self._placed(params, table, x, keys, condition, extra)
        for first in range(0, table.t.shape[0], ROWS):
            part = jax.tree.map(lambda column: column[first : first + ROWS], table)
            carry, _ = self._advance(at_hand, part, carry, keys, first, _nothing, None)
        return carry[0][: x.shape[0]]

    def trajectory(
        self,
        params: Any,
        table: Any,
        x: jax.Array,
        keys: jax.Array | None = None,
        condition: Condition = {},
        extra: Mapping[str, Any] = {},
    ) -> sampling.Trajectory:
        """As `sample`, with all that it passed through: x [S+1, B, ...] and x0 [S, B, ...]."""
        _, (xs, x0s) = self.record(params, table, x, keys, condition, extra, record=_path)
        return sampling.Trajectory(jax.numpy.concatenate([jax.numpy.asarray(x)[None], xs]), x0s)

    def record(
        self,
        params: Any,
        table: Any,
        x: jax.Array,
        keys: jax.Array | None = None,
        condition: Condition = {},
        extra: Mapping[str, Any] = {},
        *,
        record: Callable,
        rows: tuple[int, ...] | None = None,
    ) -> tuple[jax.Array, Any]:
        """As `sample`, with what `record(step)` keeps at some rows of the table: (x, a tree of arrays [R, B, ...]).

        record: from a `sampling.Step` to arrays [B, ...]; each function is compiled once.
        rows:   which rows of the table are kept, from 0, rising; None: all.
        """
        at_hand, carry, keys = self._placed(params, table, x, keys, condition, extra)
        (drawn, *_), records = self._advance(at_hand, table, carry, keys, 0, record, rows)
        return drawn[: x.shape[0]], jax.tree.map(lambda a: a[:, : x.shape[0]], records)

    def _placed(
        self, params: Any, table: Any, x: jax.Array, keys: jax.Array | None, condition: Condition, extra: Mapping[str, Any]
    ) -> tuple[tuple[Any, Any, Any], Any, jax.Array]:
        """((params, condition, extra), what the first row is given, keys) where the devices want them."""
        if keys is None:
            if np.any(table.noise != 0):
                raise ValueError(
                    "this table draws noise: give the keys that came with the latents, or a table without noise (eta = 0)"
                )
            keys = jax.random.split(jax.random.key(0), x.shape[0])  # never used: every noise weight is 0
        x, keys, condition, extra = self._devices.split((x, keys, dict(condition), dict(extra)))
        return (self._devices.everywhere(params), condition, extra), self.process.begin(table, x), keys

    def _advance(
        self, at_hand: Any, table: Any, carry: Any, keys: jax.Array, first: int, record: Callable, rows: tuple[int, ...] | None
    ) -> tuple[Any, Any]:
        """(what the next row is given, records) after these rows of a table, of which the first has the number `first`."""
        table, carry = self._devices.everywhere(table), self._devices.split(carry)
        return self._compiled(*at_hand, table, carry, keys, np.int32(first), record=record, rows=rows)

    def batches(
        self,
        params: Any,
        table: Any,
        seed: int,
        index: np.ndarray,
        batch_size: int,
        condition: Condition = {},
        extra: Mapping[str, Any] = {},
    ) -> Iterator[jax.Array]:
        """The examples numbered `index` [N] of a seed, decoded, one batch [<= batch_size, ...] after the other.

        params, table:    as in `sample`.
        seed, index:      as in `latents`.
        batch_size:       how many are drawn at once.
        condition, extra: arrays [N, ...].

        Raises FloatingPointError where what is drawn is not finite.
        """
        params = self._devices.everywhere(params)
        batch_size = min(batch_size, len(index))
        for first in range(0, len(index), batch_size):
            place = (first + np.arange(batch_size)) % len(index)  # the last batch is filled up, not compiled anew
            x, keys = self.latents(seed, index[place])
            rows, more = (jax.tree.map(lambda a: np.asarray(a)[place], dict(each)) for each in (condition, extra))
            drawn = self.process.decode(self.sample(params, table, x, keys, rows, more))[: len(index) - first]
            yield check_finite(drawn)


def check_finite(drawn: jax.Array) -> jax.Array:
    """What was drawn. Raises FloatingPointError where it is not finite, so that no picture of nothing is taken for one."""
    if not bool(jax.numpy.isfinite(drawn).all()):
        raise FloatingPointError(
            "what was drawn holds infinite numbers or NaN: is the guidance too strong, or is the network not a trained one?"
        )
    return drawn
