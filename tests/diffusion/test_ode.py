import jax.numpy as jnp
import numpy as np
import pytest
from oracles import THREE, mixture, rms, slope

from ddim_jax.diffusion import ode
from ddim_jax.diffusion.process import ddim_step
from ddim_jax.diffusion.schedule import from_alpha_bar, linear

pytestmark = pytest.mark.usefixtures("x64")

STEPS = [(1000, 999), (1000, 500), (500, 1), (10, 0), (1, 1000)]  # down, and up


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("t, s", STEPS)
def test_a_step_in_sigma_is_a_step_of_ddim(t, s):
    """Eq. 13 is Eq. 12 at eta = 0 in other variables."""
    x, eps = normal(4, 3), normal(4, 3, seed=1)
    x_bar = ode.euler_in_sigma(linear(), ode.to_x_bar(linear(), x, t), eps, t, s)
    np.testing.assert_allclose(ode.from_x_bar(linear(), x_bar, s), ddim_step(linear(), x, eps, t, s)[0], rtol=1e-10)


@pytest.mark.parametrize("t, s", STEPS)
def test_the_two_forms_of_eulers_method_differ_by_their_step(t, s):
    """Oracle 17: the increments of Eq. 15 and 13 have the ratio (sigma_s + sigma_t) / (2 sigma_t)."""
    x_bar, eps = normal(4, 3), normal(4, 3, seed=1)
    a = linear().alpha_bar[[t, s]]
    sigma_t, sigma_s = np.sqrt((1 - a) / a)
    first, second = (f(linear(), x_bar, eps, t, s) - x_bar for f in (ode.euler_in_sigma, ode.euler_in_time))
    np.testing.assert_allclose(second / first, (sigma_s + sigma_t) / (2 * sigma_t), rtol=1e-9)


@pytest.mark.slow
def test_both_forms_approach_one_flow():
    """Oracle 17: as steps shrink the ratio goes to 1, and both end at the same x-bar, at order 1."""
    ends = {}
    for S in (100, 200, 400):
        levels = np.geomspace(0.05, 10, S + 1)
        schedule = from_alpha_bar(np.concatenate([[1], 1 / (1 + levels**2)]))
        eps = mixture(schedule, **THREE)
        for form in (ode.euler_in_sigma, ode.euler_in_time):
            x_bar = 10 * normal(50)
            for t in range(S + 1, 1, -1):
                x_bar = form(schedule, x_bar, eps(ode.from_x_bar(schedule, x_bar, t), np.full(50, t)), t, t - 1)
            ends[S, form] = x_bar
    apart = [rms(ends[S, ode.euler_in_sigma] - ends[S, ode.euler_in_time]) for S in (100, 200, 400)]
    assert abs(slope([100, 200, 400], apart) + 1) < 0.1, apart


def test_sigma_is_pinned():
    """Oracle 21: sigma_T = 157.407 for the paper's schedule."""
    assert abs(ode.noise_to_signal(linear(), 1000) - 157.407) < 5e-4
