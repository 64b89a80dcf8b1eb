import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.diffusion import process as pr
from ddim_jax.diffusion.joint import sample_down, sample_up
from ddim_jax.diffusion.schedule import from_betas, linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = from_betas(np.linspace(0.02, 0.4, 10))
TAU, N = np.array([0, 2, 5, 9]), 200_000


def covariance(std):
    """Of x at tau[1..3] given x_0, by Eq. 7: x_s - its mean = k (x_t - its mean) + std z, k^2 = (1 - a_s - std^2) / (1 - a_t)."""
    a = SCHEDULE.alpha_bar[TAU[1:]]
    k = np.sqrt((1 - a[:-1] - np.asarray(std)[::-1] ** 2) / (1 - a[1:]))  # from tau[2] to tau[1], from tau[3] to tau[2]
    matrix = np.diag(1 - a)
    matrix[1, 2] = matrix[2, 1] = k[1] * (1 - a[2])
    matrix[0, 1] = matrix[1, 0] = k[0] * (1 - a[1])
    matrix[0, 2] = matrix[2, 0] = k[0] * k[1] * (1 - a[2])
    return matrix


@pytest.mark.parametrize("draw", [sample_down, sample_up])
@pytest.mark.parametrize("std", [[0.3, 0.1], [0.0, 0.0], [0.6, 0.2]])
def test_both_ways_draw_one_joint_distribution(draw, std):
    """Mean (Eq. 4), variance and covariances of all steps, within four standard errors of N draws."""
    x = np.asarray(jax.jit(lambda key: draw(SCHEDULE, jnp.full((N, 1), 0.7), TAU, std, key))(jax.random.key(1)))[..., 0]
    mean, exact = 0.7 * np.sqrt(SCHEDULE.alpha_bar[TAU[1:]]), covariance(std)
    assert np.all(np.abs(x.mean(1) - mean) < 4 * np.sqrt(np.diag(exact) / N))
    error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / N)
    assert np.all(np.abs(np.cov(x) - exact) < 4 * error), np.cov(x) - exact


@pytest.mark.parametrize("t, s", [(9, 5), (5, 2), (2, 1)])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_both_posteriors_obey_bayes_rule_at_every_point(t, s, share):
    """Oracle 2: log q(x_s | x_t, x_0) + log q(x_t | x_0) = log q(x_t | x_s, x_0) + log q(x_s | x_0), Eq. 7, 4 and 8."""
    x_t, x_s, x0 = (jnp.asarray(np.random.default_rng(i).standard_normal(50)) for i in range(3))
    a, std = SCHEDULE.alpha_bar, share * np.sqrt(1 - SCHEDULE.alpha_bar[s])
    log = jax.scipy.stats.norm.logpdf
    down = log(x_s, *pr.reverse_posterior(SCHEDULE, x_t, x0, t, s, std)) + log(x_t, np.sqrt(a[t]) * x0, np.sqrt(1 - a[t]))
    up = log(x_t, *pr.forward_posterior(SCHEDULE, x_s, x0, s, t, std)) + log(x_s, np.sqrt(a[s]) * x0, np.sqrt(1 - a[s]))
    np.testing.assert_allclose(down, up, rtol=1e-10)


def test_upwards_the_process_forgets_x0_at_eta_one_alone():
    """Oracle 3: there q(x_t | x_s, x_0) is DDPM's N(sqrt(a_t / a_s) x_s, 1 - a_t / a_s); at other std it depends on x_0."""
    schedule, t, s = linear(), 700, 600
    x_s, a = jnp.linspace(-1, 1, 5), schedule.alpha_bar
    for eta, forgets in [(1.0, True), (0.5, False), (1.05, False)]:
        std = pr.step_std(schedule, t, s, eta)
        one, other = (pr.forward_posterior(schedule, x_s, x0, s, t, std) for x0 in (x_s * 0, x_s * 0 + 1))
        assert np.allclose(one.mean, other.mean, atol=1e-10) == forgets
        if forgets:
            np.testing.assert_allclose(one.mean, np.sqrt(a[t] / a[s]) * x_s, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(one.std**2, 1 - a[t] / a[s], rtol=1e-10)


@pytest.mark.parametrize("call", [
    lambda x: sample_down(SCHEDULE, x, TAU, [0.95, 0.1], jax.random.key(0)),
    lambda x: sample_up(SCHEDULE, x, TAU, [0.1, -0.1], jax.random.key(0)),
    lambda x: pr.forward_posterior(SCHEDULE, x, x, 2, 5, 0.9),
])  # fmt: skip
def test_a_std_out_of_range(call):
    with pytest.raises(ValueError, match=r"std is .*; it must lie between 0 and sqrt\(1 - alpha_bar\[s\]\) ="):
        call(jnp.ones((2, 3)))
