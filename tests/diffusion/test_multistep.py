"""DPM-Solver++(2M), PLMS and UniPC as tables; and RePaint's resampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import LENGTHS, THREE, fine, gaussian, mixture, rk4, rms, sliced_wasserstein, slope

from ddim_jax.diffusion.process import clip_x0, from_eps, from_x0, velocity
from ddim_jax.diffusion.sampling import sample, trajectory
from ddim_jax.diffusion.schedule import linear, log_snr_subsequence, subsequence, zero_terminal_snr
from ddim_jax.diffusion.solvers import ddim, dpmpp_2m, plms, repaint, unipc

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear()
EPS = mixture(SCHEDULE, **THREE)
PATH = jax.jit(functools.partial(trajectory, from_eps(SCHEDULE, EPS)))  # (table, x, key)
KEY = jax.random.key(3)


def latents(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# ---- diffusers


def in_double(scheduler, tau):
    """Gives a scheduler of diffusers our schedule and steps in float64; its formulas run in the precision they are given."""
    import torch

    scheduler.set_timesteps(len(tau) - 1)
    a = torch.tensor(SCHEDULE.alpha_bar[tau[::-1].copy()])
    scheduler.timesteps = torch.tensor(tau[:0:-1] - 1)
    scheduler.sigmas = torch.sqrt((1 - a) / a)
    scheduler.alphas, scheduler.betas = torch.sqrt(a), torch.sqrt(1 - a)  # read by IPNDM alone, which means the scales
    return scheduler


def diffusers_loop(scheduler, x, says=lambda eps, x, t: eps):
    import torch

    xs = [torch.tensor(x)]
    for t in scheduler.timesteps:
        x = jnp.asarray(xs[-1].numpy())
        output = says(EPS(x, jnp.full(len(x), int(t) + 1)), x, int(t) + 1)
        xs.append(scheduler.step(torch.tensor(np.array(output)), t, xs[-1]).prev_sample)
    return np.stack(xs)


@pytest.mark.parametrize("S", [5, 10, 50])
@pytest.mark.parametrize("spacing", ["trailing", "logsnr"])
@pytest.mark.parametrize("name, table, tolerance", [
    ("dpmpp_2m", dpmpp_2m, 1e-6),  # their 2M casts the sample to float32 in every step
    ("unipc", lambda s, tau: unipc(s, tau, 1), 1e-10),
    ("unipc", lambda s, tau: unipc(s, tau, 2), 1e-10),
    ("unipc", lambda s, tau: unipc(s, tau, 3), 1e-10),
    ("plms", plms, 1e-10),
], ids=["dpmpp_2m", "unipc1", "unipc2", "unipc3", "plms"])  # fmt: skip
def test_every_step_equals_that_of_diffusers(name, table, tolerance, S, spacing, request):
    """On any steps: DPMSolverMultistep and UniPC (to x_0 in the last step, of order 1), and IPNDM, which expects a network that
    predicts v, by the angles of a schedule of its own, and is given ours here.

    Their PNDM differs by convention: it asks the network twice in its first step (an improved Euler start), S + 1 times in
    all. Neither is wrong; ours asks once a step, as iPNDM does, whose authors found the start to matter little.
    """
    diffusers = pytest.importorskip("diffusers", reason="diffusers (with torch) is the reference here")
    tau = log_snr_subsequence(SCHEDULE, S) if spacing == "logsnr" else subsequence(1000, S, spacing)
    if name == "dpmpp_2m":
        scheduler, says = (
            diffusers.DPMSolverMultistepScheduler(final_sigmas_type="zero", euler_at_final=True),
            lambda eps, x, t: eps,
        )
    elif name == "unipc":
        order = int(request.node.callspec.id.split("unipc")[1][0])
        scheduler, says = diffusers.UniPCMultistepScheduler(final_sigmas_type="zero", solver_order=order), lambda eps, x, t: eps
    else:
        scheduler = diffusers.IPNDMScheduler()
        predict = from_eps(SCHEDULE, lambda x, t: EPS(x, t))
        says = lambda eps, x, t: velocity(SCHEDULE, predict(x, jnp.full(len(x), t)).x0, t, eps)
    x = latents(4, 3)
    theirs = diffusers_loop(in_double(scheduler, tau), x, says)
    np.testing.assert_allclose(PATH(table(SCHEDULE, tau), x, KEY).x, theirs, rtol=tolerance, atol=tolerance)


# ---- order of convergence, on the ODE of Eq. 14 between sigma = 20 and .02, against RK4 of 320 steps


def errors(sigmas, solver, eps_of, x):
    """RMS errors at the smallest sigma after S steps, without the step from there to x_0, which would add one error to all."""
    schedule, tau = fine(sigmas)
    eps = eps_of(schedule)
    run = jax.jit(functools.partial(sample, from_eps(schedule, eps)))
    exact = rk4(sigmas, eps, x)
    found = []
    for S in LENGTHS:
        table = solver(schedule, np.concatenate([[0], tau[1 :: 640 // S]]))
        end = run(jax.tree.map(lambda column: column[:-1], table), x, KEY)
        found.append(rms(end - exact))
    return found


UNIPC = {order: functools.partial(unipc, order=order) for order in (1, 2, 3)}
DATA = {
    "Gaussian": lambda schedule: gaussian(schedule, 0.3, 0.5),
    "mixture": lambda schedule: mixture(schedule, **THREE),
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    "solver, order",
    [(ddim, 1), (dpmpp_2m, 2), (plms, 2), (UNIPC[1], 2), (UNIPC[2], 3), (UNIPC[3], 3)],
    ids=["ddim", "dpmpp_2m", "plms", "unipc1", "unipc2", "unipc3"],
)
def test_orders_of_convergence(solver, order, data):
    """Oracle 13, in steps of one size in log(sigma): DDIM 1, 2M 2, PLMS 2 (Theorem 2 of its paper), UniPC p + 1. The order is
    read off the last doubling, where the others' terms have died away. UniPC-3's do not: its first and last steps are of lower
    order, so that 3 is certain and no more (on the Gaussian the two parts cancel near 160 steps, which is steeper than either).
    """
    found = errors(np.geomspace(0.02, 20, 641), solver, DATA[data], jnp.asarray(latents(200)))
    last = slope(LENGTHS[-2:], found[-2:])
    assert last + order < 0.15, (last, found)
    assert solver is UNIPC[3] or last + order > -0.15, (last, found)


def test_on_trailing_steps_the_last_one_decides():
    """Where the data's Gaussians are narrow, the step into x_0 from T / S errs alone nearly as much as the whole, whatever the
    order before it: UniPC-2 keeps less than half of its 3. Against the ODE over all 1000 steps.
    """
    narrow = THREE | {"stds": [0.05, 0.05, 0.03]}
    run = jax.jit(functools.partial(sample, from_eps(SCHEDULE, mixture(SCHEDULE, **narrow))))
    x = jnp.asarray(latents(500))
    end = run(unipc(SCHEDULE, np.arange(1001), 3), x, KEY)
    whole, last = [], []
    for S in (20, 160):
        tau = subsequence(1000, S, "trailing")
        whole.append(rms(run(unipc(SCHEDULE, tau), x, KEY) - end))
        last.append(rms(run(unipc(SCHEDULE, np.append(0, np.arange(tau[1], 1001)), 3), x, KEY) - end))
    assert slope([20, 160], whole) > -1.5, whole
    assert all(1 / 2 < a / b < 2 for a, b in zip(last, whole)), (last, whole)


def test_plms_reaches_its_order_where_its_premise_holds():
    """In steps of one size in sigma, the time of Eq. 14, the weights are Adams and Bashforth's own: from exact predictions, one
    step of order k errs by 1/S^(k+1). So the weights are right, and it is start and spacing that cost the rest.
    """
    sigmas = np.linspace(0.02, 20, 641)
    schedule, tau = fine(sigmas)
    eps = gaussian(schedule, 0.3, 2.0)  # smooth in sigma: x-bar varies as sqrt(4 + sigma^2)
    x_bar = lambda sigma: 0.3 + 25 * np.sqrt((4 + sigma**2) / (4 + 400))
    for order in (1, 2, 3, 4):
        found = []
        for S in (32, 64, 128):
            picked = tau[1 :: 640 // S]
            table, row = plms(schedule, np.concatenate([[0], picked]), order), S // 2  # the step down from the middle
            t, s, weights = table.t[row], table.s[row], table.eps[row]
            back = [table.t[row - k] for k in range(order)]
            exact = [eps(jnp.full(1, x_bar(sigmas[u - 1])) / np.sqrt(1 + sigmas[u - 1] ** 2), np.array([u]))[0] for u in back]
            x_t = x_bar(sigmas[t - 1]) / np.sqrt(1 + sigmas[t - 1] ** 2)
            x0 = (x_t - np.sqrt(1 - schedule.alpha_bar[t]) * exact[0]) / np.sqrt(schedule.alpha_bar[t])
            x_s = table.x0[row, 0] * x0 + weights @ np.array(exact)
            found.append(abs(x_s - x_bar(sigmas[s - 1]) / np.sqrt(1 + sigmas[s - 1] ** 2)))
        assert abs(slope([32, 64, 128], found) + order + 1) < 0.3, (order, found)  # of one step: an order more


@pytest.mark.slow
def test_quality_on_a_mixture_rises_with_steps_and_order():
    """Oracle 15: the Wasserstein distance of samples to data, sliced or here in one dimension. From PAPER.md, with its mixture
    another: DDIM's falls from S = 10 to 50 to less than half, and 2M at 10 is below DDIM at 20.
    """
    x = latents(20_000, 1)
    random = np.random.default_rng(1)
    component = random.choice(3, size=20_000, p=THREE["weights"])
    data = np.array(THREE["means"])[component] + np.array(THREE["stds"])[component] * random.standard_normal(20_000)
    distance = {}
    for solver in (ddim, dpmpp_2m):
        for S in (10, 20, 50):
            end = PATH(solver(SCHEDULE, log_snr_subsequence(SCHEDULE, S)), x, KEY).x[-1]
            distance[solver, S] = sliced_wasserstein(np.asarray(end), data[:, None])
    assert distance[ddim, 10] > distance[ddim, 20] > distance[ddim, 50], distance
    assert distance[ddim, 50] < distance[ddim, 10] / 2, distance
    assert distance[dpmpp_2m, 10] < distance[ddim, 20], distance


# ---- tables


@pytest.mark.parametrize("solver", [dpmpp_2m, plms, unipc])
@pytest.mark.parametrize("S", [1, 2, 3, 10])
def test_point_mass_data_is_found_in_any_number_of_steps(solver, S):
    """Oracle 7: where x_0 is always predicted as mu, every one of them ends there."""
    predict = from_eps(SCHEDULE, mixture(SCHEDULE, [1.0], [0.4], [0.0]))
    end = sample(predict, solver(SCHEDULE, subsequence(1000, S, "trailing")), latents(4, 3))
    np.testing.assert_allclose(end, 0.4, rtol=1e-9)


def test_first_orders_are_ddim():
    tau = subsequence(1000, 7, "linspace")
    jax.tree.map(np.testing.assert_array_equal, plms(SCHEDULE, tau, order=1), ddim(SCHEDULE, tau))
    for column in ("x0", "eps"):
        np.testing.assert_allclose(getattr(dpmpp_2m(SCHEDULE, tau), column)[0, 0], getattr(ddim(SCHEDULE, tau), column)[0, 0])


@pytest.mark.parametrize("solver", [dpmpp_2m, plms])
def test_pure_noise_is_no_obstacle(solver):
    """At zero terminal SNR lambda is -infinity: the first step is DDIM's; so is the second of 2M, which knows of no x_0 at a
    finite lambda before it. PLMS goes by the number of steps alone, so its second is Adams-Bashforth's.
    """
    schedule, tau = zero_terminal_snr(SCHEDULE), subsequence(1000, 10, "trailing")
    table, first_order = solver(schedule, tau), ddim(schedule, tau)
    rows = 2 if solver is dpmpp_2m else 1
    for ours, plain in ((table.x0, first_order.x0), (table.eps, first_order.eps)):
        np.testing.assert_allclose(ours[:rows, :1], plain[:rows], rtol=1e-12)
        np.testing.assert_array_equal(ours[:rows, 1:], 0)
    end = sample(from_x0(schedule, lambda x, t: jnp.full_like(x, 0.4)), table, latents(2, 3))
    np.testing.assert_allclose(end, 0.4, rtol=1e-9)


def test_a_predictor_that_clips_is_obeyed():
    """The last step of DDIM, 2M and UniPC is the last x_0 itself: with all clipped to [0, .1] the end lies there too. PLMS adds a
    mean of eps to it.
    """
    tau = subsequence(1000, 10, "trailing")
    predict = clip_x0(SCHEDULE, from_eps(SCHEDULE, EPS), 0.0, 0.1)
    for solver in (ddim, dpmpp_2m, unipc):
        end = sample(predict, solver(SCHEDULE, tau), latents(4, 3))
        assert np.all((end >= -1e-12) & (end <= 0.1 + 1e-12)), solver


def test_resampling_goes_down_and_up_as_the_two_steps_would():
    """A row t -> t of `repaint` is ddim's t -> s and then q(x_t | x_s): its weights times sqrt(a_t / a_s), its two noises added
    as variances. Algorithm 1 noises again "if u < U and t > 1": the last step, into x_0, is taken once.
    """
    tau = subsequence(1000, 6, "trailing")
    table, once = repaint(SCHEDULE, tau, eta=0.8, repeats=3), ddim(SCHEDULE, tau, 0.8)
    np.testing.assert_array_equal(table.t, [*np.repeat(once.t[:5], 3), once.t[5]])
    np.testing.assert_array_equal(table.s, [*np.stack([once.t, once.t, once.s], 1)[:5].ravel(), 0])
    for column, whole in zip(table[2:], once[2:]):
        np.testing.assert_array_equal(column[[2, 5, 8, 11, 14, 15]], whole)
    jax.tree.map(np.testing.assert_array_equal, repaint(SCHEDULE, tau[:2], 0.8, 3), ddim(SCHEDULE, tau[:2], 0.8))
    x, eps, z, z2 = latents(4, 50_000)
    t, s = once.t[1], once.s[1]
    a_t, a_s = SCHEDULE.alpha_bar[[t, s]]
    x0 = (x - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t)
    x_s = once.x0[1, 0] * x0 + once.eps[1, 0] * eps + once.noise[1] * z
    up = np.sqrt(a_t / a_s) * x_s + np.sqrt(1 - a_t / a_s) * z2
    row = table.x0[3, 0] * x0 + table.eps[3, 0] * eps
    left = up - row  # what is left is noise alone
    assert abs(np.corrcoef(left, row)[0, 1]) < 4 / np.sqrt(50_000)
    assert abs(left.std() / table.noise[3] - 1) < 4 / np.sqrt(2 * 50_000)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda tau: plms(SCHEDULE, tau, 5), "plms has order 1, 2, 3 or 4; got 5"),
        (lambda tau: unipc(SCHEDULE, tau, 4), "unipc has order 1, 2 or 3; got 4"),
        (lambda tau: unipc(zero_terminal_snr(SCHEDULE), tau), "unipc cannot start from pure noise"),
        (lambda tau: repaint(SCHEDULE, tau, 1.0, 0), "repeats is 0; every step is taken at least once"),
        (lambda tau: dpmpp_2m(SCHEDULE, tau[1:]), "tau must rise strictly from 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make(subsequence(1000, 10, "trailing"))
