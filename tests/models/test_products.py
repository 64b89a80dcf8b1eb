"""The convolution and the product of the U-Net, and their derivatives, against those of `jax.lax`, of which they are parts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.common import cpuinfo
from ddim_jax.models import products
from ddim_jax.models.products import convolve, convolve_repeated, multiply

NUMBERS = ("NHWC", "HWIO", "NHWC")
CASES = {  # the shape of x, the side of the kernel, stride and padding
    "same": ((2, 12, 16, 3), 3, 1, ((1, 1), (1, 1))),
    "one tap": ((2, 12, 12, 3), 1, 1, ((0, 0), (0, 0))),
    "even": ((2, 12, 12, 3), 2, 1, ((0, 1), (0, 1))),
    "down": ((1, 24, 26, 2), 3, 2, ((0, 1), (0, 1))),
    "down, even": ((1, 24, 24, 2), 2, 2, ((0, 0), (0, 0))),
    "small": ((2, 4, 4, 3), 3, 1, ((1, 1), (1, 1))),
}
PRODUCT = (((3,), (0,)), ((), ()))


def plain(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=NUMBERS)


def ways(name):
    """(ours, that of jax.lax, x, kernel, their tangents) of a case."""
    draw = np.random.default_rng(0).normal
    if name == "product":
        shape, kernel_shape = (2, 12, 12, 3), (3, 5)
        ours, theirs = (functools.partial(way, dimension_numbers=PRODUCT) for way in (multiply, jax.lax.dot_general))
    else:
        shape, size, stride, padding = CASES[name]
        kernel_shape = (size, size, shape[-1], 5)
        ours, theirs = (functools.partial(way, stride=stride, padding=padding) for way in (convolve, plain))
    return ours, theirs, *(draw(size=size) for size in (shape, kernel_shape) * 2)


@pytest.fixture(params=["", "amx_bf16", "avx512_bf16"], ids=["any", "AMX", "AVX512_BF16"])
def instructions(request, monkeypatch):
    """As on a processor with instructions for bfloat16, or without: what is asked for then works on any."""
    monkeypatch.setattr(cpuinfo, "features", lambda: frozenset({request.param}))
    return request.param


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [*CASES, "product"])
def test_values_and_derivatives(name):
    ours, theirs, x, kernel, dx, dkernel = ways(name)

    def of(way):
        out, forward = jax.jvp(way, (x, kernel), (dx, dkernel))
        _, backward = jax.vjp(way, x, kernel)
        second = jax.grad(lambda kernel: jnp.sum(jax.grad(lambda k: jnp.sum(way(x, k) ** 3))(kernel) ** 2))(kernel)
        return out, forward, backward(jnp.sin(out)), second

    compiled = [jax.jit(lambda way=way: of(way))() for way in (ours, theirs)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), *compiled)


@pytest.mark.parametrize("name", [*CASES, "product"])
def test_bfloat16_is_summed_in_float32(name, instructions):
    """Of numbers that bfloat16 holds: the values and gradients of float64, rounded to bfloat16, whose spacing is 2^-7 at 1.

    With such instructions the gradient by x is a sum of up to three parts, about as large as it at most, that are rounded, too.
    Summed in bfloat16 itself, the 144 to 384 terms of a gradient by a kernel would be 1% to 4% of the largest off.
    """
    ours, theirs, *values = ways(name)
    x, kernel, *_ = (jnp.asarray(value, jnp.bfloat16) for value in values)
    upstream = jnp.asarray(np.random.default_rng(1).normal(size=jax.eval_shape(theirs, x, kernel).shape), jnp.bfloat16)

    def of(way, x, kernel, upstream):
        out, backward = jax.vjp(way, x, kernel)
        return out, *backward(upstream)

    found = jax.jit(functools.partial(of, ours))(x, kernel, upstream)
    with jax.enable_x64(True):
        exact = jax.jit(functools.partial(of, theirs))(*(jnp.asarray(value, jnp.float64) for value in (x, kernel, upstream)))
    for value, expected, roundings in zip(found, exact, (1, 4 if instructions else 1, 1)):
        assert value.dtype == jnp.bfloat16
        expected = np.asarray(expected)
        error = np.max(np.abs(np.asarray(value, np.float64) - expected)) / np.max(np.abs(expected))
        assert error <= roundings * 2**-8 + 1e-5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("way", [convolve_repeated, products._by_repeating], ids=["on CPUs", "elsewhere"])
@pytest.mark.parametrize("shape", [(2, 5, 6, 3), (1, 12, 12, 2)])
def test_a_convolution_of_repeated_pixels(way, shape):
    """Against `jax.lax` on the repeated pixels themselves: the values and both gradients."""
    draw = np.random.default_rng(0).normal
    x, kernel = draw(size=shape), draw(size=(3, 3, shape[-1], 4))

    def repeated(x, kernel):
        return plain(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel, 1, ((1, 1), (1, 1)))

    def of(way):
        out, backward = jax.vjp(way, x, kernel)
        return out, *backward(jnp.sin(out))

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), of(way), of(repeated))


def test_a_convolution_of_repeated_pixels_rounds_its_kernel_once():
    """In bfloat16: of numbers that it holds, but for the sums of the taps, which are rounded, and the result: 2^-9 each."""
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in ((2, 6, 6, 8), (3, 3, 8, 4)))
    exact = convolve_repeated(x.astype(jnp.float32), kernel.astype(jnp.float32))
    got = convolve_repeated(x, kernel.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16
    assert jnp.max(jnp.abs(got - exact)) <= 2 * 2**-9 * jnp.max(jnp.abs(exact))


@pytest.mark.usefixtures("x64")
def test_a_kernel_for_each_example():
    """By vmap over kernels, as where somebody wants the gradient of each example."""
    x, kernel = jnp.asarray(np.random.default_rng(1).normal(size=(3, 1, 12, 12, 2))), jnp.ones((3, 3, 2, 4))

    def gradients(convolution):
        return jax.vmap(lambda x: jax.grad(lambda k: jnp.sum(convolution(x, k, 1, ((1, 1), (1, 1))) ** 2))(kernel))(x)

    np.testing.assert_allclose(gradients(convolve), gradients(plain), rtol=1e-10)


def test_what_the_product_does_not_do_is_refused():
    for layer in (nn.DenseGeneral(4, axis=(1, 2), dot_general=multiply), nn.Dense(4, precision="highest", dot_general=multiply)):
        with pytest.raises(ValueError, match=r"this product is of x \[..., C\]"):
            layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
