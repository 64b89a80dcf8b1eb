"""What networks that restore images are told. Oracles: means and luma by hand, and what both leave as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.data import degrading


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_half_size_is_means_of_four():
    x = noise(2, 6, 4, 3)
    small = degrading.half_size(jnp.asarray(x))
    assert small.shape == x.shape and small.dtype == x.dtype
    for row in range(6):
        for column in range(4):
            top, left = row - row % 2, column - column % 2
            by_hand = (x[:, top, left] + x[:, top, left + 1] + x[:, top + 1, left] + x[:, top + 1, left + 1]) / 4
            np.testing.assert_allclose(small[:, row, column], by_hand, atol=1e-6)  # float32 rounds a sum of four so


def test_half_size_of_half_size_is_the_same():
    once = degrading.half_size(jnp.asarray(noise(1, 8, 4, 1)))
    np.testing.assert_array_equal(degrading.half_size(once), once)  # means of four equal numbers: exact in binary


def test_grey_is_luma():
    # ITU-R BT.601, of red, green, blue and white in [-1, 1]: linear, and the weights sum to 1.
    colours = 2 * jnp.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0.0]]) - 1
    found = degrading.grey(colours.reshape(1, 1, 5, 3))
    assert found.shape == (1, 1, 5, 1)
    np.testing.assert_allclose(found.ravel(), 2 * np.array([0.299, 0.587, 0.114, 1, 0]) - 1, atol=1e-6)


@pytest.mark.parametrize("name", degrading.DEGRADATIONS)
def test_channels_are_those_that_come_out_of_compiled_code(name):
    found = jax.jit(degrading.DEGRADATIONS[name])(noise(2, 4, 6, 3))
    assert found.shape == (2, 4, 6, degrading.channels(name, 3))


def test_channels():
    assert [degrading.channels("half_size", c) for c in (1, 3)] == [1, 3] and degrading.channels("grey", 3) == 1


def test_errors():
    for shape in ((1, 5, 4, 3), (1, 4, 5, 3)):
        with pytest.raises(ValueError, match="half_size expects even heights and widths"):
            degrading.half_size(jnp.zeros(shape))
    for call in (lambda: degrading.grey(jnp.zeros((1, 4, 4, 1))), lambda: degrading.channels("grey", 1)):
        with pytest.raises(ValueError, match="grey expects images of 3 channels .*have 1"):
            call()
    with pytest.raises(ValueError, match="no degradation 'blur'; expected one of half_size, grey"):
        degrading.channels("blur", 3)
