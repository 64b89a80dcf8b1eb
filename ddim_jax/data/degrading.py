"""What a network that restores images is told of them: pure functions of float images [..., H, W, C] in [-1, 1].

A new one joins DEGRADATIONS.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def half_size(x: jax.Array) -> jax.Array:
    """The image at half its size, for super-resolution: means of 2x2 pixels, each repeated to fill [..., H, W, C] again.

    Raises ValueError for an odd height or width.
    """
    *batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"half_size expects even heights and widths; these images are {width} wide and {height} high")
    means = x.reshape(*batch, height // 2, 2, width // 2, 2, channels).mean((-4, -2))
    return means.repeat(2, axis=-3).repeat(2, axis=-2)


def grey(x: jax.Array) -> jax.Array:
    """The image without colours, for colourisation: the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, [..., H, W, 1].

    Raises ValueError where C is not 3.
    """
    if x.shape[-1] != 3:
        raise ValueError(f"grey expects images of 3 channels (red, green, blue); these have {x.shape[-1]}")
    red, green, blue = jnp.split(x, 3, axis=-1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


DEGRADATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"half_size": half_size, "grey": grey}


def channels(name: str, channels: int) -> int:
    """How many channels DEGRADATIONS[name] makes of images of `channels`.

    Raises ValueError for an unknown name, and for channels that it does not take.
    """
    if name not in DEGRADATIONS:
        raise ValueError(f"there is no degradation {name!r}; expected one of {', '.join(DEGRADATIONS)}")
    return jax.eval_shape(DEGRADATIONS[name], jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)).shape[-1]
