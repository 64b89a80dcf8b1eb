"""Training objectives, as a value for each example: L_gamma of Theorem 1 with every gamma = 1, and what came after it."""

import jax
import jax.numpy as jnp

from ddim_jax.common import draws
from ddim_jax.diffusion.process import EpsFn, check_shape, q_sample, velocity
from ddim_jax.diffusion.schedule import Array, Schedule, values

TARGETS = {  # what a network may predict: (schedule, x0, t, eps) -> [B, ...]
    "eps": lambda schedule, x0, t, eps: eps,
    "x0": lambda schedule, x0, t, eps: x0,
    "v": velocity,
}


def _check(prediction: str) -> None:
    if prediction not in TARGETS:
        raise ValueError(f"unknown prediction {prediction!r}; expected one of {', '.join(TARGETS)}")


def denoising_loss(schedule: Schedule, network: EpsFn, x0: Array, t: Array, eps: Array, prediction: str = "eps") -> jax.Array:
    """Mean over an example's values of |network(x_t, t) - target|^2: [B] (Eq. 5, gamma = 1).

    The paper sums over the values in its theorem and averages in practice; averaged, the loss is 1 for a network that
    says 0 to eps.

    schedule:   the noise schedule.
    network:    (x_t [B, ...], t [B]) -> [B, ...], of the shape of x_t.
    x0:         [B, ...] in [-1, 1].
    t:          int [B] in 1..T.
    eps:        [B, ...], standard normal.
    prediction: the target: "eps" (the default, as in the paper), "x0" or "v".

    Raises ValueError for another prediction, and where the network gives another shape than that of x_t.
    """
    _check(prediction)
    output = network(q_sample(schedule, x0, t, eps), jnp.asarray(t))
    check_shape(output, x0, "what the network predicts")
    error = output - TARGETS[prediction](schedule, x0, t, eps)
    return jnp.mean(jnp.square(error), axis=range(1, error.ndim))


def min_snr_weight(schedule: Schedule, t: Array, prediction: str = "eps", gamma: float = 5.0) -> jax.Array:
    """The Min-SNR weight of each example's loss: [B] (Hang et al., arXiv 2303.09556).

    With it the loss counts min(SNR, gamma) |x_0 - predicted x_0|^2 whatever is predicted, SNR = a_t / (1 - a_t): the weight is
    that number for x_0, over SNR for eps, over SNR + 1 for v. Where SNR is 0, so is the weight of x_0 and v.

    schedule:   the noise schedule.
    t:          int [B] in 1..T.
    prediction: "eps" (the default), "x0" or "v".
    gamma:      where the weight of x_0 stops rising; above 0. The paper's is 5.

    Raises ValueError for another prediction.
    """
    _check(prediction)
    alpha_bar, noise = (jnp.asarray(table, float)[t] for table in (values(schedule), 1 - values(schedule)))
    if prediction == "eps":
        return jnp.minimum(1, gamma * noise / alpha_bar)
    clipped = jnp.minimum(alpha_bar / noise, gamma)
    return clipped * noise if prediction == "v" else clipped  # 1 / (SNR + 1) = 1 - a


def drawn_loss(
    schedule: Schedule,
    network: EpsFn,
    x0: Array,
    t: Array,
    keys: jax.Array,
    *,
    prediction: str = "eps",
    min_snr_gamma: float = 0.0,
) -> jax.Array:
    """`denoising_loss` of each example, with eps drawn from its own key: [B].

    schedule:      the noise schedule.
    network:       (x [B, ...], t [B]) -> [B, ...], which predicts what `prediction` names.
    x0:            [B, ...] in [-1, 1].
    t:             int [B] in 1..T.
    keys:          typed random keys [B].
    prediction:    "eps", "x0" or "v".
    min_snr_gamma: the gamma of `min_snr_weight`; 0 (the default) gives every example the weight 1.

    Raises ValueError as `denoising_loss` does.
    """
    eps = jax.vmap(lambda key: draws.normal(key, x0.shape[1:]))(keys)
    loss = denoising_loss(schedule, network, x0, t, eps, prediction)
    if not min_snr_gamma:
        return loss
    return loss * min_snr_weight(schedule, t, prediction, min_snr_gamma).astype(loss.dtype)


def stratified_steps(uniform: jax.Array, position: jax.Array, batch_size: int, num_steps: int) -> jax.Array:
    """Training steps t [B] in 1..num_steps, each uniform by itself, that cover the range evenly as a batch.

    (Kingma et al., arXiv 2107.00630, appendix I.1; the paper's own code pairs t with T - t to the same end.)

    uniform:    one number in [0, 1), shared by the batch.
    position:   int [B], the places of these examples in the whole batch, from 0.
    batch_size: how many examples the whole batch has.
    num_steps:  T.
    """
    fraction = (uniform + position / batch_size) % 1.0
    return 1 + jnp.minimum((fraction * num_steps).astype(jnp.int32), num_steps - 1)
