import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.diffusion import discrete
from ddim_jax.diffusion.schedule import SPACINGS, from_alpha_bar, from_betas, linear, subsequence, zero_terminal_snr

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = from_alpha_bar(np.linspace(1, 0, 21))
K = 4


def one_hot(*shape, seed=0):
    return jnp.eye(K)[np.random.default_rng(seed).integers(K, size=shape)]


def simplex(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(K), shape))


@pytest.mark.parametrize("seed", range(4))
def test_marginals_follow_from_any_choice_of_std(seed):
    """Oracle 19, as Lemma 1: down any tau, with any share of the largest std, x_t is Cat(a_t x_0 + (1 - a_t) / K)."""
    random = np.random.default_rng(seed)
    tau = np.concatenate([[0], np.sort(random.choice(np.arange(1, 20), 6, replace=False)), [20]])
    x0, every = one_hot(3, seed=seed), jnp.eye(K)
    probabilities = discrete.marginal(SCHEDULE, x0, 20)
    np.testing.assert_allclose(probabilities, 1 / K, atol=1e-15)
    for t, s in zip(tau[:0:-1], tau[-2::-1]):
        std = random.uniform() * discrete.keep_limit(SCHEDULE, t, s)
        of_each = jnp.stack([discrete.posterior(SCHEDULE, jnp.broadcast_to(x, x0.shape), x0, t, s, std) for x in every], 1)
        probabilities = jnp.einsum("bk,bkj->bj", probabilities, of_each)
        a = SCHEDULE.alpha_bar[s]
        np.testing.assert_allclose(probabilities, a * x0 + (1 - a) / K, atol=1e-15)


def test_probabilities_are_not_negative_iff_std_is_in_range():
    """Oracle 19: the weight of 1/K is (1 - a_s) - (1 - a_t) std, which is 0 at the limit and below it beyond."""
    t, s = 15, 7
    limit = float(discrete.keep_limit(SCHEDULE, t, s))
    np.testing.assert_allclose(limit, (7 / 20) / (15 / 20))
    x_t, x0 = one_hot(5), one_hot(5, seed=1)
    for std in (0.0, limit / 2, limit):
        p = discrete.posterior(SCHEDULE, x_t, x0, t, s, std)
        assert p.min() >= 0
        np.testing.assert_allclose(p.sum(-1), 1, atol=1e-15)
    assert min(discrete.weights(SCHEDULE, t, s, limit * 1.01)) < 0
    for std in (limit * 1.01, -0.01):
        with pytest.raises(ValueError, match=r"std is .*; for these steps it must lie between 0 and .* = 0.4666"):
            discrete.posterior(SCHEDULE, x_t, x0, t, s, std)


def test_steps_may_differ_from_example_to_example():
    t, s = np.array([20, 9, 3]), np.array([12, 8, 0])
    std = 0.5 * discrete.keep_limit(SCHEDULE, t, s)
    x_t, f = one_hot(3, 2), simplex(3, 2, seed=1)
    together = discrete.posterior(SCHEDULE, x_t, f, t, s, std[:, None, None])
    for i in range(3):
        np.testing.assert_allclose(together[i], discrete.posterior(SCHEDULE, x_t[i], f[i], t[i], s[i], std[i]), atol=1e-15)


def test_a_std_for_each_example_is_that_examples_own():
    """Of K examples with K categories, so that [B] against the last axis would be taken without a word."""
    x_t, f, std = one_hot(K), simplex(K, seed=1), np.linspace(0, 1, K) * discrete.keep_limit(SCHEDULE, 15, 7)
    for given in (std, jnp.asarray(std), std[:, None]):
        together = discrete.posterior(SCHEDULE, x_t, f, 15, 7, given)
        for i in range(K):
            np.testing.assert_allclose(
                together[i], discrete.posterior(SCHEDULE, x_t[i : i + 1], f[i : i + 1], 15, 7, std[i])[0], atol=1e-15
            )


def test_logits_of_another_shape_are_refused_with_both_shapes():
    x0, keys = one_hot(3, 7), jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"what the network predicts has shape \(3, 7, 1\), for x of shape \(3, 7, 4\)"):
        discrete.cross_entropy(SCHEDULE, lambda x, t: x[..., :1], x0, jnp.array([1, 10, 20]), keys)


