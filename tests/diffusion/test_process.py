import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.diffusion import process as pr
from ddim_jax.diffusion.schedule import from_alpha_bar, from_betas, linear, subsequence

STEPS = [(1, 0), (2, 1), (500, 499), (1000, 999), (100, 0), (1000, 1), (777, 123)]  # t, s


def normal(shape, seed=0, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


# ---- Eq. 4 and 9


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4, 1)])
def test_steps_are_a_number_or_one_for_each_example(shape, x64):
    """By hand: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps with a = 1, .9, .72, .504."""
    schedule, t = from_betas([0.1, 0.2, 0.3]), np.array([3, 0, 1])
    x0, eps = normal(shape), normal(shape, 1)
    a = np.array([0.504, 1, 0.9]).reshape(3, *[1] * (len(shape) - 1))
    x_t = pr.q_sample(schedule, x0, t, eps)
    np.testing.assert_allclose(x_t, np.sqrt(a) * x0 + np.sqrt(1 - a) * eps, rtol=1e-10)
    for one in range(3):
        np.testing.assert_allclose(pr.q_sample(schedule, x0, int(t[one]), eps)[one], x_t[one], rtol=1e-10)
    np.testing.assert_allclose(pr.predict_x0(schedule, x_t, jnp.asarray(t), eps), x0, rtol=1e-10)
    np.testing.assert_allclose(pr.predict_eps(schedule, x_t, t, x0)[::2], eps[::2], rtol=1e-10)  # t = 0 holds no noise


def test_q_sample_has_the_moments_of_its_name():
    """x_t of a fixed x_0 is N(sqrt(a_t) x_0, 1 - a_t), within 4 standard errors (sqrt(2/n) of the variance, for n draws)."""
    n, a = 100_000, linear().alpha_bar[300]
    x_t = pr.q_sample(linear(), jnp.full(n, 0.7), 300, normal(n, dtype=np.float32))
    assert abs(np.mean(x_t) - np.sqrt(a) * 0.7) < 4 * np.sqrt((1 - a) / n)
    assert abs(np.var(x_t) / (1 - a) - 1) < 4 * np.sqrt(2 / n)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32])
@pytest.mark.parametrize("compiled", [False, True])
def test_arrays_of_half_and_single_precision_meet_scales_in_float32(dtype, compiled):
    def scales(x, t):
        return pr.signal_scale(linear(), t, x), pr.noise_scale(linear(), t, x), pr.step_std(linear(), t, t - 1, 0.5, x)

    for scale in (jax.jit(scales) if compiled else scales)(jnp.zeros((2, 3), dtype), jnp.array([5, 900])):
        assert scale.dtype == jnp.float32 and scale.shape == (2, 1)


def test_single_precision_stays_so_in_every_function():
    schedule, x, t, s = linear(), normal((2, 3), dtype=np.float32), jnp.array([5, 900]), jnp.array([4, 800])
    outputs = jax.jit(
        lambda t, s: (
            pr.q_sample(schedule, x, t, x),
            pr.predict_x0(schedule, x, t, x),
            pr.predict_eps(schedule, x, t, x),
            pr.ddim_step(schedule, x, x, t, s, 0.5, x),
            pr.reverse_posterior(schedule, x, x, t, s, pr.step_std(schedule, t, s, 1.0, x)),
            pr.clip_x0(schedule, pr.from_eps(schedule, lambda x, t: x))(x, t),
        )
    )(t, s)
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("num", [1, 10, 100])
def test_single_precision_coefficients_agree_with_double(num):
    """At both ends of the schedule a difference of two numbers near 1 would lose most of its digits in float32."""
    t = np.arange(num, 1001)
    for function in (pr.step_std, pr.transition_std):
        with np.errstate(invalid="ignore", divide="ignore"):
            exact = function(linear(), t, t - num)
        np.testing.assert_allclose(function(linear(), t, t - num, like=jnp.zeros(len(t))), exact, rtol=1e-4)
    std = pr.step_std(linear(), t, t - num, like=jnp.zeros(len(t)))
    a_s, a_t = linear().alpha_bar[t - num], linear().alpha_bar[t]
    direction = (1 - a_s) * np.sqrt(a_t / a_s / (1 - a_t))  # at eta = 1, from Eq. 16
    np.testing.assert_allclose(pr.direction_scale(linear(), t - num, std, std), direction, rtol=1e-4, atol=1e-6)


