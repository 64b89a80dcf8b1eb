"""A schedule as an argument of compiled, mapped and differentiated code, in every public function that takes one.

The oracle is the function itself with the schedule known, whose values other tests hold; derivatives are central differences.
"""

import functools
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax import diffusion
from ddim_jax.diffusion import (
    discrete,
    distillation,
    guidance,
    joint,
    likelihood,
    losses,
    ode,
    process,
    sampling,
    schedule,
    solvers,
)
from ddim_jax.diffusion.schedule import Schedule

pytestmark = pytest.mark.usefixtures("x64")

KNOWN = schedule.linear(20, 0.01, 0.3)
OTHER = schedule.linear(20, 0.02, 0.25)
TAU = np.array([0, 3, 8, 13, 20])
STD = np.full(4, 0.05)
K = 3
with jax.enable_x64(True):
    X, X0, EPS = (jnp.asarray(np.random.default_rng(i).standard_normal((2, K))) for i in range(3))
    P = jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(K), 2))
    ONE = jnp.eye(K)[jnp.array([0, 2])]
    IMAGES = jnp.tanh(jnp.asarray(np.random.default_rng(4).standard_normal((2, 2, 2, 1))))
    T, S = jnp.array([13, 7]), jnp.array([8, 3])
    KEY, KEYS = jax.random.key(0), jax.random.split(jax.random.key(1), 2)
    FIVE = jnp.stack([EPS] * 4)


def network(x, t):
    return jnp.sin(x + t.reshape(-1, *[1] * (x.ndim - 1)) / 20)


def predictor(s):
    return process.from_v(s, network)


def says(predict):
    return predict(X, T)


