"""The inference process q(x_1..T | x_0) of Eq. 6 as a whole, drawn from x_T down by Eq. 7 or from x_1 up by Eq. 8.

Both draw the same joint distribution, for any std up to sqrt(1 - a_s): of each x_t it leaves Eq. 4, whatever the std (Lemma 1).
At std = 0 the whole chain follows from x_0 and one x_t; at the std of eta = 1 it is DDPM's, a Markov chain upwards.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddim_jax.common import draws
from ddim_jax.diffusion.process import check_std, forward_posterior, noise_scale, q_sample, reverse_posterior
from ddim_jax.diffusion.schedule import Array, Schedule, pairs


def sample_down(schedule: Schedule, x0: Array, tau: ArrayLike, std: ArrayLike, key: jax.Array) -> jax.Array:
    """x at tau[1..S] given x0, drawn from the last down (Eq. 6 and 7): [S, B, ...], in the order of tau.

    schedule: the noise schedule.
    x0:       [B, ...].
    tau:      int [S+1], rising from 0.
    std:      [S-1], those of the steps between tau[1..S], from that at tau[S] down.
    key:      a typed random key.

    Raises ValueError where tau does not rise from 0 or a std is out of range.
    """
    t, s, stds = _steps(schedule, x0, tau, std)
    first = q_sample(schedule, x0, int(np.asarray(tau)[-1]), _normal(key, 0, x0))

    def step(x_t, row):
        i, t, s, std = row
        mean, std = reverse_posterior(schedule, x_t, x0, t, s, std)
        x_s = mean + std * _normal(key, i, x0)
        return x_s, x_s

    _, rest = jax.lax.scan(step, first, (jnp.arange(1, len(t) + 1), t, s, stds))
    return jnp.concatenate([first[None], rest])[::-1]


def sample_up(schedule: Schedule, x0: Array, tau: ArrayLike, std: ArrayLike, key: jax.Array) -> jax.Array:
    """As `sample_down`, with the same arguments, drawn from x at tau[1] up (Eq. 4 and 8): [S, B, ...]."""
    t, s, stds = _steps(schedule, x0, tau, std)
    first = q_sample(schedule, x0, int(np.asarray(tau)[1]), _normal(key, 0, x0))

    def step(x_s, row):
        i, t, s, std = row
        mean, std = forward_posterior(schedule, x_s, x0, s, t, std)
        x_t = mean + std * _normal(key, i, x0)
        return x_t, x_t

    _, rest = jax.lax.scan(step, first, (jnp.arange(1, len(t) + 1), t[::-1], s[::-1], stds[::-1]))
    return jnp.concatenate([first[None], rest])


def _steps(schedule: Schedule, x0, tau, std):
    """(t, s, std) of the steps between noisy x, from the last down, once they are checked."""
    t, s = (steps[:-1] for steps in pairs(schedule, tau))
    if np.shape(std) != t.shape:
        raise ValueError(f"std has shape {np.shape(std)}; there are {len(t)} steps between tau[1] and tau[-1], one std for each")
    check_std(std, noise_scale(schedule, s), "it must lie between 0 and sqrt(1 - alpha_bar[s])")
    return jnp.asarray(t), jnp.asarray(s), jnp.asarray(std, x0.dtype)


def _normal(key, i, like):
    return draws.normal(jax.random.fold_in(key, i), like.shape, like.dtype)
