"""Drawing images from a trained network: one compiled program, batches spread over the devices of this process."""

from typing import Any, Iterator

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddim_jax import configuration
from ddim_jax.data.images import to_uint8
from ddim_jax.diffusion import process, sampling
from ddim_jax.diffusion.solvers import StepTable


class Generator:
    """Runs step tables with the network that a configuration describes.

    Parameters and tables are arguments of its compiled programs: another table of the same shape compiles nothing. With
    `clip`, every predicted x_0 is clipped to [-1, 1]. A batch may hold any number of images; whole batches of one size,
    which the devices divide, are compiled once.
    """

    def __init__(self, config: ml_collections.ConfigDict, clip: bool = False):
        self.schedule = configuration.make_schedule(config)
        self.image_shape = configuration.image_shape(config)
        unet = configuration.make_unet(config)
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        self._split = NamedSharding(mesh, PartitionSpec("batch"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())

        def predictor(params):
            eps_fn = process.number_from_zero(lambda x, step: unet.apply({"params": params}, x, step))
            predict = process.from_eps(self.schedule, eps_fn)
            return process.clip_x0(self.schedule, predict) if clip else predict

        self._sample = jax.jit(lambda params, *args: sampling.sample(predictor(params), *args))
        self._trajectory = jax.jit(lambda params, *args: sampling.trajectory(predictor(params), *args))

    def latents(self, seed: int, index: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """x_T [B, H, W, C] and random keys [B] of the images numbered `index` [B] of a seed, alike in any batch."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), index)
        keys = jax.vmap(jax.random.split)(keys)
        return jax.vmap(lambda key: jax.random.normal(key, self.image_shape))(keys[:, 0]), keys[:, 1]

    def sample(self, params: Any, table: StepTable, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Takes x [B, H, W, C] through the table: float32 [B, H, W, C]. A deterministic table needs no keys [B]."""
        return self._sample(*self._place(params, table, x, keys))[: len(x)]

    def trajectory(self, params: Any, table: StepTable, x: jax.Array, keys: jax.Array | None = None) -> sampling.Trajectory:
        """As `sample`, with all that it passed through: x [S+1, B, ...] and the predicted x_0 [S, B, ...]."""
        return jax.tree.map(lambda a: a[:, : len(x)], self._trajectory(*self._place(params, table, x, keys)))

    def _place(self, params, table, x, keys):
        if keys is None:
            if np.any(table.noise != 0):
                raise ValueError(
                    "this table draws noise: give the keys that came with the latents, or a table without noise (eta = 0)"
                )
            keys = jax.random.split(jax.random.key(0), len(x))  # never used: every noise weight is 0
        even = np.arange(len(x) + -len(x) % self._split.num_devices) % len(x)  # repeats a few until the devices divide them
        x, keys = x[even], keys[even]
        return (*jax.device_put((params, table), self._everywhere), *jax.device_put((x, keys), self._split))

    def batches(self, params: Any, table: StepTable, seed: int, count: int, batch_size: int) -> Iterator[np.ndarray]:
        """The images 0 .. count-1 of a seed as uint8 [<= batch_size, H, W, C], one batch after the other."""
        params = jax.device_put(params, self._everywhere)
        for first in range(0, count, batch_size):
            x, keys = self.latents(seed, first + np.arange(batch_size))  # the last batch is cut, not compiled anew
            yield np.asarray(to_uint8(self.sample(params, table, x, keys)))[: count - first]