def test_the_divergence_is_bounded_by_that_of_the_prediction():
    """Oracle 19 (the paper's appendix A): KL <= (a_s - std a_t) KL(Cat(x_0) || Cat(f)), and the latter is -log f at x_0."""
    x0, x_t, f = one_hot(200), one_hot(200, seed=1), simplex(200, seed=2)
    for t, s, share in [(20, 10, 0.3), (5, 4, 1.0), (12, 1, 0.0)]:
        std = share * discrete.keep_limit(SCHEDULE, t, s)
        a_t, a_s = SCHEDULE.alpha_bar[[t, s]]
        bound = (a_s - std * a_t) * -jnp.log(jnp.sum(f * x0, -1))
        kl = discrete.kl(SCHEDULE, x_t, x0, f, t, s, std)
        assert np.all(kl >= -1e-12) and np.all(kl <= bound + 1e-12)
        assert np.max(kl / bound) > 0.1  # a bound, but not an idle one


@pytest.mark.parametrize("spacing", SPACINGS)
def test_nothing_is_drawn_that_has_no_probability(spacing):
    """At eta = 0 the weight of 1/K is 0, for which rounding gives +-1e-16; the log of a negative one would be NaN. So each step
    draws x_t or x_0 where f is sure, and the divergence of another f is finite or, where q alone is 0, no more than its bound.
    """
    x, x0 = jax.nn.one_hot(jnp.zeros((1, 50), int), K), jax.nn.one_hot(jnp.ones((1, 50), int), K)
    step = jax.jit(lambda row, key: discrete.sample(lambda x, t: x0, row, x, key))
    for schedule in (SCHEDULE, linear(), zero_terminal_snr(linear())):
        table = discrete.table(schedule, subsequence(schedule.num_steps, 20, spacing))
        assert np.all(table.noise >= 0) and np.all(table.noise < 1e-15)
        for i in range(20):
            row = jax.tree.map(lambda column: column[i : i + 1], table)
            drawn = step(row, jax.random.key(i))
            assert np.all(drawn[..., :2].sum(-1) == 1)
        for t, s in zip(table.t, table.s):
            assert np.all(np.isfinite(discrete.kl(schedule, x, x0, simplex(1, 50), t, s, discrete.keep_limit(schedule, t, s))))