# ---- Eq. 7, 12 and 16


@pytest.mark.parametrize("seed", range(5))
def test_marginals_follow_from_any_choice_of_std(seed, x64):
    """Oracle 1: Lemma 1 of the paper. Down any tau with any std, q(x_t | x_0) is N(sqrt(a_t) x_0, 1 - a_t) at every step."""
    random = np.random.default_rng(seed)
    schedule = from_betas(random.uniform(1e-4, 0.3, 40))
    tau = np.concatenate([[0], np.sort(random.choice(np.arange(1, 41), 12, replace=False))])
    t, s = tau[:0:-1], tau[-2::-1]
    std = random.uniform(0, 1, 12) * np.sqrt(1 - schedule.alpha_bar[s])
    ones, zeros = jnp.ones(12), jnp.zeros(12)
    of_x, of_x0 = (pr.reverse_posterior(schedule, x, x0, t, s, std).mean for x, x0 in [(ones, zeros), (zeros, ones)])
    mean, variance = np.sqrt(schedule.alpha_bar[tau[-1]]), 1 - schedule.alpha_bar[tau[-1]]
    for i in range(12):
        mean, variance = of_x[i] * mean + of_x0[i], of_x[i] ** 2 * variance + std[i] ** 2
        np.testing.assert_allclose(mean, np.sqrt(schedule.alpha_bar[s[i]]), rtol=1e-10)
        np.testing.assert_allclose(variance, 1 - schedule.alpha_bar[s[i]], atol=1e-10)


