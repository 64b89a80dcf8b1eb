import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian

from ddim_jax.diffusion import likelihood
from ddim_jax.diffusion.process import from_eps, from_v, predict_x0, q_sample, step_std
from ddim_jax.diffusion.schedule import from_betas, linear, zero_terminal_snr

pytestmark = pytest.mark.usefixtures("x64")

SHORT = from_betas(np.linspace(0.01, 0.4, 12))
TAU, ALL = np.array([0, 1, 4, 7, 12]), np.arange(13)
SHAPE = (3, 4, 4, 1)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def stds(tau, seed=0):
    """Any valid sigma: a random share of sqrt(1 - a_s) for each step, and .3 for p(x_0 | x_1)."""
    share = np.random.default_rng(seed).uniform(0.05, 1, len(tau) - 1)
    return np.append(share[:-1] * np.sqrt(1 - SHORT.alpha_bar[tau[-2:0:-1]]), 0.3)


NETWORKS = {
    "zero": lambda x, t: jnp.zeros_like(x),
    "linear": lambda x, t: 0.7 * x + t[:, None, None, None] / 12,
    "curved": lambda x, t: jnp.sin(3 * x) * jnp.cos(t)[:, None, None, None],
}


def squares(network, tau, x0, eps):
    """|eps_theta - eps|^2 summed over an example's values, for the steps from T down: [S, B]."""
    errors = []
    for t, e in zip(tau[:0:-1], eps):
        x_t = q_sample(SHORT, x0, int(t), e)
        errors.append(jnp.sum((network(x_t, jnp.full(len(x0), t)) - e) ** 2, axis=(1, 2, 3)))
    return np.stack(errors)


