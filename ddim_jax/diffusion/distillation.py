"""Progressive distillation: a student that takes in one DDIM step what its teacher takes in two (arXiv 2202.00512).

Teacher and student share a network's shape, and the student begins as the teacher. Throughout, tau [2N+1] holds the
teacher's 2N steps. The student knows N of them, tau[2], tau[4], ... tau[2N]: it goes from tau[2k] to tau[2k-2] in one step,
where the teacher stops at tau[2k-1]. Done again and again, the steps halve.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddim_jax.common import draws
from ddim_jax.diffusion.process import (
    EpsFn,
    Predict,
    check_shape,
    make_predictor,
    noise_scale,
    q_sample,
    signal_scale,
    step_mean,
)
from ddim_jax.diffusion.schedule import Array, Schedule, Steps, library, pairs, values


def target_x0(schedule: Schedule, teacher: Predict, x_t: Array, t: Steps, m: Steps, s: Steps) -> jax.Array:
    """The x_0 with which one DDIM step t -> s arrives where the teacher's two, t -> m -> s, do: [B, ...] (algorithm 2).

    schedule: the noise schedule.
    teacher:  (x [B, ...], t [B]) -> Prediction.
    x_t:      [B, ...].
    t, m, s:  t > m > s >= 0, each a whole number or [B].
    """

    def ddim(x, t, s):
        x0, eps = teacher(x, jnp.broadcast_to(t, x.shape[:1]))
        return step_mean(schedule, x0, eps, s, 0.0)

    x_s = ddim(ddim(x_t, t, m), m, s)
    ratio = noise_scale(schedule, s, x_t) / noise_scale(schedule, t, x_t)
    return (x_s - ratio * x_t) / (signal_scale(schedule, s, x_t) - ratio * signal_scale(schedule, t, x_t))


def distillation_loss(
    schedule: Schedule, student: Predict, teacher: Predict, tau: ArrayLike, x0: Array, t: Array, eps: Array
) -> jax.Array:
    """Mean over an example's values of max(SNR, 1) |x_0 of the student - target|^2 (the paper's "truncated SNR"): [B].

    schedule: the noise schedule, of teacher and student alike.
    student:  (x [B, ...], t [B]) -> Prediction, the one that learns.
    teacher:  the same; no gradient goes to it.
    tau:      int [2N+1], the teacher's steps; the student takes every other one.
    x0:       [B, ...] in [-1, 1].
    t:        int [B] in 1..T; each chooses the student's step that covers it.
    eps:      [B, ...], standard normal.

    Raises ValueError where tau does not end at T, or holds an odd number of steps.
    """
    pairs(schedule, tau)  # the checks that every tau must pass
    tau = np.asarray(tau)
    if len(tau) % 2 == 0 or tau[-1] != schedule.num_steps:
        raise ValueError(f"tau must hold 0 and an even number of steps, the last of them {schedule.num_steps}; got {tau}")
    later = 2 * (1 + jnp.searchsorted(tau[2::2], t))  # the place in tau of the first student's step at or above t
    t, m, s = (jnp.asarray(tau)[later - back] for back in (0, 1, 2))
    x_t = q_sample(schedule, x0, t, eps)
    target = jax.lax.stop_gradient(target_x0(schedule, teacher, x_t, t, m, s))
    found = student(x_t, t).x0
    check_shape(found, target, "the student's x_0")
    error = jnp.mean(jnp.square(found - target), axis=range(1, x0.ndim))
    alpha_bar = values(schedule)[1:]
    snr = alpha_bar / (1 - alpha_bar)
    return jnp.asarray(library(snr).maximum(snr, 1), error.dtype)[t - 1] * error


def drawn_loss(
    schedule: Schedule,
    network: EpsFn,
    x0: Array,
    t: Array,
    keys: jax.Array,
    teacher: EpsFn,
    *,
    tau: ArrayLike,
    prediction: str = "eps",
) -> jax.Array:
    """`distillation_loss` of each example, with eps drawn from its own key: [B].

    schedule:   the noise schedule, of teacher and student alike.
    network:    the student, (x [B, ...], t [B]) -> [B, ...], which predicts what `prediction` names.
    x0:         [B, ...] in [-1, 1].
    t:          int [B] in 1..T; each chooses the student's step that covers it.
    keys:       typed random keys [B].
    teacher:    a network of the same kind.
    tau:        int [2N+1], the teacher's steps; the student takes every other one.
    prediction: what both networks predict: "eps", "x0" or "v".

    Raises ValueError as `distillation_loss` and `process.make_predictor` do.
    """
    eps = jax.vmap(lambda key: draws.normal(key, x0.shape[1:]))(keys)
    student, teaches = (make_predictor(schedule, each, prediction) for each in (network, teacher))
    return distillation_loss(schedule, student, teaches, tau, x0, t, eps)
