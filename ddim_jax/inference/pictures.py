"""Pictures of what a trained network does: arrays of images uint8 [..., H, W, C], ready for `data.images.grid`.

No more than `batch_size` images are drawn at once. `given` is a dict of arrays [count, ...], a row for each image; see `Generator`.
"""

from typing import Any, Callable

import jax
import ml_collections
import numpy as np

from ddim_jax import configuration
from ddim_jax.data.images import grid, to_float, to_uint8
from ddim_jax.diffusion import discrete, sampling, solvers
from ddim_jax.diffusion.solvers import StepTable
from ddim_jax.inference.generate import CategoricalGenerator, Generator
from ddim_jax.inference.guided import guided


def training_grid(config: ml_collections.ConfigDict) -> Callable[[Any], np.ndarray]:
    """A function of parameters that draws what config.sampling asks for, always from the same latents: a grid [H', W', C]."""
    how, noise_schedule = config.sampling, configuration.make_schedule(config)
    if config.diffusion.categories:
        generator, make_table = CategoricalGenerator(config), discrete.table
    else:
        generator, make_table = Generator(config, guided(noise_schedule, clip=how.clip)), solvers.ddim
    table = make_table(noise_schedule, generator.tau(how.steps, how.spacing), how.eta)
    label = {"label": np.arange(how.count) % config.model.num_classes} if config.model.num_classes else {}

    def draw(params):
        return grid(np.concatenate(list(generator.batches(params, table, config.training.seed, how.count, how.count, label))))

    return draw


def chain(
    generator: Generator, params: Any, table: StepTable, seed: int, count: int, stages: int, given=None, batch_size: int = 256
) -> np.ndarray:
    """How `count` images come to be: x_0 as predicted at `stages` evenly spaced steps, the last one included.

    Returns uint8 [count, stages, H, W, C].
    """
    shown = np.linspace(0, len(table.t) - 1, min(stages, len(table.t))).round().astype(int)

    def draw(index, given):
        x0 = generator.trajectory(params, table, *generator.latents(seed, index), given).x0
        return x0[shown].swapaxes(0, 1)

    return _in_batches(draw, batch_size, np.arange(count), given)


def interpolation(
    generator: Generator, params: Any, table: StepTable, seed: int, num: int, rows: int, given=None, batch_size: int = 256
) -> np.ndarray:
    """Lines of `num` images between pairs of latents (Figure 6): uint8 [rows, num, H, W, C]. Needs a deterministic table.

    `given` holds arrays [rows, ...], of which a line has one row.
    """
    x, _ = generator.latents(seed, np.arange(2 * rows))
    latents = jax.vmap(lambda pair: sampling.interpolate(pair[0], pair[1], num))(x.reshape(rows, 2, *x.shape[1:]))
    return _decode(generator, params, table, latents, jax.tree.map(lambda a: np.repeat(a, num, axis=0), given), batch_size)


def interpolation_grid(
    generator: Generator, params: Any, table: StepTable, seed: int, num: int, given=None, batch_size: int = 256
) -> np.ndarray:
    """A square of images between four latents (appendix D.5): uint8 [num, num, H, W, C]. Needs a deterministic table.

    `given` holds arrays [1 or more, ...], of which all have the first row.
    """
    x, _ = generator.latents(seed, np.arange(4))
    latents = sampling.interpolate_grid(x.reshape(2, 2, *x.shape[1:]), num)
    given = jax.tree.map(lambda a: np.repeat(a[:1], num**2, axis=0), given)
    return _decode(generator, params, table, latents, given, batch_size)


def reconstruction(
    generator: Generator, params: Any, tau: np.ndarray, images: np.ndarray, given=None, batch_size: int = 256
) -> np.ndarray:
    """Images uint8 [B, H, W, C] encoded to latents and decoded again over tau, by DDIM (section 5.4): uint8 [B, H, W, C]."""
    up, down = solvers.encode(generator.schedule, tau), solvers.ddim(generator.schedule, tau)

    def draw(images, given):
        latents = generator.sample(params, up, to_float(images), given=given)
        return generator.sample(params, down, latents, given=given)

    return _in_batches(draw, batch_size, images, given)


def inpainting(
    generator: Generator, params: Any, table: StepTable, seed: int, images: np.ndarray, mask: np.ndarray, given=None,
    batch_size: int = 256,
) -> np.ndarray:  # fmt: skip
    """Images uint8 [B, H, W, C] painted anew where mask [H, W, 1] is 0: uint8 [B, H, W, C]. The generator's are `guided`."""

    def draw(index, images, given):
        known = {"known": to_float(images), "mask": np.broadcast_to(mask, (len(images), *mask.shape)).astype(np.float32)}
        return generator.sample(params, table, *generator.latents(seed, index), {**(given or {}), **known})

    return _in_batches(draw, batch_size, np.arange(len(images)), images, given)


def _decode(generator: Generator, params: Any, table: StepTable, latents: jax.Array, given, batch_size: int) -> np.ndarray:
    def draw(x, given):
        return generator.sample(params, table, x, given=given)

    return _in_batches(draw, batch_size, latents.reshape(-1, *generator.image_shape), given).reshape(latents.shape)


def _in_batches(draw: Callable, batch_size: int, *rows) -> np.ndarray:
    """draw(*rows) as uint8, for batch_size of the rows at a time."""
    firsts = range(0, len(jax.tree.leaves(rows)[0]), batch_size)
    return np.concatenate(
        [np.asarray(to_uint8(draw(*jax.tree.map(lambda a: a[first : first + batch_size], rows)))) for first in firsts]
    )
