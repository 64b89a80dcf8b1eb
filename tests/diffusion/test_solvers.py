import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import THREE, gaussian, mixture, paper_sampler, paper_steps, point, step_noise

from ddim_jax.diffusion.process import clip_x0, from_eps, from_v
from ddim_jax.diffusion.sampling import sample, trajectory
from ddim_jax.diffusion.schedule import SPACINGS, from_alpha_bar, linear, subsequence
from ddim_jax.diffusion.solvers import ddim, ddpm, encode

pytestmark = pytest.mark.usefixtures("x64")

BETAS = np.linspace(1e-4, 0.02, 1000)
SCHEDULE = linear()
KEY = jax.random.key(3)
LENGTHS, ETAS = [10, 20, 50, 100], [0.0, 0.2, 0.5, 1.0]


def sampler(eps_fn, clip: bool = False, run=trajectory):
    """A compiled function (table, x, key)."""
    predict = from_eps(SCHEDULE, eps_fn)
    return jax.jit(functools.partial(run, clip_x0(SCHEDULE, predict) if clip else predict))


def latents(shape=(4, 3)):
    return np.random.default_rng(0).standard_normal(shape)


def every_table(tau):
    return {**{f"eta {eta}": ddim(SCHEDULE, tau, eta) for eta in ETAS}, "sigma-hat": ddpm(SCHEDULE, tau, "large")}


# ---- other people's samplers, on a mixture of three Gaussians, whose eps is neither linear in x nor constant in t

EPS = mixture(SCHEDULE, **THREE)
RUN, RUN_CLIPPED = sampler(EPS), sampler(EPS, clip=True)


@pytest.mark.parametrize("spacing", ["leading", "quadratic"])
@pytest.mark.parametrize("S", LENGTHS)
def test_every_step_equals_the_papers_code(S, spacing):
    """Eq. 12 and 16 at each eta, and sigma-hat (D.3) with its clipping, from the same latents and noise.

    Where the paper's quadratic steps repeat (S = 50, 100), it is given ours; a test of the schedule compares the steps.
    """
    tau, x = subsequence(1000, S, spacing), latents()
    seq = paper_steps(1000, S, spacing)
    seq = seq if len(set(seq)) == S else [int(t) - 1 for t in tau[1:]]
    noise = step_noise(KEY, S, x.shape)
    for eta in ETAS:
        theirs = paper_sampler(BETAS, seq, EPS, x, noise, eta)
        np.testing.assert_allclose(RUN(ddim(SCHEDULE, tau, eta), x, KEY).x, theirs, rtol=1e-10, atol=1e-10, err_msg=f"{eta=}")
    theirs = paper_sampler(BETAS, seq, EPS, x, noise)
    np.testing.assert_allclose(RUN_CLIPPED(ddpm(SCHEDULE, tau, "large"), x, KEY).x, theirs, rtol=1e-10, atol=1e-10)


def in_double(scheduler):
    """diffusers keeps its schedule in float32; its formulas run in the precision of what they are given."""
    import torch

    scheduler.alphas_cumprod = torch.tensor(SCHEDULE.alpha_bar[1:])
    scheduler.final_alpha_cumprod = scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def diffusers_loop(scheduler, x, **step_arguments):
    """Every x of a loop over the scheduler's timesteps, which count from 0; the arguments hold one value for each step."""
    import torch

    xs = [torch.tensor(x)]
    for i, t in enumerate(scheduler.timesteps):
        eps = torch.tensor(np.array(EPS(jnp.asarray(xs[-1].numpy()), jnp.full(len(x), int(t) + 1))))
        xs.append(scheduler.step(eps, t, xs[-1], **{name: values[i] for name, values in step_arguments.items()}).prev_sample)
    return np.stack(xs)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("S", LENGTHS)
def test_every_step_equals_diffusers_ddim(S, spacing):
    """It goes from t to t - T // S whatever its steps are. These spacings, where S divides T, are those for which that is
    the next one; with 'linspace', say, it is not, and the paper's own loop above is the reference for any tau.
    """
    diffusers = pytest.importorskip("diffusers", reason="diffusers (with torch) is the reference here")
    import torch

    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing)
    in_double(scheduler).set_timesteps(S)
    tau, x = subsequence(1000, S, spacing), latents()
    np.testing.assert_array_equal(scheduler.timesteps.numpy() + 1, tau[:0:-1])
    noise = torch.tensor(step_noise(KEY, S, x.shape))
    for eta in ETAS:
        theirs = diffusers_loop(scheduler, x, eta=[eta] * S, variance_noise=noise if eta else [None] * S)
        np.testing.assert_allclose(RUN(ddim(SCHEDULE, tau, eta), x, KEY).x, theirs, rtol=1e-10, atol=1e-10, err_msg=f"{eta=}")


