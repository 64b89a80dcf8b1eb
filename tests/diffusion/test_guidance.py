import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import THREE, gaussian, mixture

from ddim_jax.diffusion import guidance
from ddim_jax.diffusion.process import clip_x0, from_eps, from_v, q_sample
from ddim_jax.diffusion.sampling import sample
from ddim_jax.diffusion.schedule import linear, subsequence, zero_terminal_snr
from ddim_jax.diffusion.solvers import ddim, repaint

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear()
T = jnp.array([2, 10, 500, 1000])
PREDICT = from_eps(SCHEDULE, mixture(SCHEDULE, **THREE))
TAU = subsequence(1000, 20, "trailing")


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def assert_consistent(predict, x):
    x0, eps = predict(x, T)
    np.testing.assert_allclose(q_sample(SCHEDULE, x0, T, eps), x, rtol=1e-9, atol=1e-9)
    return x0


def test_dynamic_thresholds_are_those_of_imagen():
    """arXiv 2205.11487, section 2.3, by hand: percentile p of |x_0|, at least 1; clip to it, then divide by it."""
    x = 1.5 * normal(4, 60)
    before, after = PREDICT(x, T).x0, assert_consistent(guidance.dynamic_threshold(SCHEDULE, PREDICT, 90.0), x)
    for b, a in zip(np.asarray(before), np.asarray(after)):
        c = max(np.percentile(np.abs(b), 90), 1)
        np.testing.assert_allclose(a, np.clip(b, -c, c) / c, rtol=1e-10)
    small = guidance.dynamic_threshold(SCHEDULE, from_eps(SCHEDULE, lambda x, t: x), 50.0)
    inside = 0.1 * x[:1]  # at t = 2 x_0 is nearly x, all below 1: nothing to do
    np.testing.assert_allclose(small(inside, T[:1]).x0, from_eps(SCHEDULE, lambda x, t: x)(inside, T[:1]).x0)


@pytest.mark.parametrize("percentile", [-1, 101])
def test_a_percentile_out_of_range(percentile):
    with pytest.raises(ValueError, match=f"percentile is {percentile}; it must lie between 0 and 100"):
        guidance.dynamic_threshold(SCHEDULE, PREDICT, percentile)


def test_classifier_free_guidance_is_linear_between_its_two_networks():
    """arXiv 2207.12598 Eq. 6, (1 + w) eps_c - w eps_u with weight = 1 + w; at 1 and 0 one of the two alone."""
    one, other = (from_eps(SCHEDULE, gaussian(SCHEDULE, m, 0.5)) for m in (0.8, -0.2))
    x = normal(4, 6)
    for weight, w in [(1.0, 0.0), (0.0, -1.0), (3.0, 2.0)]:
        guided = guidance.classifier_free(one, other, weight)
        np.testing.assert_allclose(guided(x, T).eps, (1 + w) * one(x, T).eps - w * other(x, T).eps, rtol=1e-9, atol=1e-9)
        assert_consistent(guided, x)
    own = guidance.classifier_free(one, other, jnp.array([0.0, 1.0, 2.0, 3.0])[:, None])
    np.testing.assert_allclose(own(x, T).eps[1], one(x, T).eps[1], rtol=1e-9)
    square = normal(4, 4)  # where [B] against the last axis would be taken without a word
    weights = np.array([0.0, 1.0, 2.0, 3.0])
    for guide in (
        lambda w: guidance.classifier_free(one, other, w),
        lambda w: guidance.classifier(SCHEDULE, one, lambda x, t: -(x**2).sum(1), w),
    ):
        together = guide(weights)(square, T)
        for i, weight in enumerate(weights):
            np.testing.assert_allclose(together.eps[i], guide(weight)(square, T).eps[i], rtol=1e-9)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\) for examples of shape \(4, 4\)"):
        guidance.classifier_free(one, other, weights[:3])(square, T)


