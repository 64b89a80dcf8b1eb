"""Networks with random weights, to export."""

import jax
import numpy as np

from configs import cifar10
from ddim_jax import configuration, weights
from ddim_jax.inference.model import Model


def random_weights(image_size=(8, 8), colours=3, diffusion={}, sampling={}, degrade="", **options) -> weights.Weights:
    """A small network of ours, no parameter 0, of a size that keeps activations near 1; `options` are of config.model."""
    config = cifar10.get_config()
    config.data.update(image_size=image_size, channels=colours, degrade=degrade)
    config.model.update(channels=32, multipliers=(1, 2), num_blocks=1, attention_sides=(4,))
    config.model.update(options)
    config.diffusion.update(diffusion)
    config.sampling.update(sampling)
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 0.3 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jax.numpy.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)

    return weights.Weights(config, jax.tree.map(draw, configuration.parameter_shapes(config)))


def model_of(found: weights.Weights) -> Model:
    return configuration.make_model(found.config, found.params, "float32")