def test_plain_steps_are_checked_inside_compiled_code():
    x = one_hot(2)
    compiled = jax.jit(lambda x: discrete.posterior(SCHEDULE, x, x, 15, 7, 0.1))
    np.testing.assert_allclose(compiled(x), discrete.posterior(SCHEDULE, x, x, 15, 7, 0.1), rtol=1e-12)
    with pytest.raises(ValueError, match="std is 0.9"):
        jax.jit(lambda x: discrete.posterior(SCHEDULE, x, x, 15, 7, 0.9))(x)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_network_that_knows_x0_returns_it(eta):
    """Oracle 19."""
    x0 = one_hot(3, 5)
    table = discrete.table(SCHEDULE, subsequence(20, 6, "linspace"), eta)
    noise = discrete.noise(jax.random.split(jax.random.key(0), 3), (5,), K)
    out = jax.jit(functools.partial(discrete.sample, lambda x, t: x0))(table, noise, jax.random.key(1))
    np.testing.assert_array_equal(out, x0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_of_the_best_network_have_the_datas_frequencies(eta):
    """Values drawn one by one from p have the best f = p(x_0 | x_t), by Bayes' rule. The posterior is linear in x_0, so with
    that f the chain is the reverse of q itself and ends at p, at any eta and tau: within four standard errors.
    """
    p = jnp.array([0.1, 0.2, 0.3, 0.4])

    def best(x, t):  # p(x_0) q(x_t | x_0), with x_0 = k and q = a [x_t = k] + (1 - a) / K
        a = jnp.asarray(SCHEDULE.alpha_bar)[t][:, None, None]
        joint = p[None, None] * (a * x + (1 - a) / K)
        return joint / joint.sum(-1, keepdims=True)

    n = 40_000
    table = discrete.table(SCHEDULE, subsequence(20, 7, "linspace"), eta)
    noise = discrete.noise(jax.random.split(jax.random.key(0), n), (1,), K)
    found = jax.jit(functools.partial(discrete.sample, best))(table, noise, jax.random.key(1)).mean((0, 1))
    assert np.all(np.abs(found - p) < 4 * np.sqrt(p * (1 - p) / n)), found


def test_the_scan_takes_what_the_posterior_gives():
    """Each row's weights are those of `posterior` at its own std."""
    tau = np.array([0, 3, 11, 20])
    table = discrete.table(SCHEDULE, tau, eta=0.25)
    x, f = one_hot(6), simplex(6, seed=1)
    for t, s, keep, x0, noise in zip(*table):
        std = 0.75 * discrete.keep_limit(SCHEDULE, t, s)
        np.testing.assert_allclose(keep * x + x0 * f + noise / K, discrete.posterior(SCHEDULE, x, f, t, s, std), atol=1e-15)
        np.testing.assert_allclose(keep + x0 + noise, 1)


def test_an_example_with_its_own_key_does_not_depend_on_its_batch():
    keys, f = jax.random.split(jax.random.key(3), 4), simplex(4, 5)
    table = discrete.table(SCHEDULE, subsequence(20, 5, "linspace"), 0.5)
    noise = discrete.noise(keys, (5,), K)
    together = discrete.sample(lambda x, t: f, table, noise, keys)
    np.testing.assert_array_equal(discrete.sample(lambda x, t: f[1:3], table, noise[1:3], keys[1:3]), together[1:3])


def test_cross_entropy_is_that_of_the_logits():
    """A network that always says p has the loss -log p(x_0), whatever x_t is; one that sees x_1 of 1% noise is nearly sure."""
    x0, keys = one_hot(3, 7), jax.random.split(jax.random.key(0), 3)
    p = simplex(3, 7, seed=1)
    loss = discrete.cross_entropy(SCHEDULE, lambda x, t: jnp.log(p) + 5, x0, jnp.array([1, 10, 20]), keys)
    np.testing.assert_allclose(loss, -np.log(np.sum(p * x0, -1)).mean(-1), rtol=1e-10)
    quiet = from_betas([1e-9])
    assert np.all(discrete.cross_entropy(quiet, lambda x, t: 30 * x, x0, jnp.ones(3, int), keys) < 1e-10)


def test_the_network_is_shown_draws_of_the_marginal():
    """At t = 10 of 20, where a = 1/2, it sees x_0 with probability a + (1 - a) / K: within four standard errors."""
    n, seen = 20_000, []
    x0 = jnp.broadcast_to(jnp.eye(K)[1], (n, 1, K))

    def spy(x, t):
        seen.append((x, t))
        return x

    discrete.cross_entropy(SCHEDULE, spy, x0, jnp.full(n, 10), jax.random.split(jax.random.key(0), n))
    (x_t, t), expected = seen[0], np.asarray(discrete.marginal(SCHEDULE, x0[0, 0], 10))
    a = SCHEDULE.alpha_bar[10]
    np.testing.assert_allclose(expected, a * np.eye(K)[1] + (1 - a) / K)
    assert np.all(t == 10) and np.all(np.abs(x_t.mean((0, 1)) - expected) < 4 * np.sqrt(expected * (1 - expected) / n))


def test_values_fall_into_even_bins_and_come_back():
    x = jnp.array([-1.0, -0.51, -0.49, 0.01, 0.6, 1.0])[None]
    bins = discrete.one_hot(x, 4)
    np.testing.assert_array_equal(jnp.argmax(bins, -1)[0], [0, 0, 1, 2, 3, 3])
    np.testing.assert_allclose(discrete.to_values(bins)[0], [-1, -1, -1 / 3, 1 / 3, 1, 1])


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_an_eta_out_of_range(eta):
    with pytest.raises(ValueError, match=f"eta is {eta}; for discrete data it must lie between 0 and 1"):
        discrete.table(SCHEDULE, np.arange(21), eta)


@pytest.mark.slow
def test_the_drawn_loss_is_the_cross_entropy_of_binned_values_and_channels_of_logits():
    """A network of images gives K logits for each of C channels, side by side: channel c's are the numbers c K .. c K + K - 1."""
    x0 = jnp.linspace(-1, 1, 2 * 3 * 3 * 2).reshape(2, 3, 3, 2)
    keys, t = jax.random.split(jax.random.key(0), 2), jnp.array([3, 15])
    logits = jax.random.normal(jax.random.key(1), (2, 3, 3, 2 * K))
    found = discrete.drawn_loss(SCHEDULE, lambda x, t: logits + 0 * x, x0, t, keys, categories=K)
    bins = np.clip(np.floor((np.asarray(x0) + 1) * K / 2), 0, K - 1).astype(int)
    p = np.stack([jax.nn.log_softmax(logits[..., c * K : c * K + K]) for c in range(2)], axis=3)
    expected = -np.take_along_axis(p, bins[..., None], -1)[..., 0].mean((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    alone = discrete.drawn_loss(SCHEDULE, lambda x, t: logits[1:] * x, x0[1:], t[1:], keys[1:], categories=K)
    together = discrete.drawn_loss(SCHEDULE, lambda x, t: logits * x, x0, t, keys, categories=K)
    np.testing.assert_allclose(alone, together[1:], rtol=1e-10)