def test_guidance_by_an_exact_classifier_gives_the_exact_conditional():
    """Bayes: grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t). For a mixture and its exact p(y | x_t), guided eps is
    that of the component y alone, a Gaussian.
    """
    weights, means, stds = (np.array(THREE[name]) for name in ("weights", "means", "stds"))

    def log_prob(x, t):  # of component 2 for each value, summed over values, which are independent
        a = jnp.asarray(SCHEDULE.alpha_bar)[t][:, None, None]
        variance = a * stds[None, None] ** 2 + 1 - a
        distance = x[..., None] - jnp.sqrt(a) * means[None, None]
        logits = jnp.log(weights)[None, None] - jnp.log(variance) / 2 - distance**2 / variance / 2
        return jax.nn.log_softmax(logits)[..., 2].sum(1)

    x = normal(4, 3)
    guided = guidance.classifier(SCHEDULE, PREDICT, log_prob)
    np.testing.assert_allclose(guided(x, T).eps, gaussian(SCHEDULE, means[2], stds[2])(x, T), rtol=1e-8, atol=1e-8)
    assert_consistent(guided, x)
    np.testing.assert_allclose(guidance.classifier(SCHEDULE, PREDICT, log_prob, 0.0)(x, T).eps, PREDICT(x, T).eps, rtol=1e-9)


@pytest.mark.parametrize("table", [ddim(SCHEDULE, TAU), ddim(SCHEDULE, TAU, 1.0), repaint(SCHEDULE, TAU, 1.0, 2)], ids=str)
def test_known_pixels_come_back_and_the_rest_is_what_it_would_be(table):
    """The known half is exact at the end. Values here are independent, so the other half does not see it and is sampled as
    without a mask, from the same latents and noise.
    """
    known, mask = jnp.full((4, 6), 0.37), (jnp.arange(6) < 3)[None].astype(float)
    x, key = normal(4, 6), jax.random.key(2)
    painted = jax.jit(lambda x: sample(guidance.inpaint(SCHEDULE, PREDICT, known, mask), table, x, key))(x)
    np.testing.assert_allclose(painted[:, :3], 0.37, rtol=1e-9)
    np.testing.assert_allclose(painted[:, 3:], jax.jit(lambda x: sample(PREDICT, table, x, key))(x)[:, 3:], rtol=1e-8, atol=1e-9)


def test_wrappers_nest_in_any_order():
    x, known, mask = 1.5 * normal(4, 6), jnp.full((4, 6), 0.5), jnp.eye(6)[:4]
    wrappers = [
        lambda p: clip_x0(SCHEDULE, p),
        lambda p: guidance.dynamic_threshold(SCHEDULE, p, 80.0),
        lambda p: guidance.inpaint(SCHEDULE, p, known, mask),
        lambda p: guidance.classifier_free(p, PREDICT, 2.0),
        lambda p: guidance.classifier(SCHEDULE, p, lambda x, t: -jnp.sum(x**2, 1)),
    ]
    for shift in range(len(wrappers)):
        predict = PREDICT
        for wrap in wrappers[shift:] + wrappers[:shift]:
            predict = wrap(predict)
        assert_consistent(predict, x)


def test_a_classifier_where_there_is_no_signal():
    """At zero terminal SNR a change of eps says nothing of x_0 at T; below it, both halves make up x_t."""
    schedule = zero_terminal_snr(linear())
    predict = from_v(schedule, lambda x, t: jnp.cos(x))
    guided = guidance.classifier(schedule, predict, lambda x, t: -(x**2).sum(1), weight=2.0)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)))
    jax.tree.map(np.testing.assert_array_equal, guided(x, jnp.array([1000, 1000])), predict(x, jnp.array([1000, 1000])))
    x0, eps = guided(x, jnp.array([1, 700]))
    a = schedule.alpha_bar[[1, 700]][:, None]
    np.testing.assert_allclose(np.sqrt(a) * x0 + np.sqrt(1 - a) * eps, x, rtol=1e-9)
    np.testing.assert_allclose(eps, predict(x, jnp.array([1, 700])).eps + 2 * np.sqrt(1 - a) * 2 * x, rtol=1e-9)
