import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import LENGTHS, THREE, fine, mixture, rk4, rms, slope, step_noise

from ddim_jax.diffusion.process import ddim_step, from_eps, predict_x0
from ddim_jax.diffusion.sampling import interpolate, interpolate_grid, reconstruct, sample, slerp, trajectory
from ddim_jax.diffusion.schedule import linear, subsequence
from ddim_jax.diffusion.solvers import StepTable, ddim, ddpm, encode

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear()
EPS = mixture(SCHEDULE, **THREE)
PREDICT = from_eps(SCHEDULE, EPS)
RUN, PATH = (jax.jit(functools.partial(run, PREDICT)) for run in (sample, trajectory))  # (table, x, key)
KEY = jax.random.key(5)


def latents(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


# ---- order of convergence

SIGMAS = np.geomspace(0.02, 20, 641)


@functools.cache
def ends_of_the_ode():
    """x at sigma = .02, from the same latents at sigma = 20: by DDIM in S steps each, and by RK4.

    The step from there to x_0 is left out: it would add one error to every S.
    """
    log_spaced, steps = fine(SIGMAS)
    eps, x = mixture(log_spaced, **THREE), latents(200)
    run = jax.jit(functools.partial(sample, from_eps(log_spaced, eps)))
    tables = [ddim(log_spaced, np.concatenate([[0], steps[1 :: 640 // S]])) for S in LENGTHS]
    ddims = [run(jax.tree.map(lambda column: column[:-1], table), x, KEY) for table in tables]
    return np.stack(ddims), rk4(SIGMAS, eps, x)


def test_ddim_is_of_first_order():
    """Oracle 13: DDIM is Euler's method on Eq. 14, so on mixture data its error falls as 1/S."""
    ddims, exact = ends_of_the_ode()
    errors = [rms(x - exact) for x in ddims]
    assert -1.05 < slope(LENGTHS, errors) < -0.86, errors
    assert abs(slope(LENGTHS[-2:], errors[-2:]) + 1) < 0.02, errors


def test_twice_the_steps_halve_the_change_and_richardson_gains_an_order():
    """Oracle 16: with error c/S + O(1/S^2), x_2S - x_S is O(1/S) and 2 x_2S - x_S has error O(1/S^2)."""
    ddims, exact = ends_of_the_ode()
    changes = [rms(x) for x in np.diff(ddims, axis=0)]
    extrapolated = [rms(x - exact) for x in 2 * ddims[1:] - ddims[:-1]]
    assert abs(slope(LENGTHS[1:], changes) + 1) < 0.05, changes
    assert abs(slope(LENGTHS[1:], extrapolated) + 2) < 0.1, extrapolated


def test_reconstruction_error_falls_as_one_over_s():
    """Oracle 14: encoding and decoding take Euler steps both ways, so x_0 returns up to O(1/S) (1/S^2 in MSE)."""
    x0, steps = latents(200) * 0.5, [50, 200, 500]
    errors = [rms(reconstruct(PREDICT, SCHEDULE, subsequence(1000, S, "trailing"), x0) - x0) for S in steps]
    assert -1.05 < slope(steps, errors) < -0.9, errors


# ---- the scan


@pytest.mark.parametrize("shape, eta, keys", [((3,), 0.0, KEY), ((2, 3, 3, 1), 0.7, KEY), ((2, 3), 0.7, jax.random.split(KEY))])
def test_the_scan_is_a_loop_of_ddim_steps(shape, eta, keys):
    """Oracle 20. Step i draws its noise from fold_in(key, i): of the batch, or of each example from its own key."""
    tau, x = subsequence(1000, 6, "quadratic"), latents(*shape)
    noise = np.stack([step_noise(key, 6, shape[1:]) for key in keys], axis=1) if keys.ndim else step_noise(keys, 6, shape)
    path = PATH(ddim(SCHEDULE, tau, eta), x, keys)
    assert path.x.shape == (7, *shape) and path.x0.shape == (6, *shape)
    np.testing.assert_array_equal(path.x[0], x)
    for i, (t, s) in enumerate(zip(tau[:0:-1], tau[-2::-1])):
        x, x0 = ddim_step(SCHEDULE, x, EPS(x, t), int(t), int(s), eta, noise[i] if eta else None)
        np.testing.assert_allclose(path.x0[i], x0, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(path.x[i + 1], x, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(RUN(ddim(SCHEDULE, tau, eta), latents(*shape), keys), x, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(path.x[-1], path.x0[-1], rtol=1e-10)  # the last step is noise-free: f(x_{tau_1})


def test_ddim_ignores_the_key():
    """Oracle 20."""
    table, x = ddim(SCHEDULE, subsequence(1000, 5, "linspace")), latents(3, 2)
    end = RUN(table, x, KEY)
    np.testing.assert_array_equal(end, RUN(table, x, jax.random.key(9)))
    np.testing.assert_allclose(end, sample(PREDICT, table, x), rtol=1e-10)
    random = ddim(SCHEDULE, subsequence(1000, 5, "linspace"), eta=1.0)
    assert rms(RUN(random, x, KEY) - RUN(random, x, jax.random.key(9))) > 0.1


def test_a_step_from_t_to_t_changes_nothing():
    """Oracle 20: at eta = 0, Eq. 12 with s = t puts x_t together again from its two halves."""
    t = np.array([1000, 500, 500, 20])
    s = np.array([500, 500, 20, 0])
    a = SCHEDULE.alpha_bar[s][:, None]
    twice = StepTable(t, s, np.sqrt(a), np.sqrt(1 - a), np.zeros(4))
    x = latents(3, 2)
    path = PATH(twice, x, KEY).x
    np.testing.assert_allclose(path[2], path[1], rtol=1e-10)
    np.testing.assert_allclose(path[-1], RUN(ddim(SCHEDULE, np.array([0, 20, 500, 1000])), x, KEY), rtol=1e-10)


def test_older_predictions_follow_the_newest_in_a_table():
    """The sum that a table stands for, written as a loop; what came before the first step counts as 0."""
    random = np.random.default_rng(0)
    x0_weights, eps_weights = random.normal(size=(4, 3)), random.normal(size=(4, 2))
    table = StepTable(np.array([9, 7, 4, 2]), np.array([7, 4, 2, 0]), x0_weights, eps_weights, np.zeros(4))
    x = latents(2, 3)
    path = PATH(table, x, KEY)
    x0s, epss = [], []
    for i, t in enumerate(table.t):
        epss.insert(0, EPS(x, t))
        x0s.insert(0, predict_x0(SCHEDULE, x, int(t), epss[0]))
        x = sum(w * p for w, p in zip(table.x0[i], x0s)) + sum(w * p for w, p in zip(table.eps[i], epss))
        np.testing.assert_allclose(path.x[i + 1], x, rtol=1e-10)


@pytest.mark.parametrize("keys", [KEY, jax.random.split(KEY, 3)])
def test_compiled_code_draws_for_a_row_with_noise_alone(keys):
    """In a branch on the weight of the noise, so that eta = 0 draws none, though the table is an argument."""

    def primitives(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            if equation.primitive.name != "cond":
                for inner in jax.tree.leaves(list(equation.params.values())):
                    if hasattr(inner, "jaxpr"):
                        yield from primitives(inner.jaxpr)

    traced = jax.make_jaxpr(functools.partial(sample, PREDICT))(ddim(SCHEDULE, [0, 400, 1000]), latents(3, 2), keys)
    found = set(primitives(traced.jaxpr))
    assert {"scan", "cond"} <= found and not any(name.startswith(("random_", "threefry")) for name in found)
    etas = jax.tree.map(lambda *columns: jnp.stack(columns), *(ddim(SCHEDULE, [0, 400, 1000], eta) for eta in (0.0, 1.0)))
    together = jax.vmap(RUN, (0, None, None))(etas, latents(3, 2), keys)  # where both branches are taken
    for eta, end in zip((0.0, 1.0), together):
        np.testing.assert_allclose(end, RUN(ddim(SCHEDULE, [0, 400, 1000], eta), latents(3, 2), keys), rtol=1e-10)


def test_a_sample_of_its_own_key_does_not_depend_on_its_batch():
    table, x, keys = ddpm(SCHEDULE, subsequence(1000, 5, "linspace"), "large"), latents(4, 2, 2, 1), jax.random.split(KEY, 4)
    together = RUN(table, x, keys)
    for part in (slice(0, 1), slice(1, 4)):
        np.testing.assert_allclose(RUN(table, x[part], keys[part]), together[part], rtol=1e-10)
    assert rms(together - RUN(table, x, keys[::-1])) > 0.1


def test_single_precision_stays_so_and_ends_where_double_does():
    x, tau = latents(4, 3), subsequence(1000, 20, "trailing")
    exact = RUN(ddim(SCHEDULE, tau), x, KEY)
    with jax.enable_x64(False):
        single = RUN(ddim(SCHEDULE, tau), jnp.asarray(np.float32(x)), KEY)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, rtol=1e-4, atol=1e-4)


def test_another_eta_tau_solver_or_direction_compiles_nothing():
    traced = []

    @jax.jit
    def generate(params, table, x, key):
        def eps(x, t):
            traced.append(t)
            return params * EPS(x, t)

        return sample(from_eps(SCHEDULE, eps), table, x, key)

    x, tau = latents(2, 3), subsequence(1000, 5, "linspace")
    generate(0.9, ddim(SCHEDULE, tau), x, KEY)
    before = len(traced)
    other = subsequence(1000, 5, "quadratic")
    tables = [ddim(SCHEDULE, tau, 0.5), ddim(SCHEDULE, other, 1.0), ddpm(SCHEDULE, other, "large"), encode(SCHEDULE, other)]
    ends = [generate(0.8, table, x, KEY) for table in tables]
    assert len(traced) == before and generate._cache_size() == 1
    assert min(rms(a - b) for a, b in zip(ends, ends[1:])) > 1e-3  # and the weights did arrive
    generate(0.9, ddim(SCHEDULE, subsequence(1000, 6, "linspace")), x, KEY)
    assert len(traced) > before and generate._cache_size() == 2


@pytest.mark.parametrize("run", [sample, trajectory])
def test_noise_needs_a_typed_key(run):
    tau, x = subsequence(1000, 5, "linspace"), latents(2, 3)
    with pytest.raises(ValueError, match=r"may draw noise and no random key was given: pass key=jax.random.key\(seed\)"):
        run(PREDICT, ddim(SCHEDULE, tau, 1.0), x)
    with pytest.raises(ValueError, match="argument of compiled code always needs one, and ignores it if its noise weights are 0"):
        jax.jit(lambda table: run(PREDICT, table, x))(ddim(SCHEDULE, tau))
    for key in (jax.random.PRNGKey(0), 0):
        with pytest.raises(ValueError, match=r"make it with jax.random.key\(seed\), not jax.random.PRNGKey"):
            run(PREDICT, ddim(SCHEDULE, tau, 1.0), x, key)
    with pytest.raises(ValueError, match=r"random keys of shape \(1,\) for a batch of 2: give one, or one for each example"):
        run(PREDICT, ddim(SCHEDULE, tau, 1.0), x, jax.random.split(jax.random.key(0), 1))


def test_half_precision_latents_are_sampled_in_single():
    x = jnp.asarray(latents(2, 3), jnp.bfloat16)
    table = ddim(SCHEDULE, subsequence(1000, 5, "linspace"))
    predict = from_eps(SCHEDULE, lambda x, t: 0.5 * x)
    out = sample(predict, table, x)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, sample(predict, table, x.astype(jnp.float32)))


def test_single_steps_upwards_are_the_encoding_table():
    tau, x = subsequence(1000, 5, "linspace"), jnp.asarray(latents(2, 3))
    expected = x
    for t, s in zip(tau[:-1], tau[1:]):
        expected, _ = ddim_step(SCHEDULE, expected, EPS(expected, np.full(2, t)), t, s)
    np.testing.assert_allclose(sample(PREDICT, encode(SCHEDULE, tau), x), expected, rtol=1e-10)


# ---- between latents


SLERP = jax.jit(slerp)


def on_circle(*angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_slerp_turns_by_a_share_of_the_angle(weight):
    """Oracle 18: on a circle, from angle p to q is p + weight (q - p); each example by its own angle, at its own norm."""
    radius = np.array([[1.0], [3.0]])
    p, q = (0.3, 1.0), (1.5, 3.9)
    expected = radius * on_circle(*((1 - weight) * i + weight * j for i, j in zip(p, q)))
    a, b = radius * on_circle(*p), radius * on_circle(*q)
    np.testing.assert_allclose(SLERP(a, b, weight), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(SLERP(a[:, None], b[:, None], np.full(2, weight))[:, 0], expected, rtol=1e-10, atol=1e-10)


def test_slerp_keeps_the_norm_that_a_straight_line_loses():
    """Oracle 18: halfway between two draws of N(0, I), a line has shrunk to sqrt(1/2) = .71 of their norm, which is sqrt(d)."""
    a, b = latents(1, 40_000), latents(1, 40_000, seed=1)
    np.testing.assert_allclose(rms((a + b) / 2), np.sqrt(0.5), rtol=0.02)
    np.testing.assert_allclose(rms(SLERP(a, b, 0.5)), 1, rtol=0.02)


def test_slerp_of_parallel_latents_is_the_line_between_them():
    a = latents(2, 3)
    np.testing.assert_allclose(SLERP(a, a, 0.3), a, rtol=1e-10)
    np.testing.assert_allclose(SLERP(a, 3 * a, 0.25), 1.5 * a, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_slerp_of_opposite_and_empty_latents_is_the_line_between_them(dtype):
    """Where there is no angle, or none but rounding, in the precision that people use; and sums that float16 cannot hold."""
    for seed in range(20):
        a = latents(1, 256, 64, 3, seed=seed).astype(dtype)
        for factor, halfway in [(-1.75, -0.375), (1.0, 1.0), (0.0, 0.5)]:
            found = SLERP(a, (factor * a).astype(dtype), 0.5)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, halfway * a, rtol=0, atol=5e-3 if dtype == jnp.float16 else 1e-5)


def test_slerp_of_numpy_latents_in_double_precision():
    """Where x64 is off their angle has the precision of float32, whatever their dtype was."""
    a, b = (np.random.default_rng(seed).standard_normal((2, 30)) for seed in (0, 1))
    with jax.enable_x64(False):
        np.testing.assert_allclose(slerp(a, a, 0.3), a, rtol=1e-5)
        np.testing.assert_allclose(slerp(a, b, 0.3), slerp(jnp.asarray(a), jnp.asarray(b), 0.3), rtol=1e-5)
        assert np.all(np.isfinite(interpolate(a[0], a[0], 3)))


def test_a_weight_for_each_pair_of_latents():
    a, b = latents(3, 3), latents(3, 3, seed=1)
    weights = np.array([0.0, 0.3, 1.0])
    together = slerp(a, b, weights)
    for i, weight in enumerate(weights):
        np.testing.assert_allclose(together[i], slerp(a[i : i + 1], b[i : i + 1], weight)[0], rtol=1e-10)
    with pytest.raises(ValueError, match=r"weight has shape \(2,\) for examples of shape \(3, 3\)"):
        slerp(a, b, weights[:2])


def test_the_grid_goes_down_both_sides_and_then_across():
    """D.5, and in this order: for four latents in general position the other one gives another grid."""
    corners = latents(4, 3).reshape(2, 2, 3)
    grid = interpolate_grid(corners, 3)
    left, right = slerp(corners[:1, 0], corners[1:, 0], 0.5), slerp(corners[:1, 1], corners[1:, 1], 0.5)
    np.testing.assert_allclose(grid[1, 1], slerp(left, right, 0.5)[0], rtol=1e-10)
    top, bottom = slerp(corners[:1, 0], corners[:1, 1], 0.5), slerp(corners[1:, 0], corners[1:, 1], 0.5)
    assert np.abs(grid[1, 1] - slerp(top, bottom, 0.5)[0]).max() > 1e-3


def test_lines_and_grids_of_latents():
    """Oracle 18 on a circle again, where "down both sides with one weight, then across" is linear in both angles."""
    line = jax.jit(interpolate, static_argnums=2)(*on_circle(0.2, 1.4), 4)
    np.testing.assert_allclose(line, on_circle(0.2, 0.6, 1.0, 1.4), rtol=1e-10)
    corners = on_circle(0.0, 1.0, 0.5, 2.5).reshape(2, 2, 2)
    angles = [0.0, 0.5, 1.0, 0.25, 1.0, 1.75, 0.5, 1.5, 2.5]
    grid = jax.jit(interpolate_grid, static_argnums=1)(corners, 3)
    np.testing.assert_allclose(grid, on_circle(*angles).reshape(3, 3, 2), rtol=1e-10, atol=1e-10)