CALLS = {  # every public function that takes a schedule: how it is called with one
    process.signal_scale: lambda s: process.signal_scale(s, T, X),
    process.noise_scale: lambda s: (process.noise_scale(s, T), process.noise_scale(s, 5)),
    process.transition_std: lambda s: process.transition_std(s, T, S),
    process.step_std: lambda s: (process.step_std(s, T, S, 0.5, X), process.step_std(s, T, 2, 0.5), process.step_std(s, 5, 0)),
    process.direction_scale: lambda s: process.direction_scale(s, S, 0.1),
    process.step_weights: lambda s: process.step_weights(s, S, 0.1, X),
    process.step_mean: lambda s: process.step_mean(s, X0, EPS, S, 0.1),
    process.q_sample: lambda s: process.q_sample(s, X0, T, EPS),
    process.predict_x0: lambda s: process.predict_x0(s, X, T, EPS),
    process.predict_eps: lambda s: process.predict_eps(s, X, T, X0),
    process.velocity: lambda s: process.velocity(s, X0, T, EPS),
    process.from_velocity: lambda s: process.from_velocity(s, X, T, EPS),
    process.reverse_posterior: lambda s: process.reverse_posterior(s, X, X0, T, S, 0.05),
    process.forward_posterior: lambda s: process.forward_posterior(s, X, X0, S, T, 0.05),
    process.ddim_step: lambda s: (process.ddim_step(s, X, EPS, T, S, 0.5, X0), process.ddim_step(s, X, EPS, T, 0, 1.0, X0)),
    process.from_eps: lambda s: says(process.from_eps(s, network)),
    process.from_x0: lambda s: says(process.from_x0(s, network)),
    process.from_v: lambda s: says(process.from_v(s, network)),
    process.make_predictor: lambda s: says(process.make_predictor(s, network, "eps")),
    process.map_x0: lambda s: says(process.map_x0(s, predictor(s), jnp.sin)),
    process.clip_x0: lambda s: says(process.clip_x0(s, predictor(s))),
    guidance.dynamic_threshold: lambda s: says(guidance.dynamic_threshold(s, predictor(s), 80.0)),
    guidance.classifier: lambda s: says(guidance.classifier(s, predictor(s), lambda x, t: -(x**2).sum(1), 0.5)),
    guidance.inpaint: lambda s: says(guidance.inpaint(s, predictor(s), X0, jnp.array([1.0, 0.0, 1.0])[None])),
    losses.denoising_loss: lambda s: losses.denoising_loss(s, network, X0, T, EPS, "v"),
    losses.min_snr_weight: lambda s: losses.min_snr_weight(s, T, "eps", 0.5),
    losses.drawn_loss: lambda s: losses.drawn_loss(s, network, X0, T, KEYS, min_snr_gamma=2.0),
    distillation.target_x0: lambda s: distillation.target_x0(s, predictor(s), X, 13, 8, 3),
    distillation.distillation_loss: lambda s: distillation.distillation_loss(s, predictor(s), predictor(s), TAU, X0, T, EPS),
    distillation.drawn_loss: lambda s: distillation.drawn_loss(s, network, X0, T, KEYS, lambda x, t: 0.3 * x, tau=TAU),
    joint.sample_down: lambda s: joint.sample_down(s, X0, TAU, STD[:3], KEY),
    joint.sample_up: lambda s: joint.sample_up(s, X0, TAU, STD[:3], KEY),
    likelihood.check_stds: lambda s: likelihood.check_stds(s, TAU, STD),
    likelihood.variational_bound: lambda s: likelihood.variational_bound(s, network, TAU, STD, X0, FIVE),
    likelihood.gamma: lambda s: likelihood.gamma(s, TAU, STD),
    likelihood.constant: lambda s: likelihood.constant(s, 0.1, X0),
    likelihood.accelerated_gamma: lambda s: likelihood.accelerated_gamma(s, TAU, STD, 0.3),
    likelihood.ode_log_likelihood: lambda s: likelihood.ode_log_likelihood(s, predictor(s), TAU, X, KEY),
    ode.noise_to_signal: lambda s: ode.noise_to_signal(s, T),
    ode.to_x_bar: lambda s: ode.to_x_bar(s, X, T),
    ode.from_x_bar: lambda s: ode.from_x_bar(s, X, T),
    ode.euler_in_sigma: lambda s: ode.euler_in_sigma(s, X, EPS, T, S),
    ode.euler_in_time: lambda s: ode.euler_in_time(s, X, EPS, T, S),
    discrete.marginal: lambda s: discrete.marginal(s, ONE, T),
    discrete.keep_limit: lambda s: discrete.keep_limit(s, T, S),
    discrete.weights: lambda s: discrete.weights(s, T, S, 0.2, X),
    discrete.posterior: lambda s: discrete.posterior(s, ONE, P, T, S, 0.2),
    discrete.table: lambda s: discrete.table(s, TAU, 0.4),
    discrete.kl: lambda s: discrete.kl(s, ONE, P, P[::-1], T, S, 0.2),
    discrete.cross_entropy: lambda s: discrete.cross_entropy(s, network, ONE, T, KEYS),
    discrete.drawn_loss: lambda s: discrete.drawn_loss(s, network, IMAGES, T, KEYS, categories=K),
    sampling.reconstruct: lambda s: sampling.reconstruct(predictor(s), s, TAU, X),
    schedule.zero_terminal_snr: lambda s: schedule.zero_terminal_snr(s).alpha_bar,
    schedule.values: lambda s: schedule.values(s),
    schedule.pairs: lambda s: schedule.pairs(s, TAU),
    solvers.ddim: lambda s: solvers.ddim(s, TAU, 0.5),
    solvers.ddpm: lambda s: (solvers.ddpm(s, TAU), solvers.ddpm(s, TAU, "large")),
    solvers.encode: lambda s: (solvers.encode(s, TAU), solvers.encode(s, TAU, "arrival")),
    solvers.dpmpp_2m: lambda s: solvers.dpmpp_2m(s, TAU),
    solvers.plms: lambda s: solvers.plms(s, TAU),
    solvers.table.half_log_snr: lambda s: solvers.table.half_log_snr(s, np.array([13, 7])),
    solvers.repaint: lambda s: solvers.repaint(s, TAU, 0.5, 2),
}
ON_THE_HOST = {  # these refuse a schedule that is not known
    solvers.unipc: lambda s: solvers.unipc(s, TAU),
    schedule.log_snr_subsequence: lambda s: schedule.log_snr_subsequence(s, 4),
    schedule.check_known: lambda s: schedule.check_known(s, "it"),
}
STOPPED = CALLS[distillation.distillation_loss], CALLS[distillation.drawn_loss]  # no derivative goes through their target
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=[f"{f.__module__.split('.')[-1]}.{f.__name__}" for f in CALLS])


