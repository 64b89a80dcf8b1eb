"""The convolution of the U-Net: the values of `jax.lax.conv_general_dilated`, with a gradient that CPUs compute faster.

For CPUs XLA writes the gradient with respect to the kernel as a convolution whose kernel is as large as the image: it takes three
times as long as the convolution itself. The same sum is one matrix product for each tap (each place in the kernel).
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LARGE = 128  # positions of an image; below that little is gained, and compiling takes longer
Padding = Sequence[tuple[int, int]]


def convolve(x: jax.Array, kernel: jax.Array, window_strides: Sequence[int], padding: str | Padding, **how: Any) -> jax.Array:
    """The convolution of images x [B, H, W, C] with a kernel [h, w, C, D], as `flax.linen.Conv` asks for it: [B, H', W', D].

    padding: "SAME", or pixels (before, after) of either side.
    how:     the rest of what Flax hands over; every dilation and the number of groups must be 1.

    Raises ValueError for others.
    """
    others = (*(how.get("lhs_dilation") or ()), *(how.get("rhs_dilation") or ()), how.get("feature_group_count", 1))
    if any(each != 1 for each in others):
        raise ValueError(f"this convolution has no dilation and one group of channels; it was asked for {how}")
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], window_strides, padding)
    return _convolve(tuple(window_strides), tuple(padding), how.get("precision"), x, kernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _convolve(strides: tuple[int, ...], padding: Padding, precision: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, precision=precision)


@_convolve.defjvp
def _derivative(strides: tuple[int, ...], padding: Padding, precision: Any, primals: tuple, tangents: tuple) -> tuple:
    (x, kernel), (dx, dkernel) = primals, tangents
    plain = functools.partial(_convolve, strides, padding, precision)
    taps = functools.partial(_by_taps, strides, padding, precision)
    out = plain(x, kernel)
    large = math.prod(out.shape[1:3]) >= _LARGE
    if large:  # of which x is kept by jax.checkpoint, not a copy of it for each tap
        by_kernel = jax.lax.platform_dependent(x, dkernel, cpu=jax.checkpoint(taps), default=plain)
    else:
        by_kernel = plain(x, dkernel)
    return out, plain(dx, kernel) + by_kernel


def _by_taps(strides: tuple[int, ...], padding: Padding, precision: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as a sum over the taps of the kernel, each a matrix product."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((size - tap) // stride + 1 for size, tap, stride in zip(padded.shape[1:3], kernel.shape, strides))

    def tap(i: int, j: int) -> jax.Array:
        rows = padded[:, i : i + (height - 1) * strides[0] + 1 : strides[0]]
        seen = rows[:, :, j : j + (width - 1) * strides[1] + 1 : strides[1]]
        return jnp.tensordot(seen, kernel[i, j], 1, precision=precision)

    return functools.reduce(jnp.add, itertools.starmap(tap, np.ndindex(*kernel.shape[:2])))
