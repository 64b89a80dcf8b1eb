"""The paper's ODE view (section 4.3): DDIM is Euler's method in the variables x-bar and sigma.

    x-bar = x / sqrt(a)      sigma = sqrt((1 - a) / a)
    d x-bar = eps(x-bar / sqrt(sigma^2 + 1)) d sigma                                                          Eq. 14
    x-bar_s = x-bar_t + (sigma_s - sigma_t) eps                                                               Eq. 13
    x-bar_s = x-bar_t + (sigma_s^2 - sigma_t^2) / (2 sigma_t) eps                                             Eq. 15

Eq. 13 is Eq. 12 at eta = 0 and steps in sigma. Eq. 15 is the probability flow of the variance-exploding SDE (Song et al.,
arXiv 2011.13456) and steps in time: the same ODE, with increments (sigma_s + sigma_t) / (2 sigma_t) times those of Eq. 13,
which goes to 1 as the steps shrink. Encoding is the same ODE upwards.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ddim_jax.diffusion.process import noise_scale, signal_scale
from ddim_jax.diffusion.schedule import Array, Schedule, Steps


def noise_to_signal(schedule: Schedule, t: Steps, like: Array | None = None) -> Any:
    """The sigma of these equations, the time of the ODE: the standard deviation of the noise in x-bar_t."""
    return noise_scale(schedule, t, like) / signal_scale(schedule, t, like)


def to_x_bar(schedule: Schedule, x_t: Array, t: Steps) -> jax.Array:
    """x-bar = x / sqrt(a_t), of x_t [B, ...]: x_0 with noise of standard deviation sigma added."""
    return x_t / signal_scale(schedule, t, x_t)


def from_x_bar(schedule: Schedule, x_bar: Array, t: Steps) -> jax.Array:
    """x_t [B, ...] from x-bar: the inverse of `to_x_bar`, which is also x-bar / sqrt(sigma^2 + 1)."""
    return x_bar * signal_scale(schedule, t, x_bar)


def euler_in_sigma(schedule: Schedule, x_bar: Array, eps: Array, t: Steps, s: Steps) -> jax.Array:
    """One step t -> s of Eq. 13, which is DDIM's: the next x-bar [B, ...].

    schedule: the noise schedule.
    x_bar:    [B, ...], at t.
    eps:      [B, ...], predicted at t.
    t, s:     whole numbers 0..T, or [B].
    """
    return x_bar + (noise_to_signal(schedule, s, x_bar) - noise_to_signal(schedule, t, x_bar)) * eps


def euler_in_time(schedule: Schedule, x_bar: Array, eps: Array, t: Steps, s: Steps) -> jax.Array:
    """One step t -> s of Eq. 15, the probability flow's: the next x-bar [B, ...].

    schedule: the noise schedule.
    x_bar:    [B, ...], at t.
    eps:      [B, ...], predicted at t.
    t, s:     whole numbers 0..T, or [B]; t >= 1, where sigma_t > 0.
    """
    at_t, at_s = noise_to_signal(schedule, t, x_bar), noise_to_signal(schedule, s, x_bar)
    return x_bar + (jnp.square(at_s) - jnp.square(at_t)) / (2 * at_t) * eps