def numbers(call, alpha_bar):
    """All that a call gives, as one vector: its integers too, which say that no step was lost."""
    leaves = jax.tree.leaves(call(Schedule(alpha_bar)))
    return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, float)) for leaf in leaves])


def test_no_function_is_forgotten():
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(diffusion.__path__, "ddim_jax.diffusion.")]
    public = {
        f
        for module in modules
        for name, f in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and f.__module__ == module.__name__ and "schedule" in inspect.signature(f).parameters
    }
    assert public == set(CALLS) | set(ON_THE_HOST) and len(public) > 50


@each_call
def test_compiled_and_mapped_over_it_gives_what_the_known_one_gives(call):
    run = jax.jit(jax.vmap(functools.partial(numbers, call)))
    together = run(jnp.stack([KNOWN.alpha_bar, OTHER.alpha_bar]))
    for found, known in zip(together, (KNOWN, OTHER)):
        np.testing.assert_allclose(found, numbers(call, known.alpha_bar), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@each_call
def test_the_derivative_by_alpha_bar_is_that_of_differences(call):
    """Along one direction that keeps alpha_bar[0] = 1, where a schedule begins: central differences of two known schedules."""
    direction = np.append(0, np.random.default_rng(0).uniform(-1, 1, 20)) * KNOWN.alpha_bar

    @jax.jit
    def derivatives(alpha_bar):
        along = jax.jvp(functools.partial(numbers, call), (alpha_bar,), (jnp.asarray(direction),))[1]
        return along, jax.grad(lambda a: numbers(call, a).sum())(alpha_bar)

    found, whole = derivatives(jnp.asarray(KNOWN.alpha_bar))
    h = 1e-6
    up, down = (numbers(call, KNOWN.alpha_bar + step * direction) for step in (h, -h))
    if call in STOPPED:
        assert np.all(np.isfinite(found))
    else:
        np.testing.assert_allclose(found, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole @ direction, found.sum(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["unipc", "log_snr_subsequence"])
def test_what_works_on_the_host_says_so(name):
    call = {f.__name__: call for f, call in ON_THE_HOST.items()}[name]
    with pytest.raises(
        ValueError, match=f"{name} works on the host, from a known schedule, and this one is an argument of compiled"
    ):
        jax.jit(call)(KNOWN)


def test_steps_that_are_not_known_are_refused_in_a_tau():
    with pytest.raises(ValueError, match="tau is an argument of compiled code; its steps must be known"):
        jax.jit(lambda tau: solvers.ddim(KNOWN, tau))(TAU)


def test_a_static_schedule_is_known_and_compiled_once_for_equal_ones():
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(s, t):
        traced.append(s.alpha_bar)
        return process.q_sample(s, X0, t, EPS)

    again = schedule.linear(20, 0.01, 0.3)
    np.testing.assert_allclose(run(KNOWN, T), process.q_sample(KNOWN, X0, T, EPS), rtol=1e-10)
    run(again, T)
    assert len(traced) == 1 and traced[0].dtype == np.float64 and KNOWN == again and hash(KNOWN) == hash(again)
    run(OTHER, T)
    assert len(traced) == 2 and KNOWN != OTHER and not KNOWN == OTHER
    with pytest.raises(ValueError, match="steps must be whole numbers from 0 to 20"):
        jax.jit(lambda s: process.q_sample(s, X0, 21, EPS), static_argnums=0)(KNOWN)


def test_a_schedule_that_comes_back_from_compiled_code_is_known_again():
    returned = jax.jit(lambda s: s)(KNOWN)
    assert isinstance(returned.alpha_bar, jax.Array)
    assert process.noise_scale(returned, 5).dtype == np.float64
    np.testing.assert_allclose(solvers.unipc(returned, TAU).x0, solvers.unipc(KNOWN, TAU).x0, rtol=1e-12)
    np.testing.assert_array_equal(schedule.log_snr_subsequence(returned, 4), schedule.log_snr_subsequence(KNOWN, 4))


def test_an_argument_is_as_precise_as_its_arrays():
    """`Schedule` says 3 digits of 1 - alpha_bar[1] in float32, for the paper's: 1e-4 from a number with a step of 6e-8."""
    with jax.enable_x64(False):
        found = jax.jit(lambda s: process.noise_scale(s, 1) ** 2)(schedule.linear())
    assert found.dtype == jnp.float32 and abs(found / 1e-4 - 1) < 1e-3
