import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.diffusion.losses import denoising_loss, drawn_loss, min_snr_weight, stratified_steps
from ddim_jax.diffusion.process import q_sample, velocity
from ddim_jax.diffusion.schedule import from_betas, linear, zero_terminal_snr


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


@pytest.mark.parametrize("t", [10, 300, 900])
def test_no_network_has_less_loss_than_the_best(t):
    """Oracle 12: on data N(0, r^2), the least E|eps - eps*|^2 is a r^2 / (a r^2 + 1 - a); within four standard errors."""
    r, a, n = 0.5, linear().alpha_bar[t], 200_000
    x0, eps = (jax.random.normal(jax.random.key(i), (1, n)) for i in (1, 2))
    floor = a * r**2 / (a * r**2 + 1 - a)

    def loss(scale):
        network = lambda x, t: scale * np.sqrt(1 - a) / (a * r**2 + 1 - a) * x
        return float(denoising_loss(linear(), network, r * x0, jnp.array([t]), eps)[0])

    assert abs(loss(1.0) / floor - 1) < 4 * np.sqrt(2 / n)
    assert loss(1.0) < min(loss(0.9), loss(1.1))


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_weights_by_snr_make_every_target_one_loss(prediction):
    """arXiv 2303.09556, section 3.4: |eps - eps'|^2 = SNR |x_0 - x_0'|^2 and |v - v'|^2 = (SNR + 1) |x_0 - x_0'|^2, so with their
    weights all three are min(SNR, 5) |x_0 - x_0'|^2.
    """
    schedule, t = linear(), jnp.array([50, 200, 500, 900])
    x0, eps, guess = (jax.random.normal(jax.random.key(i), (4, 6)) for i in range(3))
    a = jnp.asarray(schedule.alpha_bar, jnp.float32)[t][:, None]
    x_t = q_sample(schedule, x0, t, eps)
    implied = (x_t - jnp.sqrt(a) * guess) / jnp.sqrt(1 - a)
    says = {"x0": guess, "eps": implied, "v": velocity(schedule, guess, t, implied)}[prediction]
    loss = denoising_loss(schedule, lambda x, t: says, x0, t, eps, prediction) * min_snr_weight(schedule, t, prediction)
    snr = np.ravel(a / (1 - a))
    np.testing.assert_allclose(loss, np.minimum(snr, 5) * np.mean((x0 - guess) ** 2, 1), rtol=2e-3)


def test_weights_where_there_is_no_signal():
    schedule = zero_terminal_snr(linear())
    t = np.array([1, 1000])
    for prediction, last in [("eps", 1), ("x0", 0), ("v", 0)]:
        weights = min_snr_weight(schedule, t, prediction)
        assert np.all(np.isfinite(weights)) and weights[-1] == last


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("gamma", [0.0, 2.0, 5.0])
def test_noise_is_drawn_from_each_examples_own_key(prediction, gamma):
    """What training uses is `denoising_loss` of that prediction, with that weight."""
    keys, x0, t = jax.random.split(jax.random.key(0), 4), jnp.ones((4, 3)), jnp.array([5, 50, 500, 900])
    network = lambda x, t: jnp.sin(x)
    options = dict(prediction=prediction, min_snr_gamma=gamma)
    together = drawn_loss(linear(), network, x0, t, keys, **options)
    np.testing.assert_allclose(drawn_loss(linear(), network, x0[2:], t[2:], keys[2:], **options), together[2:], rtol=1e-5)
    eps = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    plain = denoising_loss(linear(), network, x0, t, eps, prediction)
    weight = min_snr_weight(linear(), t, prediction, gamma) if gamma else 1
    np.testing.assert_allclose(together, plain * weight, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 1), (3,), (4, 3, 1), ()])
def test_a_network_of_another_shape_is_refused_with_both_shapes(shape):
    """All of these would broadcast against the target, or be added to it, without a word."""
    x0 = jnp.ones((4, 3))
    match = rf"what the network predicts has shape \({', '.join(map(str, shape))},?\), for x of shape \(4, 3\)"
    with pytest.raises(ValueError, match=match):
        denoising_loss(linear(), lambda x, t: jnp.zeros(shape), x0, jnp.array([1, 2, 3, 4]), x0)


def test_an_unknown_target():
    with pytest.raises(ValueError, match="unknown prediction 'noise'; expected one of eps, x0, v"):
        denoising_loss(linear(), lambda x, t: x, jnp.ones((1, 2)), jnp.array([3]), jnp.ones((1, 2)), "noise")


def test_weights_of_an_unknown_prediction():
    with pytest.raises(ValueError, match="unknown prediction 'epsilon'; expected one of eps, x0, v"):
        min_snr_weight(linear(), jnp.array([5]), "epsilon")


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
