"""The convolutions and the matrix product of the U-Net: the values of `jax.lax`, in ways that CPUs compute faster.

XLA's own ways for CPUs are slow in three places, and in the second inexact, too. A fourth way is faster by taking fewer products:

    the gradient of a convolution     XLA computes it as a convolution whose kernel is as large as the image, which takes three
    by its kernel                     times as long as the convolution itself. Here it is one matrix product for each tap (each
                                      place in the kernel), and so of the next kind.
    the gradient of a matrix product  It is a product whose second factor is transposed. In bfloat16 XLA computes those by a plain
    by its second factor              loop that sums in bfloat16. Here the product is written with the transposed kernel, and its
                                      gradient is a product as any other.
    a convolution in bfloat16         XLA computes it in float32. Here it is a matrix product where the processor multiplies
                                      matrices of bfloat16 faster than those of float32.
    a convolution of 3x3 behind       The repeated pixels are never made: each of the four that come of one sees 2x2 pixels of the
    pixels that are repeated to 2x2   image before, by sums of the taps. Four ninths of the products are left.

Accelerators are asked for the operations of `jax.lax` alone.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddim_jax.common import cpuinfo

_FOR_BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # instructions: five and two times as fast as float32
_LARGE = 128  # positions of an image; below that little is gained by taps, and compiling nine takes longer
Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """The convolution of images x [B, H, W, C] with a kernel [h, w, C, D]: [B, H', W', D].

    stride:  pixels of x from one of the results to the next, in either direction.
    padding: ((above, below), (left, right)), pixels of 0 that are added to x.
    """
    return _convolve((stride, stride), padding, x, kernel)


def multiply(x: jax.Array, kernel: jax.Array, dimension_numbers: Any = None, **how: Any) -> jax.Array:
    """The product of x [..., C] with a kernel [C, D], as `flax.linen.Dense` asks for it: [..., D].

    dimension_numbers: those of this product, as `jax.lax.dot_general` takes them, or None.
    how:               the rest of what Flax hands over, which must be None.

    Raises ValueError for others.
    """
    if dimension_numbers not in (None, (((x.ndim - 1,), (0,)), ((), ()))) or kernel.ndim != 2 or any(how.values()):
        raise ValueError(f"this product is of x [..., C] and a kernel [C, D] alone; it was asked for {dimension_numbers}, {how}")
    return _multiply(x, kernel)


def convolve_repeated(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of images x [B, H, W, C] whose pixels are repeated to 2x2, with a kernel [3, 3, C, D]: [B, 2H, 2W, D]."""
    return _on_cpus(_by_phases, _by_repeating)(x, kernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _convolve(strides: tuple[int, ...], padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _forward(strides, padding, jnp.float32, x, kernel)


@_convolve.defjvp
def _derivative(strides: tuple[int, ...], padding: Padding, primals: tuple, tangents: tuple) -> tuple:
    (x, kernel), (dx, dkernel) = primals, tangents
    out = _convolve(strides, padding, x, kernel)
    by_kernel: Callable = functools.partial(_plain, strides, padding)
    if math.prod(out.shape[1:3]) >= _LARGE or math.prod(kernel.shape[:2]) <= 4:  # XLA takes a second for one of 2x2
        by_kernel = _on_cpus(functools.partial(_by_taps, strides, padding), by_kernel)
    return out, _forward(strides, padding, x.dtype, dx, kernel) + by_kernel(x, dkernel)


@jax.custom_jvp
def _multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


@_multiply.defjvp
def _derivative_of_product(primals: tuple, tangents: tuple) -> tuple:
    (x, kernel), (dx, dkernel) = primals, tangents
    return _multiply(x, kernel), dx @ kernel + _on_cpus(_by_transposed, jnp.matmul)(x, dkernel)


def _forward(strides: tuple[int, ...], padding: Padding, sums: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution; in bfloat16, where the processor has instructions for that, by a matrix product with results in `sums`.

    With float32 the values are rounded once, at the end. With the dtype of x each of the parts that are added is rounded (as many
    as the kernel has rows), but the transpose of this function is fast, too: it is the gradient by x.
    """
    plain = functools.partial(_plain, strides, padding)
    if x.dtype == jnp.bfloat16 and kernel.shape[0] > 1 and math.prod(strides) == 1 and _FOR_BFLOAT16 & cpuinfo.features():
        return _on_cpus(functools.partial(_by_one_product, padding, sums), plain)(x, kernel)
    return plain(x, kernel)


def _plain(strides: tuple[int, ...], padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _by_repeating(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain((1, 1), ((1, 1), (1, 1)), jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel.astype(x.dtype))


def _by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve_repeated` by kernels of 2x2, one for each pixel (2i + p, 2j + q) of the four that are made of one.

    In each direction two of the three taps meet the same pixel of x, so they are added up first, in float32.
    """
    batch, height, width, channels = x.shape
    meet = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)  # [p, which of the 2, tap]
    kernels = jnp.einsum("pai,qbj,ijcd->abcpqd", meet, meet, kernel, precision="highest").astype(x.dtype)
    out = _convolve((1, 1), ((1, 1), (1, 1)), x, kernels.reshape(2, 2, channels, -1))
    out = out.reshape(batch, height + 1, width + 1, 2, 2, -1)
    out = jnp.concatenate([out[:, p : p + height, None, :, p] for p in range(2)], axis=2)
    out = jnp.concatenate([out[:, :, :, q : q + width, None, q] for q in range(2)], axis=4)
    return out.reshape(batch, 2 * height, 2 * width, -1)


def _by_one_product(padding: Padding, sums: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution as one matrix product: columns of x side by side, times rows of the kernel side by side."""
    height, width, channels, features = kernel.shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (size - taps + 1 for size, taps in zip(padded.shape[1:3], kernel.shape))
    beside = jnp.concatenate([padded[:, :, j : j + columns] for j in range(width)], axis=-1)
    by_row = kernel.transpose(1, 2, 0, 3).reshape(width * channels, height * features)
    product = jnp.matmul(beside, by_row, preferred_element_type=sums)
    parts = jax.lax.split(product, [features] * height, axis=3)
    return functools.reduce(jnp.add, (part[:, i : i + rows] for i, part in enumerate(parts))).astype(x.dtype)


def _by_taps(strides: tuple[int, ...], padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution as a sum over the taps of the kernel, each a matrix product."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((size - tap) // stride + 1 for size, tap, stride in zip(padded.shape[1:3], kernel.shape, strides))

    def tap(i: int, j: int) -> jax.Array:
        rows = padded[:, i : i + (height - 1) * strides[0] + 1 : strides[0]]
        return _by_transposed(rows[:, :, j : j + (width - 1) * strides[1] + 1 : strides[1]], kernel[i, j])

    return functools.reduce(jnp.add, itertools.starmap(tap, np.ndindex(*kernel.shape[:2])))


def _by_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel, written with the transposed kernel; the barrier keeps the compiler from transposing it back."""
    return jnp.einsum("...c,dc->...d", x, jax.lax.optimization_barrier(kernel.T))


def _on_cpus(there: Callable, elsewhere: Callable) -> Callable:
    """One of two ways to the same result: `there` on CPUs, which keeps nothing but x and the kernel for its gradient."""
    return lambda x, kernel: jax.lax.platform_dependent(x, kernel, cpu=jax.checkpoint(there), default=elsewhere)
