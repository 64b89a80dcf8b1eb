import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import THREE, gaussian, mixture

from ddim_jax.diffusion.distillation import distillation_loss, drawn_loss, target_x0
from ddim_jax.diffusion.process import Prediction, from_eps, from_v, from_x0, predict_eps, q_sample
from ddim_jax.diffusion.sampling import sample
from ddim_jax.diffusion.schedule import linear, subsequence
from ddim_jax.diffusion.solvers import ddim

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear()
TEACHER = from_eps(SCHEDULE, mixture(SCHEDULE, **THREE))


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("t, m, s", [(1000, 750, 500), (500, 250, 0), (12, 11, 10)])
def test_one_step_with_the_target_is_two_of_the_teacher(t, m, s):
    """Algorithm 2's own definition: DDIM from t to s with this x_0, and the eps that goes with it, ends where two steps do."""
    x = normal(5, 3)
    x0 = target_x0(SCHEDULE, TEACHER, x, t, m, s)
    a = SCHEDULE.alpha_bar[s]
    arrives = np.sqrt(a) * x0 + np.sqrt(1 - a) * predict_eps(SCHEDULE, x, t, x0)
    tau = np.array([0, s, m, t]) if s else np.array([0, m, t])
    table = ddim(SCHEDULE, tau)
    two = sample(TEACHER, table._replace(**{c: getattr(table, c)[:2] for c in table._fields}), x)
    np.testing.assert_allclose(arrives, two, rtol=1e-9, atol=1e-9)


def test_the_teacher_is_asked_at_one_step_for_each_example():
    """A predictor is promised t [B], whether the steps come as numbers or as arrays."""
    seen = []

    def teacher(x, t):
        seen.append(t)
        return TEACHER(x, t)

    x = normal(5, 3)
    numbers = target_x0(SCHEDULE, teacher, x, 500, 250, 0)
    assert [t.shape for t in seen] == [(5,), (5,)] and [int(t[0]) for t in seen] == [500, 250]
    arrays = target_x0(SCHEDULE, TEACHER, x, *(jnp.full(5, t) for t in (500, 250, 0)))
    np.testing.assert_allclose(numbers, arrays, rtol=1e-10)


def test_a_student_that_says_the_target_has_no_loss_and_takes_the_teachers_samples():
    tau = subsequence(1000, 8, "trailing")

    def student(x, t):
        t = np.asarray(t).flat[0] if np.ndim(t) else t
        place = list(tau).index(int(t))
        x0 = target_x0(SCHEDULE, TEACHER, x, int(tau[place]), int(tau[place - 1]), int(tau[place - 2]))
        return Prediction(x0, predict_eps(SCHEDULE, x, int(t), x0))

    x = normal(4, 3)
    for t in (1, 250, 251, 1000):
        loss = distillation_loss(SCHEDULE, student, TEACHER, tau, normal(4, 3, seed=1), np.full(4, t), normal(4, 3, seed=2))
        np.testing.assert_allclose(loss, 0, atol=1e-12)
    for t, s in zip(tau[8:0:-2], tau[6::-2]):  # the student's own loop, in 4 steps
        x0, eps = student(x, int(t))
        x = np.sqrt(SCHEDULE.alpha_bar[s]) * x0 + np.sqrt(1 - SCHEDULE.alpha_bar[s]) * eps
    np.testing.assert_allclose(x, sample(TEACHER, ddim(SCHEDULE, tau), normal(4, 3)), rtol=1e-8, atol=1e-9)


def test_the_loss_is_weighted_by_the_truncated_snr_at_the_students_steps():
    """By hand for a teacher that always says x_0 = 0 and a student that says 1: max(SNR, 1), at the student's step above t."""
    tau = np.array([0, 100, 200, 600, 1000])  # the student's are 200 and 1000
    teacher, student = (from_eps(SCHEDULE, gaussian(SCHEDULE, mean, 0.0)) for mean in (0.0, 1.0))
    t, x0, eps = np.array([1, 200, 201, 1000]), normal(4, 3), normal(4, 3, seed=1)
    seen = []

    def spy(x, at):
        seen.append((x, at))
        return student(x, at)

    loss = distillation_loss(SCHEDULE, spy, teacher, tau, x0, t, eps)
    np.testing.assert_array_equal(seen[0][1], [200, 200, 1000, 1000])
    np.testing.assert_allclose(seen[0][0], q_sample(SCHEDULE, x0, np.array([200, 200, 1000, 1000]), eps))
    snr = (SCHEDULE.alpha_bar / (1 - SCHEDULE.alpha_bar + 1e-300))[[200, 200, 1000, 1000]]
    np.testing.assert_allclose(loss, np.maximum(snr, 1), rtol=1e-8)


def test_the_teacher_learns_nothing():
    """Its target is a number to the student's gradient, even where both share a parameter."""

    def loss(shared):
        teacher = from_eps(SCHEDULE, lambda x, t: shared * x)
        return distillation_loss(
            SCHEDULE, from_eps(SCHEDULE, lambda x, t: 0.1 * x), teacher, np.array([0, 500, 1000]), normal(2, 3),
            np.array([300, 900]), normal(2, 3, seed=1),
        ).sum()  # fmt: skip

    assert loss(0.2) != loss(0.3) and jax.grad(loss)(0.2) == 0


@pytest.mark.parametrize("tau", [[0, 100, 300, 600, 900], [0, 100, 300, 1000]])
def test_steps_that_do_not_halve(tau):
    x = normal(2, 3)
    with pytest.raises(ValueError, match="an even number of steps, the last of them 1000"):
        distillation_loss(SCHEDULE, TEACHER, TEACHER, np.array(tau), x, np.array([5, 950]), x)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_drawn_loss_makes_predictors_of_both_networks_and_draws_eps_from_each_key(prediction):
    tau, x0, t, keys = (
        subsequence(1000, 4, "trailing"),
        normal(3, 5),
        np.array([3, 400, 1000]),
        jax.random.split(jax.random.key(1), 3),
    )
    student, teacher = (lambda x, t: jnp.sin(x)), (lambda x, t: 0.5 * x)
    eps = jnp.stack([jax.random.normal(key, (5,)) for key in keys])
    make = {"eps": from_eps, "x0": from_x0, "v": from_v}[prediction]
    expected = distillation_loss(SCHEDULE, make(SCHEDULE, student), make(SCHEDULE, teacher), tau, x0, t, eps)
    found = drawn_loss(SCHEDULE, student, x0, t, keys, teacher, tau=tau, prediction=prediction)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert np.all(found > 0)