@pytest.mark.parametrize("tau", [ALL, TAU], ids=["every step", "some steps"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_bound_is_the_weighted_loss_and_a_constant(network, tau):
    """Oracle 5 (Theorem 1): J - L_gamma is the same for every eps function, on the same draws. J is computed from the
    posteriors (Eq. 7), gamma and C from their formulas.
    """
    x0, eps, std = jnp.tanh(normal(*SHAPE)), normal(len(tau) - 1, *SHAPE, seed=1), stds(tau)
    bound = likelihood.variational_bound(SHORT, NETWORKS[network], tau, std, x0, eps)
    weighted = likelihood.gamma(SHORT, tau, std) @ squares(NETWORKS[network], tau, x0, eps)
    difference = bound.total - weighted
    expected = likelihood.constant(SHORT, std[-1], x0)
    # log p(x_0 | x_1) is a density, and what eps cannot change of it is d/2 log(2 pi std^2): part of C.
    np.testing.assert_allclose(difference, expected, rtol=1e-12, atol=1e-12 * np.abs(bound.total).max())


def test_the_papers_weights_do_not_make_the_theorem_exact():
    """PAPER's gamma = 1 / (2 d sigma^2 a_t): with it J - L depends on the network, so the weights above are no mere variant."""
    x0, eps, std = jnp.tanh(normal(*SHAPE)), normal(12, *SHAPE, seed=1), stds(ALL)
    paper = 1 / (2 * 16 * std**2 * SHORT.alpha_bar[:0:-1])
    left = []
    for network in NETWORKS.values():
        bound = likelihood.variational_bound(SHORT, network, ALL, std, x0, eps)
        left.append(bound.total - paper @ squares(network, ALL, x0, eps))
    assert np.ptp(left, axis=0).min() > 1


def test_gamma_at_eta_one_is_that_of_ddpm():
    """DDPM Eq. 12: beta^2 / (2 sigma^2 alpha (1 - a_t)), with alpha = 1 - beta = a_t / a_s."""
    a = SHORT.alpha_bar
    std = np.append(step_std(SHORT, ALL[:1:-1], ALL[-2:0:-1], 1.0), 0.1)
    beta = 1 - a[1:] / a[:-1]
    expected = (beta**2 / (1 - beta) / (1 - a[1:]))[::-1] / (2 * std**2)
    np.testing.assert_allclose(likelihood.gamma(SHORT, ALL, std)[:-1], expected[:-1], rtol=1e-10)


def test_the_accelerated_objective_trains_the_skipped_steps_as_decoders():
    """C.1: a step outside tau costs -log N(x_0; f(x_t), s^2), of which |x_0 - f|^2 / (2 s^2) depends on the network."""
    weights = likelihood.accelerated_gamma(SHORT, TAU, stds(TAU), skipped_std=0.5)
    np.testing.assert_allclose(weights[TAU[:0:-1] - 1], likelihood.gamma(SHORT, TAU, stds(TAU)))
    x0, eps, t = normal(1, 5), normal(1, 5, seed=1), 6
    x_t = q_sample(SHORT, x0, t, eps)
    f = (x_t - np.sqrt(1 - SHORT.alpha_bar[t]) * 0.2) / np.sqrt(SHORT.alpha_bar[t])  # of a network that says .2
    np.testing.assert_allclose(weights[t - 1] * np.sum((0.2 - eps) ** 2), np.sum((x0 - f) ** 2) / (2 * 0.25), rtol=1e-10)


def test_the_bound_of_the_best_network_is_the_one_worked_out_by_hand():
    """Oracle 12: for data N(0, 1) the least E|eps_theta - eps|^2 is a_t, so E J = sum_t gamma_t a_t + C at E x_0^2 = 1, within
    four standard errors over data and noise; and no bound lies below the entropy log(2 pi e) / 2.
    """
    schedule, tau, n = linear(), np.arange(1001), 4000
    x0, eps = normal(n, 1), normal(1000, n, 1, seed=1)
    std = np.append(step_std(schedule, tau[:1:-1], tau[-2:0:-1], 1.0), 0.01)
    bound = jax.jit(lambda x0, eps: likelihood.variational_bound(schedule, gaussian(schedule, 0, 1), tau, std, x0, eps).total)
    values = np.asarray(bound(x0, eps))
    exact = likelihood.gamma(schedule, tau, std) @ schedule.alpha_bar[:0:-1] + likelihood.constant(
        schedule, 0.01, jnp.ones((1, 1))
    )
    assert abs(values.mean() - exact[0]) < 4 * values.std() / np.sqrt(n)
    assert exact[0] > np.log(2 * np.pi * np.e) / 2


def test_discretised_probabilities_sum_to_one_and_match_the_density():
    """DDPM Eq. 13: the 256 intervals cover the line. Where the std spans many, the mean density over one of width w is that of
    its middle times 1 + w^2 / 24 (z^2 - 1) / std^2, z deviations from the mean, by Taylor's formula.
    """
    values = jnp.linspace(-1, 1, 256)
    for mean, std in [(0.2, 0.01), (-1.0, 0.3), (0.99, 1e-3), (0.0, 5.0)]:
        log_prob = likelihood.discretised_log_prob(values, mean, std)
        np.testing.assert_allclose(jnp.sum(jnp.exp(log_prob)), 1, rtol=1e-10)
    inner = jnp.linspace(-1, 1, 256)[60:200]
    width, z = 2 / 255, (inner - 0.1) / 0.2
    mass = jax.scipy.stats.norm.logpdf(inner, 0.1, 0.2) + np.log(width) + np.log1p(width**2 / 24 * (z**2 - 1) / 0.2**2)
    np.testing.assert_allclose(likelihood.discretised_log_prob(inner, 0.1, 0.2), mass, atol=1e-6)


def test_far_tails_keep_their_logarithm_and_gradient():
    """40 standard deviations off, an interval's mass is 1e-350: its log is still the normal's, -z^2 / 2 - log(z sqrt(2 pi))."""
    for side in (1.0, -1.0):
        z = 40 - 1 / 255 / 0.01
        log_prob = likelihood.discretised_log_prob(0.0, side * 0.4, 0.01)
        np.testing.assert_allclose(log_prob, -(z**2) / 2 - np.log(z * np.sqrt(2 * np.pi)), rtol=1e-3)
        assert np.isfinite(jax.grad(lambda mean: likelihood.discretised_log_prob(0.0, mean, 0.01))(side * 0.4))


def test_bits_of_uniform_bytes():
    """A byte at random holds 8 bits: log(256) nats each."""
    np.testing.assert_allclose(likelihood.bits_per_dimension(48 * np.log(256), (4, 4, 3)), 8)


@pytest.mark.parametrize("mean, std", [(0.3, 0.5), (-0.2, 1.0)])
def test_likelihood_by_the_ode_of_gaussian_data(mean, std):
    """The exact flow takes x-bar at sigma to mean + (x-bar - mean) r, r^2 = (std^2 + sigma_T^2) / (std^2 + sigma^2), and the
    prior there is N(0, sigma_T^2): log p = log N(x-bar_T; 0, sigma_T) + log r, for each value. Errors fall as 1/S^2 (Heun).
    """
    schedule, x = linear(), normal(2, 5)
    predict = from_eps(schedule, gaussian(schedule, mean, std))
    sigma = np.sqrt((1 - schedule.alpha_bar) / schedule.alpha_bar)
    ratio = np.sqrt((std**2 + sigma[-1] ** 2) / (std**2 + sigma[1] ** 2))
    end = mean + (x / np.sqrt(schedule.alpha_bar[1]) - mean) * ratio
    exact = jax.scipy.stats.norm.logpdf(end, 0, sigma[-1]) + np.log(ratio) - np.log(schedule.alpha_bar[1]) / 2
    errors = []
    for stride in (4, 2, 1):
        tau = np.concatenate([[0], np.arange(1, 1001, stride)])
        tau[-1] = 1000
        found = jax.jit(lambda key: likelihood.ode_log_likelihood(schedule, predict, tau, x, key))(jax.random.key(0))
        errors.append(np.abs(found - exact.sum(1)).max())
    assert errors[-1] < 2e-3, errors
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3, errors


def test_hutchinsons_estimate_is_unbiased():
    """With eps(x) = A x, whose divergence is tr(A): random signs give it on average, and exactly where A is diagonal."""
    schedule, tau = from_betas([0.2, 0.3]), np.array([0, 1, 2])
    A = jnp.array([[0.5, 0.4], [-0.8, 0.1]])
    x = normal(400, 2)

    def change(matrix, probes):
        predict = from_eps(schedule, lambda x, t: x @ matrix)
        return likelihood.ode_log_likelihood(schedule, predict, tau, x, jax.random.key(1), probes)

    one, many = change(A, 1), change(A, 64)
    sigma = np.sqrt((1 - schedule.alpha_bar) / schedule.alpha_bar)
    # Heun's sum of signal * tr(A) d sigma, the same for every x; what is left of `many` is the prior of the path's end.
    h = sigma[2] - sigma[1]
    divergence = h * float(jnp.trace(A)) * (np.sqrt(schedule.alpha_bar[1]) + np.sqrt(schedule.alpha_bar[2])) / 2

    def prior(A):
        x_bar = x / np.sqrt(schedule.alpha_bar[1])
        first = x_bar * np.sqrt(schedule.alpha_bar[1]) @ A
        second = (x_bar + h * first) * np.sqrt(schedule.alpha_bar[2]) @ A
        end = x_bar + h * (first + second) / 2
        return jax.scipy.stats.norm.logpdf(end, 0, sigma[2]).sum(1) - np.log(schedule.alpha_bar[1])

    diagonal = jnp.diag(jnp.diag(A))
    np.testing.assert_allclose(change(diagonal, 1), prior(diagonal) + divergence, rtol=1e-10)
    for estimate in (one, many):
        left = np.asarray(estimate - prior(A))
        assert abs(left.mean() - divergence) < 4 * left.std() / np.sqrt(len(left)) + 1e-9
    assert np.std(many - prior(A)) < np.std(one - prior(A)) / 4  # 64 probes: an eighth of the noise


@pytest.mark.parametrize(
    "tau, std, says",
    [
        (np.array([0, 1, 5]), [0.1, 0.1], "tau ends at 5; the bound needs all of the chain, so it must end at 12"),
        (np.array([0, 1, 12]), [0.0, 0.1], r"std must be 2 numbers above 0"),
        (np.array([0, 1, 12]), [0.9, 0.1], r"each at most sqrt\(1 - alpha_bar\[s\]\)"),
        (np.array([0, 1, 12]), [0.1], r"std must be 2 numbers above 0"),
        (np.array([0, 1, 12]), [1.05 * np.sqrt(1 - SHORT.alpha_bar[1]), 0.1], r"each at most sqrt\(1 - alpha_bar\[s\]\)"),
    ],
)
def test_stds_for_which_there_is_no_bound(tau, std, says):
    with pytest.raises(ValueError, match=says):
        likelihood.gamma(SHORT, tau, std)


def test_the_decoder_of_the_bound_is_the_one_that_was_asked_for():
    """p(x_0 | x_1) = N(f(x_1), std^2): its density, or the probability of the 8-bit value; the other terms are the same."""
    x0, eps, std = jnp.round(normal(*SHAPE) * 40) / 127.5, normal(len(ALL) - 1, *SHAPE, seed=1), stds(ALL)
    x0 = (jnp.round((jnp.clip(x0, -1, 1) + 1) * 127.5)) / 127.5 - 1
    smooth, bytes_ = (
        likelihood.variational_bound(SHORT, NETWORKS["linear"], ALL, std, x0, eps, discretised=how) for how in (False, True)
    )
    x_1 = q_sample(SHORT, x0, 1, eps[-1])
    f = predict_x0(SHORT, x_1, 1, NETWORKS["linear"](x_1, jnp.ones(len(x0))))
    np.testing.assert_allclose(smooth.decoder, -jax.scipy.stats.norm.logpdf(x0, f, std[-1]).sum((1, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(bytes_.decoder, -likelihood.discretised_log_prob(x0, f, std[-1]).sum((1, 2, 3)), rtol=1e-10)
    np.testing.assert_array_equal(smooth.steps, bytes_.steps)


@pytest.mark.parametrize("schedule, last", [(linear(), 501), (zero_terminal_snr(linear()), 1000)])
def test_the_ode_must_reach_the_prior(schedule, last):
    predict = from_v(schedule, lambda x, t: x)
    with pytest.raises(ValueError, match=f"tau ends at {last}.*the prior is that of the last step of the schedule, 1000"):
        likelihood.ode_log_likelihood(schedule, predict, np.array([0, 1, 200, last]), normal(2, 3), jax.random.key(0))
