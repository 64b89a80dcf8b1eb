"""What a trained network does, to be looked at: arrays of decoded examples [..., H, W, C], ready for `data.images.grid`.

No more than `batch_size` examples are drawn at once. Conditions are dicts of arrays with one row an example; see `Generator`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddim_jax.data.images import grid, to_uint8
from ddim_jax.diffusion import sampling, solvers
from ddim_jax.diffusion.solvers import StepTable
from ddim_jax.inference.generate import Generator, check_finite
from ddim_jax.models.network import Condition

Extra = Mapping[str, Any]  # what `Adjustment.build` takes besides the condition, arrays with one row an example


def sample_grid(
    generator: Generator, table: Any, seed: int, count: int, condition: Condition = {}
) -> Callable[[Any], dict[str, np.ndarray]]:
    """For a `training.task.Hook`: parameters -> {"samples": a grid of images}, always from the same latents.

    generator, table, seed: of `Generator.batches`.
    count:                  how many images; hosts share them.
    condition:              arrays [count, ...].
    """

    def run(params: Any) -> dict[str, np.ndarray]:
        shares = np.array_split(np.arange(count), jax.process_count())
        mine = shares[jax.process_index()]
        index = np.resize(mine, max(map(len, shares))) if len(mine) else np.zeros(len(shares[0]), int)  # alike on all hosts
        rows = {name: np.asarray(values)[index] for name, values in condition.items()}
        drawn = np.concatenate([to_uint8(x) for x in generator.batches(params, table, seed, index, len(index), rows)])
        gathered = np.asarray(multihost_utils.process_allgather(drawn)).reshape(jax.process_count(), *drawn.shape)
        images = np.concatenate([share[: len(chosen)] for share, chosen in zip(gathered, shares)])
        return {"samples": grid(images)}

    return run


def _x0(step: Any) -> jax.Array:
    return step.x0


def chain(
    generator: Generator,
    params: Any,
    table: Any,
    seed: int,
    count: int,
    stages: int,
    condition: Condition = {},
    extra: Extra = {},
    batch_size: int = 256,
) -> np.ndarray:
    """How `count` examples come to be: x_0 as predicted at `stages` evenly spaced steps, the last one included.

    generator, params, table, seed: as in `Generator.batches`.
    count:                          how many examples.
    stages:                         how many predictions of each; fewer where the table has fewer rows.
    condition, extra:               arrays [count, ...].
    batch_size:                     how many are drawn at once.

    Returns float32 [count, stages, ...].
    """
    rows = tuple(np.linspace(0, len(table.t) - 1, min(stages, len(table.t))).round().astype(int).tolist())

    def draw(index: np.ndarray, condition: Condition, extra: Extra) -> jax.Array:
        _, x0 = generator.record(params, table, *generator.latents(seed, index), condition, extra, record=_x0, rows=rows)
        return jax.vmap(generator.process.decode)(x0).swapaxes(0, 1)

    return in_batches(draw, batch_size, np.arange(count), dict(condition), dict(extra))


def interpolation(
    generator: Generator,
    params: Any,
    table: StepTable,
    pairs: jax.Array,
    num: int,
    condition: Condition = {},
    extra: Extra = {},
    batch_size: int = 256,
) -> np.ndarray:
    """Lines of `num` examples between pairs of latents (Figure 6). Needs a deterministic table.

    generator, params, table: as in `Generator.sample`.
    pairs:                    latents [rows, 2, ...].
    num:                      how many examples a line, its ends included.
    condition, extra:         arrays [rows, ...], of which a line has one row.
    batch_size:               how many are drawn at once.

    Returns float32 [rows, num, ...].
    """
    latents = jax.vmap(lambda pair: sampling.interpolate(pair[0], pair[1], num))(pairs)
    rows, more = jax.tree.map(lambda values: np.repeat(values, num, axis=0), (dict(condition), dict(extra)))
    return decode(generator, params, table, latents, rows, more, batch_size)


def interpolation_grid(
    generator: Generator,
    params: Any,
    table: StepTable,
    corners: jax.Array,
    num: int,
    condition: Condition = {},
    extra: Extra = {},
    batch_size: int = 256,
) -> np.ndarray:
    """A square of examples between four latents (appendix D.5). Needs a deterministic table.

    generator, params, table: as in `Generator.sample`.
    corners:                  latents [2 (top, bottom), 2 (left, right), ...].
    num:                      how many examples a side.
    condition, extra:         arrays [1 or more, ...], of whose first row all are told.
    batch_size:               how many are drawn at once.

    Returns float32 [num, num, ...].
    """
    latents = sampling.interpolate_grid(corners, num)
    rows, more = jax.tree.map(lambda values: np.repeat(values[:1], num**2, axis=0), (dict(condition), dict(extra)))
    return decode(generator, params, table, latents, rows, more, batch_size)


def encode(
    generator: Generator,
    params: Any,
    tau: np.ndarray,
    x0: jax.Array | np.ndarray,
    condition: Condition = {},
    extra: Extra = {},
    batch_size: int = 256,
) -> np.ndarray:
    """Latents x_T float32 [B, ...] of data x0 [B, ...], by DDIM upwards (section 4.3).

    generator, params: as in `Generator.sample`.
    tau:               the steps [S+1], from 0.
    x0:                data, in the range that the network was trained on: [-1, 1] for images.
    condition, extra:  arrays [B, ...].
    batch_size:        how many are encoded at once.
    """
    return decode(generator, params, solvers.encode(generator.schedule, tau), x0, condition, extra, batch_size)


def reconstruction(
    generator: Generator,
    params: Any,
    tau: np.ndarray,
    x0: jax.Array | np.ndarray,
    condition: Condition = {},
    extra: Extra = {},
    batch_size: int = 256,
) -> np.ndarray:
    """Data encoded to latents and decoded again over the same tau, by DDIM (section 5.4); arguments as of `encode`."""
    latents = encode(generator, params, tau, x0, condition, extra, batch_size)
    return decode(generator, params, solvers.ddim(generator.schedule, tau), latents, condition, extra, batch_size)


def inpainting(
    generator: Generator,
    params: Any,
    table: StepTable,
    seed: int,
    x0: jax.Array | np.ndarray,
    mask: np.ndarray,
    condition: Condition = {},
    extra: Extra = {},
    batch_size: int = 256,
) -> np.ndarray:
    """Images painted anew where a mask is 0. The generator is one of `Adjustment.build`.

    generator, params, table, seed: as in `Generator.batches`.
    x0:                             images [B, H, W, C] in [-1, 1].
    mask:                           [H, W, 1], 1 where they are kept.
    condition, extra:               arrays [B, ...].
    batch_size:                     how many are painted at once.

    Returns float32 [B, H, W, C].
    """

    def draw(index: np.ndarray, x0: jax.Array, condition: Condition, extra: Extra) -> jax.Array:
        masks = np.broadcast_to(mask, (len(index), *mask.shape)).astype(np.float32)
        known = {"known": x0, "mask": masks, **extra}
        return generator.sample(params, table, *generator.latents(seed, index), condition, known)

    return in_batches(draw, batch_size, np.arange(len(x0)), x0, dict(condition), dict(extra))


def decode(
    generator: Generator,
    params: Any,
    table: StepTable,
    latents: jax.Array | np.ndarray,
    condition: Condition = {},
    extra: Extra = {},
    batch_size: int = 256,
) -> np.ndarray:
    """Latents [..., *shape] through a deterministic table: float32 of that shape; N conditions [N, ...] in their order."""

    def draw(x: jax.Array, condition: Condition, extra: Extra) -> jax.Array:
        return generator.sample(params, table, x, None, condition, extra)

    flat = np.asarray(latents).reshape(-1, *generator.shape)
    return in_batches(draw, batch_size, flat, dict(condition), dict(extra)).reshape(np.shape(latents))


def in_batches(draw: Callable[..., jax.Array], batch_size: int, *rows: Any) -> np.ndarray:
    """draw(*rows), for batch_size of the rows at a time. Raises FloatingPointError where it is not finite."""
    firsts = range(0, jax.tree.leaves(rows)[0].shape[0], batch_size)
    parts = (jax.tree.map(lambda a: a[first : first + batch_size], rows) for first in firsts)
    return np.concatenate([np.asarray(check_finite(draw(*part))) for part in parts])