@pytest.mark.parametrize("S", [5, 10, 50])
def test_encoding_that_asks_at_the_arrival_equals_diffusers_inverse(S):
    """Its loop goes up from the image: the network is asked at the step that it arrives at, with x of the one that it leaves."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers (with torch) is the reference here")
    import torch

    scheduler = diffusers.DDIMInverseScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading")
    scheduler.alphas_cumprod = torch.tensor(SCHEDULE.alpha_bar[1:])
    scheduler.initial_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(S)
    tau, x0 = subsequence(1000, S, "leading"), 0.5 * latents()
    np.testing.assert_array_equal(scheduler.timesteps.numpy() + 1, tau[1:])
    theirs = diffusers_loop(scheduler, x0)
    np.testing.assert_allclose(RUN(encode(SCHEDULE, tau, "arrival"), x0, KEY).x, theirs, rtol=1e-10, atol=1e-10)
    assert np.abs(RUN(encode(SCHEDULE, tau), x0, KEY).x[-1] - theirs[-1]).max() > 1e-3  # the paper's asks elsewhere


def test_encoding_is_by_departure_or_by_arrival():
    table = encode(SCHEDULE, np.array([0, 10, 1000]), "arrival")
    np.testing.assert_array_equal([table.t, table.s], [[10, 1000], [10, 1000]])
    with pytest.raises(ValueError, match="ask is 'middle'; expected 'departure' or 'arrival'"):
        encode(SCHEDULE, np.array([0, 10, 1000]), "middle")


@pytest.mark.parametrize("variance, clip", [("small", False), ("large", False), ("large", True)])
@pytest.mark.parametrize("S, spacing", [(10, "linspace"), (20, "leading"), (50, "quadratic"), (100, "linspace")])
def test_every_step_equals_diffusers_ddpm(S, spacing, variance, clip, monkeypatch):
    """It takes any list of steps, each leading to the next in the list. With 'large' it adds no noise where it leaves the
    first step of all, but does where the last of the list is another ('trailing'), which is noise in the samples.
    """
    diffusers = pytest.importorskip("diffusers", reason="diffusers (with torch) is the reference here")
    import torch

    tau, x = subsequence(1000, S, spacing), latents()
    scheduler = in_double(diffusers.DDPMScheduler(clip_sample=clip, variance_type=f"fixed_{variance}"))
    scheduler.set_timesteps(timesteps=[int(t) - 1 for t in tau[:0:-1]])
    noise = iter(torch.tensor(step_noise(KEY, S, x.shape)))
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(noise))
    ours = (RUN_CLIPPED if clip else RUN)(ddpm(SCHEDULE, tau, variance), x, KEY).x
    np.testing.assert_allclose(ours, diffusers_loop(scheduler, x), rtol=1e-10, atol=1e-10)


# ---- data for which the answer is known

TRUE_NOISE = np.random.default_rng(1).standard_normal((4, 3))
RUN_POINT, RUN_TRUE = sampler(point(SCHEDULE, 0.4)), sampler(lambda x, t: jnp.asarray(TRUE_NOISE))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_point_mass_data_is_found_by_every_sampler(spacing):
    """Oracle 7: data that is always mu has eps = (x - sqrt(a) mu) / sqrt(1 - a), so x_0 is predicted exactly: always mu."""
    for S in (1, 10):
        for name, table in every_table(subsequence(1000, S, spacing)).items():
            x, x0 = RUN_POINT(table, latents(), KEY)
            np.testing.assert_allclose(x[-1], 0.4, rtol=1e-10, err_msg=name)
            np.testing.assert_allclose(x0, 0.4, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("S, spacing", [(1, "linspace"), (7, "trailing"), (10, "leading"), (10, "quadratic"), (100, "linspace")])
def test_where_eps_is_the_true_noise_every_tau_gives_its_x0(S, spacing):
    """Oracle 8: with eps fixed to the noise in x_T, every x_t of DDIM is sqrt(a_t) x_0 + sqrt(1 - a_t) eps (Eq. 4)."""
    tau = subsequence(1000, S, spacing)
    x0 = latents()
    a = SCHEDULE.alpha_bar[tau[::-1]][:, None, None]
    exact = np.sqrt(a) * x0 + np.sqrt(1 - a) * TRUE_NOISE
    np.testing.assert_allclose(RUN_TRUE(ddim(SCHEDULE, tau), exact[0], KEY).x, exact, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(RUN_TRUE(encode(SCHEDULE, tau), x0, KEY).x, exact[::-1], rtol=1e-10, atol=1e-10)


MEAN, STD = 0.3, 0.5


def gaussian_moments(tau, std) -> tuple[float, float]:
    """Mean and variance at x_0 of Eq. 12 from x_T ~ N(0, 1), on data N(MEAN, STD^2): each step maps x to

    sqrt(a_s) m + k (x - sqrt(a_t) m) + std z,  k = (sqrt(a_s a_t) STD^2 + sqrt((1 - a_s - std^2) (1 - a_t))) / D_t,
    with D_t = a_t STD^2 + 1 - a_t, since E[x_0 | x_t] = m + sqrt(a_t) STD^2 (x - sqrt(a_t) m) / D_t.
    """
    mean, variance = 0.0, 1.0
    for t, s, sigma in zip(tau[:0:-1], tau[-2::-1], std):
        a_t, a_s = SCHEDULE.alpha_bar[[t, s]]
        k = (np.sqrt(a_s * a_t) * STD**2 + np.sqrt((1 - a_s - sigma**2) * (1 - a_t))) / (a_t * STD**2 + 1 - a_t)
        mean, variance = np.sqrt(a_s) * MEAN + k * (mean - np.sqrt(a_t) * MEAN), k**2 * variance + sigma**2
    return mean, variance


@functools.cache
def gaussian_sampler():
    run = sampler(gaussian(SCHEDULE, MEAN, STD), run=sample)
    return jax.jit(jax.vmap(run, in_axes=(0, None, None)))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("eta", ETAS)
def test_gaussian_data_gets_exactly_the_mean_and_variance_of_the_affine_recursion(eta, spacing):
    """Oracle 9: there the sampler is affine, x_0 = c + A x_T + sum_i B_i noise_i z_i, so differences give A and each B_i."""
    S, x = 10, np.array([0.0, 1.0])
    tau = subsequence(1000, S, spacing)
    table, (t, s) = ddim(SCHEDULE, tau, eta), (tau[:0:-1], tau[-2::-1])
    tables = jax.tree.map(lambda column: np.stack([column] * (S + 1)), table)._replace(noise=np.eye(S + 1, S))
    out = np.asarray(gaussian_sampler()(tables, x, KEY))  # [S+1, 2]: with the noise of one step at a time, last with none
    response = (out[:S, 0] - out[S, 0]) / step_noise(KEY, S, x.shape)[:, 0]
    slope = out[S, 1] - out[S, 0]
    a_t, a_s = SCHEDULE.alpha_bar[t], SCHEDULE.alpha_bar[s]
    std = eta * np.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))  # Eq. 16
    np.testing.assert_allclose(table.noise, std, rtol=1e-10, atol=1e-15)
    mean, variance = gaussian_moments(tau, std)
    np.testing.assert_allclose([out[S, 0], slope**2 + np.sum((response * std) ** 2)], [mean, variance], rtol=1e-10)


@pytest.mark.parametrize("S, error", [(10, -0.113), (100, -0.0143), (1000, -0.00151)])
def test_variance_of_ddim_on_gaussian_data_falls_short_as_one_over_s(S, error):
    """Oracle 9: the ODE (Eq. 14) would end at variance STD^2 / (a_T STD^2 + 1 - a_T); the recursion above, worked out for
    'trailing' steps by itself, falls short of that by these numbers.
    """
    table = ddim(SCHEDULE, subsequence(1000, S, "trailing"))
    out = sampler(gaussian(SCHEDULE, MEAN, STD), run=sample)(table, np.array([0.0, 1.0]), KEY)
    a_T = SCHEDULE.alpha_bar[-1]
    limit = STD**2 / (a_T * STD**2 + 1 - a_T)
    assert abs((out[1] - out[0]) ** 2 - limit - error) < 0.006 * abs(error)  # they are given to three digits


@pytest.mark.parametrize("S, there, back", [(10, 0.829, 0.688), (100, 0.9816, 0.9635), (1000, 0.99812, 0.99625)])
def test_standard_normal_data_shrinks_by_the_cosines_of_the_angles(S, there, back):
    """Oracle 10: for data N(0, 1), eps = sqrt(1 - a) x, and each step of DDIM, up or down, multiplies x by the cosine of the
    difference of the angles theta, cos(theta) = sqrt(a). The numbers are the products over 'trailing' steps, and their squares.
    """
    tau = subsequence(1000, S, "trailing")
    gain = np.prod(np.cos(np.diff(np.arccos(np.sqrt(SCHEDULE.alpha_bar[tau])))))
    np.testing.assert_allclose([gain, gain**2], [there, back], rtol=1e-3)
    run, one = sampler(gaussian(SCHEDULE, 0.0, 1.0), run=sample), np.ones(1)
    up, down = run(encode(SCHEDULE, tau), one, KEY), run(ddim(SCHEDULE, tau), one, KEY)
    again = run(ddim(SCHEDULE, tau), up, KEY)
    np.testing.assert_allclose([up, down, again], [[gain], [gain], [gain**2]], rtol=1e-10)


# ---- tables


def test_ddpm_is_ddim_at_eta_one_and_sigma_hat_changes_its_noise_alone():
    tau = subsequence(1000, 20, "trailing")
    one, small, large = ddim(SCHEDULE, tau, 1.0), ddpm(SCHEDULE, tau), ddpm(SCHEDULE, tau, "large")
    jax.tree.map(np.testing.assert_array_equal, one, small)
    jax.tree.map(np.testing.assert_array_equal, one._replace(noise=0), large._replace(noise=0))
    a = SCHEDULE.alpha_bar[tau[::-1]]
    np.testing.assert_allclose(large.noise, [*np.sqrt(1 - a[:-2] / a[1:-1]), 0], rtol=1e-10)  # none into x_0


def test_tables_are_in_double_precision_and_go_down_or_up_the_same_pairs():
    tau = np.array([0, 1, 10, 1000])
    down, up = ddim(SCHEDULE, tau), encode(SCHEDULE, tau)
    np.testing.assert_array_equal([down.t, down.s], [[1000, 10, 1], [10, 1, 0]])
    np.testing.assert_array_equal([up.t, up.s], [[0, 1, 10], [1, 10, 1000]])
    assert all(column.dtype == np.float64 for column in (*down[2:], *up[2:]))
    assert down.x0.shape == down.eps.shape == (3, 1) and not down.noise.any() and not up.noise.any()


@pytest.mark.parametrize("S", [10, 100])
def test_standard_normal_data_over_equal_angles(S):
    """Oracle 10: there v = 0 is best, and S steps of pi / (2 S) leave cos(pi / (2 S))^S = 1 - pi^2 / (8 S) + O(1 / S^2) of x."""
    schedule = from_alpha_bar(np.append(np.cos(np.pi / 2 * np.arange(S) / S) ** 2, 0))
    x, predict = latents(), from_v(schedule, lambda x, t: jnp.zeros_like(x))
    left = sample(predict, ddim(schedule, np.arange(S + 1)), x) / x
    np.testing.assert_allclose(left, np.cos(np.pi / (2 * S)) ** S, rtol=1e-10)
    assert np.all(np.abs(left - (1 - np.pi**2 / (8 * S))) < (np.pi**2 / (8 * S)) ** 2)


@pytest.mark.parametrize(
    "tau, says",
    [
        ([0, 5, 5], r"tau must rise strictly from 0 to at most 1000.*got \[0 5 5\]"),
        ([1, 5, 9], r"tau must rise strictly from 0 .*got \[1 5 9\]"),
        ([0, 5, 1001], r"tau must rise strictly from 0 to at most 1000.*got \[   0    5 1001\]"),
        ([0, 0.5, 1], r"tau must be \[S\+1\] whole numbers with S >= 1, as `schedule.subsequence` gives them; got"),
        ([0], r"tau must be \[S\+1\] whole numbers"),
        (5, r"tau must be \[S\+1\] whole numbers"),
    ],
)
@pytest.mark.parametrize("solver", [ddim, ddpm, encode])
def test_a_tau_that_does_not_rise_from_zero_is_refused(solver, tau, says):
    with pytest.raises(ValueError, match=says):
        solver(SCHEDULE, tau)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda tau: ddim(SCHEDULE, tau, -0.5), "eta is -0.5; .* between 0 and 1.0825"),
        (lambda tau: ddim(SCHEDULE, tau, -1e-9), "eta is -1e-09; .* between 0 and 1.0825"),
        (lambda tau: ddim(SCHEDULE, tau, 1.1), "eta is 1.1; .* between 0 and 1.0825, where sigma"),
        (lambda tau: ddim(SCHEDULE, tau, np.nan), "eta is nan"),
        (lambda tau: ddpm(SCHEDULE, tau, "huge"), "unknown variance 'huge'; expected 'small' or 'large'"),
    ],
)
def test_impossible_variances_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make(subsequence(1000, 10, "trailing"))
