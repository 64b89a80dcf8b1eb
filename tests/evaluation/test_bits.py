"""Bits per dimension and errors of reconstruction, where a network is exact and both are known.

Values are N(0, 1/16) before they are rounded to 8 bits, and the network is the exact one for N(0, 1/16):
eps = sqrt(1 - a) x / (a / 16 + 1 - a).
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.diffusion import schedule
from ddim_jax.evaluation import bits
from ddim_jax.inference import processes
from ddim_jax.inference.model import Defaults, Model
from ddim_jax.models.network import Network

VARIANCE = 1 / 16
SCHEDULE = schedule.linear()
ALPHA_BAR = jnp.asarray(SCHEDULE.alpha_bar, jnp.float32)
SHAPE = (8, 8, 1)


def apply(params, x, step, condition, key):
    a = ALPHA_BAR[step + 1][:, None, None, None]  # networks count steps from 0
    return jnp.sqrt(1 - a) * x / (a * VARIANCE + 1 - a)


MODEL = Model(
    network=Network(lambda key, example: {}, apply),
    params={"none": np.zeros(1, np.float32)},
    schedule=SCHEDULE,
    shape=SHAPE,
    process=processes.gaussian(SCHEDULE),
    defaults=Defaults(),
)


def images(n: int) -> np.ndarray:
    x = math.sqrt(VARIANCE) * np.random.default_rng(0).standard_normal((n, *SHAPE))
    return np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)


def values(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float64) / 127.5 - 1


def test_the_ode_finds_the_exact_likelihood():
    """Each image's, from the density that x has at the first step, averaged over the uniform noise of its bins."""
    pixels = images(96)
    tau = MODEL.tau(200, "logsnr")
    found = bits.by_ode(MODEL, tau, pixels, np.arange(96), seed=0)
    a = SCHEDULE.alpha_bar[tau[1]]
    variance = a * VARIANCE + 1 - a
    square = values(pixels) ** 2 + bits.WIDTH**2 / 12
    nats = 0.5 * np.log(2 * np.pi * variance) + square / (2 * variance) - np.log(bits.WIDTH)
    expected = nats.mean(axis=(1, 2, 3)) / np.log(2)
    # The draw of that noise moves an image's figure by std(x u) / variance / sqrt(64) = 1.6e-3 bits; Heun's steps err less.
    np.testing.assert_allclose(found, expected, atol=8e-3)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * VARIANCE) - np.log2(bits.WIDTH)  # of N(0, 1/16) in bins so narrow
    assert abs(found.mean() - entropy) < 4 / math.sqrt(2 * pixels.size) / np.log(2) + 1e-3  # 4 standard errors


def test_the_bound_is_what_its_terms_are_for_normal_data():
    """E |x_0 - f(x_t)|^2 of the exact network is 1/16 (1 - a) / (a / 16 + 1 - a); the rest are the weights of Eq. 11."""
    pixels, tau = images(512), MODEL.tau(20, "trailing")
    found = bits.by_bound(MODEL, tau, pixels, np.arange(512), seed=0)
    a = SCHEDULE.alpha_bar
    error = VARIANCE * (1 - a) / (a * VARIANCE + 1 - a)
    nats = (a[-1] * VARIANCE - a[-1] - np.log(1 - a[-1])) / 2  # KL of q(x_T | x_0)
    for t, s in zip(tau[:1:-1], tau[-2:0:-1]):
        std = np.sqrt((1 - a[s]) / (1 - a[t]) * (1 - a[t] / a[s]))
        weight = np.sqrt(a[s]) - np.sqrt(1 - a[s] - std**2) * np.sqrt(a[t] / (1 - a[t]))
        nats += weight**2 * error[t] / (2 * std**2)
    last = 1 - a[tau[1]]  # the variance of the decoder, in bins that are narrow for it
    nats += np.log(2 * np.pi * last) / 2 + error[tau[1]] / (2 * last) - np.log(bits.WIDTH)
    expected = nats / np.log(2)
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(found))
    assert found.std() / math.sqrt(len(found)) < 0.01
    entropy = 0.5 * np.log2(2 * np.pi * np.e * VARIANCE) - np.log2(bits.WIDTH)
    assert expected > entropy


@pytest.mark.parametrize("find", [bits.by_bound, bits.by_ode])
def test_a_last_batch_that_is_not_full(find):
    """The first 64 do not know of those after them."""
    pixels, tau = images(70), MODEL.tau(5, "trailing")
    found = find(MODEL, tau, pixels, np.arange(70), 0)
    assert found.shape == (70,) and np.isfinite(found).all()
    np.testing.assert_array_equal(found[:64], find(MODEL, tau, pixels[:64], np.arange(64), 0))
