"""The convolution and its derivatives against those of `jax.lax.conv_general_dilated`, of which it is a part."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.models.convolution import convolve

pytestmark = pytest.mark.usefixtures("x64")
NUMBERS = ("NHWC", "HWIO", "NHWC")
CASES = {
    "same": ((2, 12, 16, 3), 3, (1, 1), "SAME"),
    "one tap": ((2, 12, 12, 3), 1, (1, 1), "SAME"),
    "down": ((1, 24, 26, 2), 3, (2, 2), ((0, 1), (0, 1))),
    "down, even": ((1, 24, 24, 2), 2, (2, 2), "SAME"),
    "small": ((2, 4, 4, 3), 3, (1, 1), "SAME"),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives(name):
    shape, size, strides, padding = CASES[name]
    draw = np.random.default_rng(0).normal
    x, kernel = draw(size=shape), draw(size=(size, size, shape[-1], 5))
    dx, dkernel = draw(size=x.shape), draw(size=kernel.shape)
    ours = functools.partial(convolve, window_strides=strides, padding=padding)
    theirs = functools.partial(jax.lax.conv_general_dilated, window_strides=strides, padding=padding, dimension_numbers=NUMBERS)

    def of(convolution):
        out, forward = jax.jvp(convolution, (x, kernel), (dx, dkernel))
        _, backward = jax.vjp(convolution, x, kernel)
        second = jax.grad(lambda kernel: jnp.sum(jax.grad(lambda k: jnp.sum(convolution(x, k) ** 3))(kernel) ** 2))(kernel)
        return out, forward, backward(jnp.sin(out)), second

    compiled = [jax.jit(lambda convolution=convolution: of(convolution))() for convolution in (ours, theirs)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), *compiled)


def test_a_kernel_for_each_example():
    """By vmap over kernels, as where somebody wants the gradient of each example."""
    x, kernel = jnp.asarray(np.random.default_rng(1).normal(size=(3, 1, 12, 12, 2))), jnp.ones((3, 3, 2, 4))

    def gradients(convolution):
        return jax.vmap(lambda x: jax.grad(lambda k: jnp.sum(convolution(x, k, (1, 1), "SAME") ** 2))(kernel))(x)

    theirs = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=NUMBERS)
    np.testing.assert_allclose(gradients(convolve), gradients(theirs), rtol=1e-10)


@pytest.mark.parametrize("how", [{"kernel_dilation": 2}, {"input_dilation": 2}, {"feature_group_count": 2}])
def test_what_it_does_not_do_is_refused(how):
    with pytest.raises(ValueError, match="this convolution has no dilation and one group of channels"):
        nn.Conv(4, (3, 3), conv_general_dilated=convolve, **how).init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
