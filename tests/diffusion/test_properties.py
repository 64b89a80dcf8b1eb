"""What holds for any schedule, sub-sequence, eta and shape: hypothesis looks for the case that breaks it."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_jax.diffusion import process as pr
from ddim_jax.diffusion import schedule as sch
from ddim_jax.diffusion.sampling import sample
from ddim_jax.diffusion.solvers import ddim, ddpm, dpmpp_2m, encode, plms, repaint, unipc

pytestmark = pytest.mark.usefixtures("x64")
settings.register_profile("ours", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("ours")

betas = st.lists(st.floats(1e-5, 0.95), min_size=2, max_size=60)
schedules = (
    st.builds(sch.from_betas, betas) | st.builds(sch.linear, st.integers(20, 1000)) | st.builds(sch.cosine, st.integers(4, 500))
)


@st.composite
def schedules_with_tau(draw):
    """A schedule, and steps of it chosen at random or by a spacing."""
    schedule = draw(schedules)
    T = schedule.num_steps
    if draw(st.booleans()):
        chosen = draw(st.sets(st.integers(1, T), min_size=1, max_size=min(T, 30)))
        return schedule, np.array([0, *sorted(chosen)])
    S = draw(st.integers(1, min(T, 30)))
    return schedule, draw(
        st.sampled_from([*(sch.subsequence(T, S, name) for name in sch.SPACINGS), sch.log_snr_subsequence(schedule, S)])
    )


def eta_limit(schedule, tau):
    """The paper's D.3: sigma^2 <= 1 - a_s for eta^2 <= (1 - a_t) / (1 - a_t / a_s)."""
    a_t, a_s = schedule.alpha_bar[tau[2:]], schedule.alpha_bar[tau[1:-1]]
    return min(np.sqrt((1 - a_t) / (1 - a_t / a_s)), default=np.inf)


@given(st.integers(1, 2000), st.data())
def test_a_spacing_has_just_the_steps_that_were_asked_for(T, data):
    S = data.draw(st.integers(1, T))
    for name in sch.SPACINGS:
        tau = sch.subsequence(T, S, name)
        assert len(tau) == S + 1 and tau[0] == 0 and np.all(np.diff(tau) > 0) and tau[-1] <= T
    for wrong in (0, -1, T + 1):
        with pytest.raises(ValueError, match="cannot choose"):
            sch.subsequence(T, wrong, "linspace")


@given(schedules, st.data())
def test_log_snr_spacing_has_just_the_steps_that_were_asked_for(schedule, data):
    S = data.draw(st.integers(1, schedule.num_steps))
    tau = sch.log_snr_subsequence(schedule, S)
    assert len(tau) == S + 1 and tau[0] == 0 and np.all(np.diff(tau) > 0) and tau[-1] == schedule.num_steps


@given(schedules_with_tau(), st.floats(0, 1.3))
def test_every_legal_eta_keeps_the_marginals_and_every_other_is_refused(case, eta):
    """Lemma 1 through the table: from x_t = signal x_0 + noise eps with the true halves, the marginals stay Eq. 4's."""
    schedule, tau = case
    if eta > eta_limit(schedule, tau) * (1 + 1e-5):
        with pytest.raises(ValueError, match=f"eta is {eta}"):
            ddim(schedule, tau, eta)
        return
    if eta > eta_limit(schedule, tau) * (1 - 1e-5):
        return  # too near to say
    table = ddim(schedule, tau, eta)
    a = schedule.alpha_bar[table.s]
    np.testing.assert_allclose(table.x0[:, 0] ** 2, a, rtol=1e-10)
    np.testing.assert_allclose(table.eps[:, 0] ** 2 + table.noise**2, 1 - a, atol=1e-10)


@given(schedules_with_tau())
def test_no_table_holds_anything_but_numbers(case):
    schedule, tau = case
    tables = [
        ddim(schedule, tau),
        ddpm(schedule, tau),
        ddpm(schedule, tau, "large"),
        encode(schedule, tau),
        dpmpp_2m(schedule, tau),
    ]
    tables += [plms(schedule, tau, order) for order in (1, 2, 3, 4)] + [unipc(schedule, tau, order) for order in (1, 2, 3)]
    tables.append(repaint(schedule, tau, 1.0, 2))
    for table in tables:
        assert all(np.all(np.isfinite(column)) for column in table)
        assert np.all(table.noise >= 0)


@given(
    schedules_with_tau(),
    st.lists(st.integers(1, 3), min_size=0, max_size=3),
    st.sampled_from(["ddim", "dpmpp_2m", "plms", "unipc"]),
)
@settings(max_examples=15)
def test_true_predictions_arrive_at_their_x0_in_any_shape(case, shape, name):
    """Where the network always says the halves of x_t, of which x_0 is fixed, every solver ends at that x_0."""
    schedule, tau = case
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((2, *shape)))
    predict = pr.from_x0(schedule, lambda x, t: x0)
    table = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "plms": plms, "unipc": unipc}[name](schedule, tau)
    end = sample(predict, table, jnp.asarray(np.random.default_rng(1).standard_normal((2, *shape))))
    np.testing.assert_allclose(end, x0, rtol=1e-6, atol=1e-6)


@given(schedules, st.data())
def test_halves_come_apart_and_together_at_every_step(schedule, data):
    t = data.draw(st.integers(1, schedule.num_steps))
    x0, eps = (jnp.asarray(np.random.default_rng(i).standard_normal((2, 3))) for i in range(2))
    x_t = pr.q_sample(schedule, x0, t, eps)
    v = pr.velocity(schedule, x0, t, eps)
    for found, true in zip(pr.from_velocity(schedule, x_t, t, v), (x0, eps)):
        np.testing.assert_allclose(found, true, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(pr.predict_eps(schedule, x_t, t, x0), eps, rtol=1e-6, atol=1e-6)


@given(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=20))
def test_betas_make_a_schedule_or_an_error(values):
    legal = all(0 < b <= 1 for b in values) and all(b < 1 for b in values[:-1])
    strict = legal and np.all(np.diff(np.concatenate([[1.0], np.cumprod(1 - np.array(values))])) < 0)  # not lost to rounding
    if strict:
        assert sch.from_betas(values).num_steps == len(values)
    else:
        with pytest.raises(ValueError, match="betas must be|alpha_bar must fall"):
            sch.from_betas(values)
