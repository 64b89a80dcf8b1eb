import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.diffusion.losses import denoising_loss, stratified_steps
from ddim_jax.diffusion.schedule import from_betas, linear


def test_loss_is_the_mean_square_error_of_each_example_by_itself():
    """By hand, with alpha_bar 1, .9, .72, .504 and a network that says x_t: Eq. 4 gives x_t, then mean |x_t - eps|^2."""
    x0, eps = np.array([[1.0, -1.0], [0.5, 0.0]], np.float32), np.array([[0.2, 1.0], [-1.0, 2.0]], np.float32)
    t = np.array([1, 3])
    a = np.array([0.9, 0.504])[:, None]
    expected = np.mean((np.sqrt(a) * x0 + np.sqrt(1 - a) * eps - eps) ** 2, axis=1)
    loss = denoising_loss(from_betas([0.1, 0.2, 0.3]), lambda x, t: x, x0, t, eps)
    assert loss.shape == (2,) and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_loss_passes_the_network_its_steps_and_ends_at_zero_for_the_true_noise():
    x0, eps, t = jnp.ones((3, 4, 4, 1)), jnp.full((3, 4, 4, 1), 0.5), jnp.array([1, 500, 1000])
    seen = []
    loss = denoising_loss(linear(), lambda x, t: seen.append(t) or eps, x0, t, eps)
    np.testing.assert_array_equal(loss, [0, 0, 0])
    np.testing.assert_array_equal(seen[0], t)


def test_a_network_that_says_nothing_has_loss_one():
    """E|eps|^2 / d = 1. The mean of n squares of normals has standard error sqrt(2 / n); allowed are 4 of them."""
    eps = jax.random.normal(jax.random.key(0), (100, 1000))
    loss = denoising_loss(linear(), lambda x, t: jnp.zeros_like(x), jnp.zeros_like(eps), np.full(100, 7), eps)
    assert abs(jnp.mean(loss) - 1) < 4 * np.sqrt(2 / eps.size)


@pytest.mark.parametrize("batch, steps", [(8, 40), (5, 1000), (1, 10)])
def test_a_batch_of_steps_covers_the_range_evenly(batch, steps):
    """Points 1/B apart leave exactly one in each of B equal parts of the range, wherever the first one lies."""
    draw = jax.jit(lambda uniform: stratified_steps(uniform, jnp.arange(batch), batch, steps))
    for uniform in np.float32([0.0, 0.33, 0.9999]):
        t = np.asarray(draw(uniform))
        assert np.issubdtype(t.dtype, np.integer) and t.min() >= 1 and t.max() <= steps
        np.testing.assert_array_equal(np.bincount((t - 1) * batch // steps, minlength=batch), np.ones(batch))


def test_each_step_is_uniform_by_itself():
    """As `uniform` runs over the T middles of its T equal parts, every example visits every step once."""
    uniform = np.float32(np.arange(20) + 0.5) / 20
    t = jax.jit(jax.vmap(lambda u: stratified_steps(u, jnp.arange(4), 4, 20)))(uniform)  # [20, 4]
    np.testing.assert_array_equal(np.sort(t, axis=0), np.tile(np.arange(1, 21)[:, None], 4))


def test_steps_stay_in_range_at_the_very_end():
    """The last float32 below 1 must not round up to step T + 1."""
    t = stratified_steps(jnp.nextafter(jnp.float32(1), jnp.float32(0)), jnp.arange(1), 1, 1000)
    np.testing.assert_array_equal(t, [1000])
