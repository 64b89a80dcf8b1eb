"""From examples as a source gives them to what the objective sees, on the device: x_0, and what the network is told of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddim_jax.data.images import to_float
from ddim_jax.models.network import Example


def images(
    examples: Any, keys: jax.Array, *, flip: bool = False, degrade: Callable[[jax.Array], jax.Array] | None = None
) -> Example:
    """Images uint8 [B, H, W, C] as x_0 in [-1, 1], mirrored left to right with probability 1/2 where `flip` is set.

    examples: the images, or a dict of "image" [B, H, W, C] and conditions such as "label" [B].
    keys:     [B], one for each example.
    flip:     whether to mirror.
    degrade:  from x_0 to an image that the network is told, under the name "image"; see `data.degrading`.
    """
    given = dict(examples) if isinstance(examples, dict) else {"image": examples}
    x0 = to_float(given.pop("image"))
    if flip:
        mirrored = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5))(keys)
        x0 = jnp.where(mirrored[:, None, None, None], x0[:, :, ::-1], x0)
    return Example(x0, given | ({"image": degrade(x0)} if degrade else {}))