def test_eta_one_is_the_posterior_of_ddpm(x64):
    """Oracle 4: DDPM Eq. 7, [sqrt(a_{t-1}) beta x_0 + sqrt(1 - beta) (1 - a_{t-1}) x_t] / (1 - a_t), variance beta~."""
    beta = np.linspace(1e-4, 0.02, 1000)
    a = np.cumprod(1 - beta)
    before = np.concatenate([[1], a[:-1]])
    x_t, x0, t = normal(1000), normal(1000, 1), np.arange(1, 1001)
    std = pr.step_std(linear(), t, t - 1, eta=1.0)
    mean = np.sqrt(before) * beta / (1 - a) * x0 + np.sqrt(1 - beta) * (1 - before) / (1 - a) * x_t
    np.testing.assert_allclose(std**2, (1 - before) / (1 - a) * beta, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(pr.reverse_posterior(linear(), x_t, x0, t, t - 1, std).mean, mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(pr.transition_std(linear(), t, t - 1) ** 2, beta, rtol=1e-9)  # Eq. 3, sigma-hat


def test_each_example_of_the_posterior_has_its_own_std(x64):
    schedule, std = linear(), np.array([0.1, 0.6])[:, None]
    x_t, x0, t, s = normal((2, 3)), normal((2, 3), 1), np.array([200, 900]), np.array([100, 800])
    together = pr.reverse_posterior(schedule, x_t, x0, t, s, std)
    for i in range(2):
        alone = pr.reverse_posterior(schedule, x_t[i], x0[i], int(t[i]), int(s[i]), float(std[i, 0]))
        np.testing.assert_allclose(together.mean[i], alone.mean, rtol=1e-10)


@pytest.mark.parametrize("t, s", STEPS)
def test_six_ways_to_write_a_step_of_ddim(t, s, x64):
    """Oracle 6: Eq. 12 at eta = 0 is one function under many names; each is written out from its own source."""
    a_t, a_s = linear().alpha_bar[[t, s]]
    x, eps = normal(5), normal(5, 1)
    step, x0 = pr.ddim_step(linear(), x, eps, t, s)
    np.testing.assert_allclose(x0, (x - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t), rtol=1e-10)
    sigma_t, sigma_s = np.sqrt((1 - a_t) / a_t), np.sqrt((1 - a_s) / a_s)
    theta_t, theta_s = np.arccos(np.sqrt(a_t)), np.arccos(np.sqrt(a_s))
    velocity = np.sqrt(a_t) * eps - np.sqrt(1 - a_t) * x0
    forms = {
        "Euler's method on Eq. 14": np.sqrt(a_s) * (x / np.sqrt(a_t) + (sigma_s - sigma_t) * eps),
        "transfer part of PNDM, arXiv 2202.09778 Eq. 11": np.sqrt(a_s / a_t) * x
        - (a_s - a_t) / (np.sqrt(a_t) * (np.sqrt((1 - a_s) * a_t) + np.sqrt((1 - a_t) * a_s))) * eps,
        "rotation by the angle theta, arXiv 2202.00512": np.cos(theta_s - theta_t) * x + np.sin(theta_s - theta_t) * velocity,
    }
    if s > 0:  # lambda is infinite at 0
        h = np.log(sigma_t / sigma_s)  # lambda_s - lambda_t, lambda = log(sqrt(a / (1 - a)))
        forms["DPM-Solver-1, arXiv 2206.00927 Eq. 3.7"] = np.sqrt(a_s / a_t) * x - np.sqrt(1 - a_s) * np.expm1(h) * eps
        forms["DPM-Solver++ of order 1"] = np.sqrt((1 - a_s) / (1 - a_t)) * x - np.sqrt(a_s) * np.expm1(-h) * x0
    for name, expected in forms.items():
        np.testing.assert_allclose(step, expected, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("S, limit", [(1000, 1.354), (10, 1.082)])
def test_eta_has_the_limit_where_no_direction_is_left(S, limit):
    """sigma^2 = 1 - a_s at eta^2 = (1 - a_t) / (1 - a_t / a_s), by Eq. 16, and the tightest step decides. By hand: at S = 1000
    t = 2, beta_1 = 1e-4 and beta_2 = 1.199e-4, so sqrt(2.199 / 1.199) = 1.354; at S = 10 the first, from a_1000 = 4.036e-5 to
    a_900 = 2.752e-4, so sqrt(.99996 / .85335) = 1.0825.
    """
    tau = subsequence(1000, S, "trailing")
    t, s = tau[2:], tau[1:-1]
    assert np.all(pr.step_std(linear(), t, s, limit - 0.001) ** 2 < 1 - linear().alpha_bar[s])
    with pytest.raises(ValueError, match=rf"eta is {limit + 0.002:.3f}; .* between 0 and {limit}"):
        pr.step_std(linear(), t, s, round(limit + 0.002, 3))
    with pytest.raises(ValueError, match="eta is -0.1; .* between 0 and"):
        pr.step_std(linear(), t, s, -0.1)


# ---- predictors


def test_a_predictor_from_eps_holds_both_halves(x64):
    x, t = normal((4, 3)), jnp.array([1, 10, 500, 1000])
    x0, eps = pr.from_eps(linear(), lambda x, t: jnp.sin(x))(x, t)
    np.testing.assert_array_equal(eps, jnp.sin(x))
    np.testing.assert_allclose(pr.q_sample(linear(), x0, t, eps), x, rtol=1e-10)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_predictors_agree_whatever_the_network_says(kind, x64):
    """A network that knows x_t's own halves gives them back by each route, at every step and for each example's own."""
    x0, eps, t = normal((5, 3)), normal((5, 3), 1), jnp.array([1, 2, 10, 500, 1000])
    x = pr.q_sample(linear(), x0, t, eps)
    says = {"eps": eps, "x0": x0, "v": pr.velocity(linear(), x0, t, eps)}[kind]
    found = pr.make_predictor(linear(), lambda x, t: says, kind)(x, t)
    np.testing.assert_allclose(found.x0, x0, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-8, atol=1e-9)


def test_a_predictor_of_an_unknown_kind():
    with pytest.raises(ValueError, match="prediction is 'epsilon'; expected one of eps, x0, v"):
        pr.make_predictor(linear(), lambda x, t: x, "epsilon")


def test_velocity_is_the_derivative_by_the_angle(x64):
    """arXiv 2202.00512, appendix D: x = cos(angle) x_0 + sin(angle) eps, and v = dx / d angle; by central differences."""
    x0, eps, t, h = normal((3,)), normal((3,), 1), 400, 1e-6
    angle = np.arccos(np.sqrt(linear().alpha_bar[t]))
    along = lambda angle: np.cos(angle) * x0 + np.sin(angle) * eps
    np.testing.assert_allclose(pr.velocity(linear(), x0, t, eps), (along(angle + h) - along(angle - h)) / (2 * h), rtol=1e-8)


@pytest.mark.parametrize("make", [pr.from_x0, pr.from_v])
def test_clean_images_are_their_own_x0(make, x64):
    """At t = 0, where encoding begins, x is x_0, and eps is what the network implies at t = 1, where it was trained."""
    x, says = normal((2, 3)), normal((2, 3), 1)
    seen = make(linear(), lambda x, t: says)(x, jnp.array([0, 1]))
    np.testing.assert_array_equal(seen.x0[0], x[0])
    at_one = make(linear(), lambda x, t: says)(x, jnp.array([1, 1]))
    np.testing.assert_array_equal(seen.eps, at_one.eps)


@pytest.mark.parametrize("make", [pr.from_x0, pr.from_v])
def test_from_pure_noise_x0_and_v_still_tell_x0(make, x64):
    """At zero terminal SNR x_T is eps; v is then -x_0."""
    schedule, x, x0 = from_alpha_bar([1, 0.5, 0]), normal((2, 3)), normal((2, 3), 1)
    found = make(schedule, lambda x, t: x0 if make is pr.from_x0 else -x0)(x, jnp.array([2, 2]))
    np.testing.assert_allclose(found.x0, x0)
    np.testing.assert_allclose(found.eps, x)


def test_variance_that_a_step_loses(x64):
    """Oracle 11: on data N(0, r^2), where x_t has variance D_t = a_t r^2 + 1 - a_t, one step with the best eps ends short of
    D_s by c^2 r^2 (1 - a_t) / D_t, c = sqrt(a_s) - sqrt(1 - a_s - std^2) sqrt(a_t / (1 - a_t)).
    """
    r, (t, s) = 0.5, (600, 400)
    a_t, a_s = linear().alpha_bar[[t, s]]
    D_t, D_s = a_t * r**2 + 1 - a_t, a_s * r**2 + 1 - a_s
    for eta in (0.0, 0.6, 1.0):
        std = pr.step_std(linear(), t, s, eta)
        eps = np.sqrt(1 - a_t) / D_t  # of x_t = 1
        slope, _ = pr.ddim_step(linear(), jnp.ones(1), eps * jnp.ones(1), t, s, eta, jnp.zeros(1))
        c = np.sqrt(a_s) - np.sqrt(1 - a_s - std**2) * np.sqrt(a_t / (1 - a_t))
        np.testing.assert_allclose(D_s - (slope[0] ** 2 * D_t + std**2), c**2 * r**2 * (1 - a_t) / D_t, rtol=1e-9)


def test_clipping_moves_eps_along_so_that_both_still_make_up_x(x64, low=-1.0, high=0.5):
    """And a step from the two is the posterior mean for the clipped x_0 (Eq. 7)."""
    x, t, s = 2 * normal((4, 50)), np.array([2, 10, 500, 1000]), np.array([1, 9, 400, 900])
    raw = pr.from_eps(linear(), lambda x, t: jnp.sin(3 * x))
    x0, eps = pr.clip_x0(linear(), raw, low, high)(x, t)
    before = raw(x, t)
    inside = (low <= before.x0) & (before.x0 <= high)
    assert 0 < np.mean(inside) < 1
    np.testing.assert_allclose(x0, np.clip(before.x0, low, high))
    np.testing.assert_array_equal(eps[inside], before.eps[inside])
    np.testing.assert_allclose(pr.q_sample(linear(), x0, t, eps), x, rtol=1e-10)
    std = pr.step_std(linear(), t, s, 0.5, x)
    from_pair = pr.signal_scale(linear(), s, x) * x0 + pr.direction_scale(linear(), s, std, x) * eps
    np.testing.assert_allclose(pr.reverse_posterior(linear(), x, x0, t, s, std).mean, from_pair, rtol=1e-10)


def test_clipping_clean_data_changes_no_eps():
    """At t = 0, where encoding begins, x_0 is x and there is no noise to move."""
    x = jnp.array([[-1.5, 0.2, 3.0]])
    x0, eps = pr.clip_x0(linear(), pr.from_eps(linear(), lambda x, t: 0.3 * x))(x, jnp.array([0]))
    np.testing.assert_allclose(x0, [[-1, 0.2, 1]])
    np.testing.assert_allclose(eps, 0.3 * x)


def test_a_published_network_numbers_its_steps_from_zero():
    network = pr.number_from_zero(lambda x, step: (x, step))
    _, step = network(None, jnp.array([0, 1, 2, 1000]))
    np.testing.assert_array_equal(step, [0, 0, 1, 999])


@pytest.mark.parametrize("s", [0, 5])
def test_the_gradient_in_eta_is_finite_into_x0_too(s, x64):
    """By hand, d x_s / d eta = r (z - std / sqrt(1 - a_s - std^2) eps), std = eta r of Eq. 16; into x_0, r = 0, and so is it."""
    eps, z, eta = normal((2, 3)), normal((2, 3), 1), 0.6
    found = jax.grad(lambda eta: pr.ddim_step(linear(), normal((2, 3), 2), eps, 50, s, eta, z)[0].sum())(eta)
    a_t, a_s = linear().alpha_bar[[50, s]]
    r = np.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
    expected = r * (z - (eta * r / np.sqrt(1 - a_s - (eta * r) ** 2) if s else 0) * eps).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_std_of_a_step_from_an_unknown_t_to_a_known_s(x64):
    for s in (0, 3):
        found = jax.jit(lambda t: pr.step_std(linear(), t, s, 0.5))(jnp.array([10, 900]))
        np.testing.assert_allclose(found, pr.step_std(linear(), np.array([10, 900]), s, 0.5), rtol=1e-10)
        np.testing.assert_allclose(jax.jit(lambda t: pr.step_std(linear(), t, s, 0.5))(900), found[1], rtol=1e-10)


# ---- one number for each example


def test_an_eta_for_each_example_is_that_examples_own(x64):
    """Of three examples with three values each, so that [B] against the last axis would be taken without a word."""
    x, eps, z = normal((3, 3)), normal((3, 3), 1), normal((3, 3), 2)
    eta = np.array([0.0, 0.5, 1.0])
    t, s = np.array([10, 500, 900]), np.array([0, 400, 899])
    for given in (eta, jnp.asarray(eta), eta[:, None]):
        together, _ = pr.ddim_step(linear(), x, eps, t, s, given, z)
        for i in range(3):
            alone, _ = pr.ddim_step(linear(), x[i : i + 1], eps[i : i + 1], int(t[i]), int(s[i]), eta[i], z[i : i + 1])
            np.testing.assert_allclose(together[i], alone[0], rtol=1e-10)
    compiled = jax.jit(lambda eta: pr.ddim_step(linear(), x, eps, t, s, eta, z)[0])(eta)
    np.testing.assert_allclose(compiled, pr.ddim_step(linear(), x, eps, t, s, eta, z)[0], rtol=1e-10)


def test_each_eta_is_held_against_its_own_steps_limit():
    """sqrt((1 - a_t) / (1 - a_t / a_s)) is 1.354 for 2 -> 1 and 7.07 for 1000 -> 999 (beta .02): 1.3 suits both, 5 the second."""
    x, t, s = jnp.zeros((2, 2)), np.array([2, 1000]), np.array([1, 999])
    for eta in (np.array([1.3, 5.0]), np.array([[1.3], [5.0]])):
        pr.ddim_step(linear(), x, x, t, s, eta, x)
        with pytest.raises(ValueError, match=r"(?s)eta is .*; for these steps it must lie between 0 and 1.354"):
            pr.ddim_step(linear(), x, x, t, s, eta[::-1], x)


@pytest.mark.parametrize("posterior", [pr.reverse_posterior, pr.forward_posterior])
def test_a_std_for_each_example_is_that_examples_own(posterior, x64):
    x, x0, std = normal((3, 3)), normal((3, 3), 1), np.array([0.0, 0.1, 0.2])
    steps = (900, 800) if posterior is pr.reverse_posterior else (800, 900)
    for given in (std, jnp.asarray(std), std[:, None]):
        together = posterior(linear(), x, x0, *steps, given)
        assert together.std.shape == (3, 1)
        for i in range(3):
            alone = posterior(linear(), x[i : i + 1], x0[i : i + 1], *steps, std[i])
            np.testing.assert_allclose(together.mean[i], alone.mean[0], rtol=1e-10)
            np.testing.assert_allclose(together.std[i, 0], alone.std, rtol=1e-10)
    with pytest.raises(ValueError, match=r"std is .*; it must lie between 0 and sqrt"):
        pr.reverse_posterior(linear(), x, x0, np.array([5, 900, 900]), np.array([1, 800, 800]), std + 0.1)


@pytest.mark.parametrize("value", [np.zeros(2), np.zeros((3, 1)), np.zeros((1, 1, 1, 1))])
def test_numbers_for_other_examples_than_there_are(value):
    x = jnp.zeros((3, 4, 4))
    says = r"has shape \(.*\) for examples of shape \(3, 4, 4\); expected a number, one for each example \[3\], or an array"
    with pytest.raises(ValueError, match="eta " + says):
        pr.ddim_step(linear(), x, x, 10, 5, value, x)
    with pytest.raises(ValueError, match="std " + says):
        pr.reverse_posterior(linear(), x, x, 10, 5, value)


# ---- bad input


@pytest.mark.parametrize("t", [-1, 1001, 1.5, np.array([3, 1001]), True])
def test_steps_outside_the_schedule_are_refused(t):
    with pytest.raises(ValueError, match="steps must be whole numbers from 0 to 1000, the length of the schedule; got"):
        pr.q_sample(linear(), jnp.zeros((2, 1)), t, jnp.zeros((2, 1)))


@pytest.mark.parametrize("std, s", [(0.9, 100), (-0.1, 100), (np.array([[0.5], [0.1]]), np.array([100, 900]))])
def test_a_std_that_leaves_no_direction_is_refused(std, s):
    """sqrt(1 - a_100) = .321, sqrt(1 - a_900) = .99986: .5 is too much for the first example, though not for the second."""
    x = jnp.zeros((2, 1))
    with pytest.raises(ValueError, match=r"(?s)std is .*; it must lie between 0 and sqrt\(1 - alpha_bar\[s\]\) ="):
        pr.reverse_posterior(linear(), x, x, 1000, s, std)


def test_a_random_step_needs_noise():
    with pytest.raises(ValueError, match=r"eta is 0.5, so the step is random: pass noise.* of shape \(2, 3\)"):
        pr.ddim_step(linear(), jnp.zeros((2, 3)), jnp.zeros((2, 3)), 10, 5, eta=0.5)


def test_eps_says_nothing_of_x0_where_no_signal_is_left():
    with pytest.raises(ValueError, match=r"alpha_bar\[T\] is 0 \(zero terminal SNR\).* eps prediction cannot start there"):
        pr.from_eps(from_alpha_bar([1, 0.5, 0]), lambda x, t: x)


def test_steps_that_are_known_are_checked_wherever_they_are():
    """As JAX arrays, and as constants of compiled code; upwards there is no noise for eta to scale."""
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="steps must be whole numbers from 0 to 1000"):
        pr.q_sample(linear(), x, jnp.array([1001, -1]), x)
    t = jnp.array([10, 500])
    compiled = jax.jit(lambda x: pr.ddim_step(linear(), x, x, t, t - 5, 0.5, x)[0])
    np.testing.assert_allclose(compiled(x), pr.ddim_step(linear(), x, x, t, t - 5, 0.5, x)[0], rtol=1e-6)
    with pytest.raises(ValueError, match="eta is 0.5 for steps from 5 up to 10"):
        pr.ddim_step(linear(), x, x, 5, 10, 0.5, x)
