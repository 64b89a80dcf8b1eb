"""Pictures of what a trained network does: arrays of images uint8 [..., H, W, C], ready for `data.images.grid`."""

from typing import Any, Callable

import jax
import ml_collections
import numpy as np

from ddim_jax.data.images import grid, to_float, to_uint8
from ddim_jax.diffusion import sampling, solvers
from ddim_jax.diffusion.solvers import StepTable
from ddim_jax.inference.generate import Generator, make


def training_grid(config: ml_collections.ConfigDict) -> Callable[[Any], np.ndarray]:
    """A function of parameters that draws what config.sampling asks for, always from the same latents: a grid [H', W', C]."""
    (generator, make_table), how = make(config), config.sampling
    table = make_table(generator.schedule, generator.tau(how.steps, how.spacing), how.eta)
    label = {"label": np.arange(how.count) % config.model.num_classes} if config.model.num_classes else {}

    def draw(params):
        return grid(np.concatenate(list(generator.batches(params, table, config.training.seed, how.count, how.count, label))))

    return draw


def chain(generator: Generator, params: Any, table: StepTable, seed: int, count: int, stages: int, given=None) -> np.ndarray:
    """How `count` images come to be: x_0 as predicted at `stages` evenly spaced steps, the last one the image itself.

    Returns uint8 [count, stages, H, W, C].
    """
    x0 = generator.trajectory(params, table, *generator.latents(seed, np.arange(count)), given).x0
    shown = np.linspace(0, len(x0) - 1, min(stages, len(x0))).round().astype(int)
    return np.asarray(to_uint8(x0[shown].swapaxes(0, 1)))


def interpolation(generator: Generator, params: Any, table: StepTable, seed: int, num: int, rows: int, given=None) -> np.ndarray:
    """Lines of `num` images between pairs of latents (Figure 6): uint8 [rows, num, H, W, C]. Needs a deterministic table.

    `given` holds arrays [rows, ...], of which a line has one row.
    """
    x, _ = generator.latents(seed, np.arange(2 * rows))
    latents = jax.vmap(lambda pair: sampling.interpolate(pair[0], pair[1], num))(x.reshape(rows, 2, *x.shape[1:]))
    return _decode(generator, params, table, latents, jax.tree.map(lambda a: np.repeat(a, num, axis=0), given))


def interpolation_grid(generator: Generator, params: Any, table: StepTable, seed: int, num: int, given=None) -> np.ndarray:
    """A square of images between four latents (appendix D.5): uint8 [num, num, H, W, C]. Needs a deterministic table.

    `given` holds arrays [1 or more, ...], of which all have the first row.
    """
    x, _ = generator.latents(seed, np.arange(4))
    latents = sampling.interpolate_grid(x.reshape(2, 2, *x.shape[1:]), num)
    return _decode(generator, params, table, latents, jax.tree.map(lambda a: np.repeat(a[:1], num**2, axis=0), given))


def reconstruction(generator: Generator, params: Any, tau: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Images uint8 [B, H, W, C] encoded to latents and decoded again over tau (section 5.4): uint8 [B, H, W, C]."""
    latents = generator.sample(params, solvers.encode(generator.schedule, tau), to_float(images))
    return np.asarray(to_uint8(generator.sample(params, solvers.ddim(generator.schedule, tau), latents)))


def inpainting(generator: Generator, params: Any, table: StepTable, seed: int, images: np.ndarray, mask: np.ndarray):
    """Images uint8 [B, H, W, C] painted anew where mask [H, W, 1] is 0: uint8 [B, H, W, C]. The generator's are `guided`."""
    given = {"known": to_float(images), "mask": np.broadcast_to(mask, (len(images), *mask.shape)).astype(np.float32)}
    return np.asarray(to_uint8(generator.sample(params, table, *generator.latents(seed, np.arange(len(images))), given)))


def _decode(generator: Generator, params: Any, table: StepTable, latents: jax.Array, given) -> np.ndarray:
    flat = latents.reshape(-1, *generator.image_shape)
    return np.asarray(to_uint8(generator.sample(params, table, flat, given=given))).reshape(latents.shape)
