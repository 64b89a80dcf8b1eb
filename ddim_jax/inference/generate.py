"""Drawing images from a trained network: one compiled program, batches spread over the devices of this process."""

from typing import Any, Callable, Iterator

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddim_jax import configuration
from ddim_jax.data.images import to_uint8
from ddim_jax.diffusion import discrete, process, sampling, schedule
from ddim_jax.diffusion.process import Predict
from ddim_jax.diffusion.solvers import StepTable

PredictFor = Callable[[jax.Array | None], Predict]  # (label [B], or None) -> predictor


def plain(predict_for: PredictFor, given: dict) -> Predict:
    """The predictor of the network alone, for the labels given["label"] [B] where there are some."""
    return predict_for(given.get("label"))


class Generator:
    """Runs step tables with the network that a configuration describes.

    Parameters, tables and `given` are arguments of its compiled programs: others of the same shape compile nothing. `given`
    is a dict of arrays [B, ...], one row for each image (its label, say), from which `build` (predict_for, given) makes the
    predictor to sample with; see `guided`. A batch may hold any number of images; whole batches of one size, which the
    devices divide, are compiled once.
    """

    def __init__(self, config: ml_collections.ConfigDict, build: Callable[[PredictFor, dict], Predict] = plain):
        self.schedule = configuration.make_schedule(config)
        self.image_shape = configuration.image_shape(config)
        unet = configuration.make_unet(config)
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        self._split = NamedSharding(mesh, PartitionSpec("batch"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())

        def network_for(params, label):
            label = label if config.model.num_classes else None  # which a classifier may know alone
            return process.number_from_zero(lambda x, step: unet.apply({"params": params}, x, step, label))

        def predictor(params, given):
            return build(lambda label: configuration.make_predictor(config, network_for(params, label)), given)

        self._network_for = network_for
        self._sample = jax.jit(lambda params, given, *args: sampling.sample(predictor(params, given), *args))
        self._trajectory = jax.jit(lambda params, given, *args: sampling.trajectory(predictor(params, given), *args))

    def tau(self, steps: int, spacing: str) -> np.ndarray:
        """The sub-sequence of steps [S+1]; a spacing of `schedule.SPACINGS`, or 'logsnr'."""
        if spacing == "logsnr":
            return schedule.log_snr_subsequence(self.schedule, steps)
        return schedule.subsequence(self.schedule.num_steps, steps, spacing)

    def latents(self, seed: int, index: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """x_T [B, ...] and random keys [B] of the images numbered `index` [B] of a seed, alike in any batch."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), index)
        keys = jax.vmap(jax.random.split)(keys)
        return self._noise(keys[:, 0]), keys[:, 1]

    def _noise(self, keys):
        return jax.vmap(lambda key: jax.random.normal(key, self.image_shape))(keys)

    def sample(self, params: Any, table: StepTable, x: jax.Array, keys=None, given: dict | None = None) -> jax.Array:
        """Takes x [B, H, W, C] through the table: float32 [B, H, W, C]. A deterministic table needs no keys [B]."""
        return self._sample(*self._place(params, table, x, keys, given))[: len(x)]

    def trajectory(self, params: Any, table: StepTable, x: jax.Array, keys=None, given: dict | None = None):
        """As `sample`, with all that it passed through: a `sampling.Trajectory` of x [S+1, B, ...] and x0 [S, B, ...]."""
        return jax.tree.map(lambda a: a[:, : len(x)], self._trajectory(*self._place(params, table, x, keys, given)))

    def _place(self, params, table, x, keys, given):
        if keys is None:
            if np.any(table.noise != 0):
                raise ValueError(
                    "this table draws noise: give the keys that came with the latents, or a table without noise (eta = 0)"
                )
            keys = jax.random.split(jax.random.key(0), len(x))  # never used: every noise weight is 0
        even = np.arange(len(x) + -len(x) % self._split.num_devices) % len(x)  # repeats a few until the devices divide them
        x, keys, given = jax.tree.map(lambda a: a[even], (x, keys, given or {}))
        (params, table), (x, keys, given) = (
            jax.device_put((params, table), self._everywhere),
            jax.device_put((x, keys, given), self._split),
        )
        return params, given, table, x, keys

    def batches(
        self, params: Any, table: StepTable, seed: int, count: int, batch_size: int, given: dict | None = None
    ) -> Iterator[np.ndarray]:
        """The images 0 .. count-1 of a seed as uint8 [<= batch_size, H, W, C], one batch after the other.

        `given` holds arrays [count, ...].
        """
        params = jax.device_put(params, self._everywhere)
        for first in range(0, count, batch_size):
            index = first + np.arange(batch_size)  # the last batch is cut, not compiled anew
            x, keys = self.latents(seed, index)
            rows = jax.tree.map(lambda a: np.asarray(a)[index % count], given)
            yield np.asarray(to_uint8(self._decoded(self.sample(params, table, x, keys, rows))))[: count - first]

    def _decoded(self, x):
        return x


class CategoricalGenerator(Generator):
    """The same over categories (appendix A): x is one-hot [B, H, W, C, K], and tables are those of `discrete.table`."""

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.categories = config.diffusion.categories

        def run(params, given, table, x, keys):
            logits = configuration.by_category(self._network_for(params, given.get("label")))
            return discrete.sample(lambda x, t: jax.nn.softmax(logits(x, t)), table, x, keys)

        self._sample = jax.jit(run)

    def _noise(self, keys):
        return discrete.noise(keys, self.image_shape, self.categories)

    def _decoded(self, x):
        return discrete.to_values(x)
