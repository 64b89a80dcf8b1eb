"""Predictor to predictor: guidance, thresholds and masks.

Each function takes a predictor (x, t) -> (x_0, eps) and gives another, so they nest in any order, and every solver of
`solvers` runs the result. Both halves of what they return make up x_t, as Eq. 9 has it (but for a changed x_0 at t = 0, where
x_t holds no noise to change). `process.clip_x0` is of this kind.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ddim_jax.diffusion.process import Predict, Prediction, map_x0, noise_scale, per_example, signal_scale
from ddim_jax.diffusion.schedule import Array, Schedule


def dynamic_threshold(schedule: Schedule, predict: Predict, percentile: float = 99.5) -> Predict:
    """x_0 clipped to [-c, c] and divided by c, with c that percentile of its |values| or 1 if less, for each example.

    (Saharia et al., arXiv 2205.11487, section 2.3.) Raises ValueError for a percentile outside [0, 100].
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile}; it must lie between 0 and 100")

    def threshold(x0):
        c = jnp.percentile(jnp.abs(x0), percentile, axis=tuple(range(1, x0.ndim)), keepdims=True)
        c = jnp.maximum(c, 1)
        return jnp.clip(x0, -c, c) / c

    return map_x0(schedule, predict, threshold)


def classifier_free(conditional: Predict, unconditional: Predict, weight: ArrayLike) -> Predict:
    """unconditional + weight (conditional - unconditional): 1 is the conditional, more exaggerates what the condition adds.

    (Ho & Salimans, arXiv 2207.12598, Eq. 6, whose w is weight - 1.) `weight` is a number, [B] or [B, 1, ...].
    """

    def guided(x, t):
        w = per_example(weight, x, "weight")
        towards, away = conditional(x, t), unconditional(x, t)
        return jax.tree.map(lambda c, u: u + w * (c - u), towards, away)

    return guided


def classifier(
    schedule: Schedule, predict: Predict, log_prob: Callable[[jax.Array, jax.Array], jax.Array], weight: ArrayLike = 1.0
) -> Predict:
    """eps - weight sqrt(1 - a_t) grad_x log p(y | x_t), and the x_0 that it implies.

    (Dhariwal & Nichol, arXiv 2105.05233, algorithm 2.) Where x_T holds no signal, a change of eps says nothing of x_0, and the
    predictor is left as it is.

    schedule: the noise schedule.
    predict:  the predictor to guide.
    log_prob: (x_t [B, ...], t [B]) -> [B], log p(y | x_t) of the wanted class y, from a classifier of noisy images; each
              example's must depend on its own x_t alone.
    weight:   a number (the default is 1), [B] or [B, 1, ...].
    """

    def guided(x, t):
        x0, eps = predict(x, t)
        change = per_example(weight, x, "weight") * noise_scale(schedule, t, x) * jax.grad(lambda x: log_prob(x, t).sum())(x)
        signal = signal_scale(schedule, t, x)
        change = jnp.where(signal == 0, 0, change)
        return Prediction(x0 + noise_scale(schedule, t, x) * change / jnp.where(signal == 0, 1, signal), eps - change)

    return guided


def inpaint(schedule: Schedule, predict: Predict, known: Array, mask: ArrayLike) -> Predict:
    """x_0 taken from `known` [B, ...] where `mask` is 1, from the predictor where it is 0.

    schedule: the noise schedule.
    predict:  (x [B, ...], t [B]) -> Prediction.
    known:    [B, ...], of the shape of x, in the range of the data.
    mask:     0 to 1, broadcasts to x.

    A sampler then draws the known part from q(x_s | x_t, x_0) itself (Eq. 7), and its samples hold it exactly. For less
    visible seams run it with `solvers.repaint` (Lugmayr et al., arXiv 2201.09865).
    """
    part = jnp.asarray(mask)
    return map_x0(schedule, predict, lambda x0: part * known + (1 - part) * x0)
