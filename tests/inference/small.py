"""A model that compiles in no time: eps = c x, with a number c for each class."""

import jax.numpy as jnp

from ddim_jax.diffusion import schedule
from ddim_jax.inference import processes
from ddim_jax.inference.model import Defaults, Model
from ddim_jax.models.network import Network

SHAPE, NUM_CLASSES = (4, 6, 1), 3
SCHEDULE = schedule.linear(100)
SCALES = jnp.array([0.2, 0.5, 0.9, 0.1])  # of the classes, and of an example whose class is not told


def apply(params, x, step, condition, key):
    label = condition.get("label", jnp.full(x.shape[0], NUM_CLASSES))
    return params[label][:, None, None, None] * x


def model(**changes):
    """Ten steps of DDIM, unless told otherwise."""
    parts = dict(
        network=Network(lambda key, example: SCALES, apply, {"label": NUM_CLASSES}),
        params=SCALES,
        schedule=SCHEDULE,
        shape=SHAPE,
        process=processes.gaussian(SCHEDULE),
        defaults=Defaults(10, "trailing", "ddim", {"eta": 0.0, "variance": "large"}),
        num_classes=NUM_CLASSES,
    )
    return Model(**(parts | changes))


def categorical():
    """Two categories, whose logits are x."""
    network = Network(lambda key, example: SCALES, lambda params, x, step, condition, key: x)
    return model(network=network, process=processes.categorical(2), defaults=Defaults(10, arguments={"eta": 0.0}), num_classes=0)
