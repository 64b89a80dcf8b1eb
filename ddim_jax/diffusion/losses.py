"""The training objective: L_gamma of Theorem 1 with every gamma = 1, as a value for each example."""

import jax
import jax.numpy as jnp

from ddim_jax.diffusion.process import EpsFn, q_sample
from ddim_jax.diffusion.schedule import Schedule


def denoising_loss(schedule: Schedule, eps_fn: EpsFn, x0, t, eps) -> jax.Array:
    """Mean over an example's values of |eps_fn(x_t, t) - eps|^2 (Eq. 5, gamma = 1): [B].

    The paper sums over the values in its theorem and averages in practice; averaged, the loss is 1 for a network that
    says 0. x0 [B, ...] lies in [-1, 1], t [B] in 1..T, eps [B, ...] is standard normal.
    """
    error = eps_fn(q_sample(schedule, x0, t, eps), t) - eps
    return jnp.mean(jnp.square(error), axis=range(1, error.ndim))


def stratified_steps(uniform: jax.Array, position: jax.Array, batch_size: int, num_steps: int) -> jax.Array:
    """Training steps t in 1..num_steps, each uniform by itself, that cover the range evenly as a batch.

    One `uniform` number in [0, 1) is shared by the batch and `position` [B] counts its examples from 0 (Kingma et al.,
    arXiv 2107.00630, appendix I.1; the paper's own code pairs t with T - t to the same end).
    """
    fraction = (uniform + position / batch_size) % 1.0
    return 1 + jnp.minimum((fraction * num_steps).astype(jnp.int32), num_steps - 1)
