"""How likely data is: the variational bound J_sigma of Eq. 11 with Theorem 1, and the likelihood of the ODE of Eq. 14.

    J_sigma = KL(q(x_T | x_0) || p(x_T)) + sum_{t >= 2} KL(q(x_s | x_t, x_0) || q(x_s | x_t, f(x_t))) - log p(x_0 | x_1)
            = L_gamma + C,     L_gamma = sum_t gamma_t |eps_theta(x_t) - eps|^2                               (summed over values)

over the steps t -> s of a sub-sequence tau that ends at T. The gamma_t of the paper's proof, 1 / (2 d sigma_t^2 a_t), drop
factors; the ones here make the theorem exact. Both sides need every sigma_t > 0: Eq. 16 gives 0 for the last step, into
x_0, so the standard deviation of p(x_0 | x_1) is a number of its own. All values are in nats, summed over an example.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddim_jax.diffusion.ode import noise_to_signal, to_x_bar
from ddim_jax.diffusion.process import (
    EpsFn,
    Predict,
    direction_scale,
    noise_scale,
    predict_x0,
    q_sample,
    reverse_posterior,
    signal_scale,
)
from ddim_jax.diffusion.schedule import Array, Schedule, is_known, library, pairs, values


class Bound(NamedTuple):
    """The terms of J_sigma, each in nats: their sum bounds -log p(x_0) from above, in expectation over eps."""

    prior: jax.Array  # [B]: KL(q(x_T | x_0) || N(0, I))
    steps: jax.Array  # [S-1, B]: KL of the steps from T down, all but the last
    decoder: jax.Array  # [B]: -log p(x_0 | x_{tau_1})

    @property
    def total(self) -> jax.Array:
        """J_sigma [B]."""
        return self.prior + self.steps.sum(0) + self.decoder


def check_stds(schedule: Schedule, tau: ArrayLike, std: ArrayLike) -> np.ndarray:
    """The standard deviations [S] of the steps down through tau [S+1], the last that of p(x_0 | x_1), in float64.

    Raises ValueError unless tau ends at T, and each is above 0 and at most sqrt(1 - a_s) but for the last; for a schedule
    that is an argument of compiled code, sqrt(1 - a_s) is not known, and that is left out.
    """
    t, s = pairs(schedule, tau)
    std = np.asarray(std, np.float64)
    limit = noise_scale(schedule, s[:-1]) * (1 + 1e-6) if is_known(schedule.alpha_bar) else np.inf
    if t[0] != schedule.num_steps:
        raise ValueError(f"tau ends at {t[0]}; the bound needs all of the chain, so it must end at {schedule.num_steps}")
    if std.shape != t.shape or np.any(std <= 0) or np.any(std[:-1] > limit):
        raise ValueError(
            f"std must be {len(t)} numbers above 0, from the step at T down, each at most sqrt(1 - alpha_bar[s]) but for the "
            f"last, which is that of p(x_0 | x_1); got {std}"
        )
    return std


def variational_bound(
    schedule: Schedule,
    eps_fn: EpsFn,
    tau: ArrayLike,
    std: ArrayLike,
    x0: Array,
    eps: Array,
    discretised: bool = False,
) -> Bound:
    """J_sigma (Eq. 11) over the steps of tau, estimated from one draw of the noise, for each example.

    schedule:    the noise schedule.
    eps_fn:      (x [B, ...], t [B]) -> eps [B, ...].
    tau:         int [S+1], from 0 to T.
    std:         [S], as `check_stds` has them.
    x0:          [B, ...] in [-1, 1].
    eps:         [S, B, ...], standard normal, for the steps from T down.
    discretised: whether p(x_0 | x_1) is the probability of each 8-bit value (DDPM Eq. 13), for x0 in {-1, -1 + 2/255, ..., 1},
                 or (the default) the density N(f(x_1), std^2) of Eq. 10.

    Raises ValueError as `check_stds` does.
    """
    std = check_stds(schedule, tau, std)
    t, s = pairs(schedule, tau)

    def total(x):
        return jnp.sum(x, axis=range(1, x0.ndim))

    def kl(row):
        """Between two normals of one standard deviation: |difference of means|^2 / (2 std^2)."""
        t, s, std, eps = row
        x_t = q_sample(schedule, x0, t, eps)
        f = predict_x0(schedule, x_t, t, eps_fn(x_t, jnp.full(x0.shape[0], t)))
        q, p = (reverse_posterior(schedule, x_t, x, t, s, std).mean for x in (x0, f))
        return total(jnp.square(q - p)) / (2 * std**2)

    steps = jax.lax.map(kl, tuple(map(jnp.asarray, (t[:-1], s[:-1], std[:-1], eps[:-1]))))
    variance = 1 - values(schedule)[-1]
    mean = signal_scale(schedule, schedule.num_steps, x0) * x0
    prior = total(jnp.square(mean) + variance - 1 - library(variance).log(variance)) / 2
    x_1 = q_sample(schedule, x0, int(t[-1]), eps[-1])
    f = predict_x0(schedule, x_1, int(t[-1]), eps_fn(x_1, jnp.full(x0.shape[0], t[-1])))
    log_prob = discretised_log_prob if discretised else jax.scipy.stats.norm.logpdf
    return Bound(prior, steps, -total(log_prob(x0, f, std[-1])))


def gamma(schedule: Schedule, tau: ArrayLike, std: ArrayLike) -> Array:
    """The weights gamma [S] with which Theorem 1 is exact, from the step at T down; `std` [S] as `check_stds` has it.

    The paper's, 1 / (2 d sigma^2 a_t), are not: with them J_sigma - L_gamma still depends on eps_theta. At eta = 1 these are
    DDPM's beta^2 / (2 sigma^2 (1 - a_t) (1 - beta)), beta = 1 - a_t / a_s.
    """
    std = check_stds(schedule, tau, std)
    t, s = pairs(schedule, tau)
    kept = signal_scale(schedule, s) * noise_scale(schedule, t) / signal_scale(schedule, t)
    xp = library(kept)
    direction = xp.append(direction_scale(schedule, s[:-1], std[:-1]), xp.zeros(1))  # p(x_0 | x_1) has the mean f(x_1) alone
    return xp.square(kept - direction) / (2 * std**2)


def constant(schedule: Schedule, std_1: float, x0: Array) -> jax.Array:
    """C [B] of Theorem 1, J_sigma = L_gamma + C: what the network cannot change, for a density p(x_0 | x_1) of std_1."""
    a_T, d = values(schedule)[-1], math.prod(x0.shape[1:])
    square = jnp.sum(jnp.square(x0), axis=range(1, x0.ndim))
    return (a_T * square - d * a_T - d * library(a_T).log1p(-a_T)) / 2 + d / 2 * math.log(2 * math.pi * std_1**2)


def accelerated_gamma(schedule: Schedule, tau: ArrayLike, std: ArrayLike, skipped_std: float) -> Array:
    """The weights [T] of |eps_theta - eps|^2 at t = 1..T in the objective of the accelerated chain (appendix C.1).

    Steps in tau weigh as in `gamma`; each other step t, which the sampler skips, is trained as a decoder of its own,
    N(f(x_t), skipped_std^2), and weighs (1 - a_t) / (2 skipped_std^2 a_t). (The paper's "KL" over those is -log p(x_0 | x_t).)

    schedule:    the noise schedule.
    tau:         int [S+1], from 0 to T.
    std:         [S], as `check_stds` has them.
    skipped_std: a number above 0.

    Raises ValueError as `check_stds` does.
    """
    t, visited = np.arange(1, schedule.num_steps + 1), pairs(schedule, tau)[0][::-1]
    chosen = gamma(schedule, tau, std)[::-1]
    skipped = (noise_scale(schedule, t) / signal_scale(schedule, t) / skipped_std) ** 2 / 2
    return library(skipped).where(np.isin(t, visited), chosen[np.searchsorted(visited, t)], skipped)


def discretised_log_prob(x0: Array, mean: Array, std: ArrayLike) -> jax.Array:
    """log of the probability that N(mean, std^2) gives each 8-bit value: its interval of width 2/255, open at -1 and at 1."""
    upper = jnp.where(x0 > 1 - 1e-3, jnp.inf, (x0 + 1 / 255 - mean) / std)
    lower = jnp.where(x0 < -1 + 1e-3, -jnp.inf, (x0 - 1 / 255 - mean) / std)
    flip = lower > 0  # the difference of two numbers near 1 is lost to rounding; that of their complements is not
    lower, upper = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_upper, log_lower = jax.scipy.special.log_ndtr(upper), jax.scipy.special.log_ndtr(lower)
    difference = jnp.where(log_lower == -jnp.inf, -jnp.inf, log_lower - log_upper)
    return log_upper + jnp.log(-jnp.expm1(jnp.minimum(difference, -1e-30)))


def bits_per_dimension(nats: Array, shape: tuple[int, ...]) -> Array:
    """Nats of a whole example [B], of shape (H, W, C), as bits a value."""
    return nats / (math.prod(shape) * math.log(2))


def ode_log_likelihood(
    schedule: Schedule, predict: Predict, tau: ArrayLike, x: Array, key: jax.Array, num_probes: int = 1
) -> jax.Array:
    """log p(x) [B] in nats of x at step tau[1], by the ODE of Eq. 14 from there to x-bar_T ~ N(0, sigma_T^2).

    d log p = -(div eps) / sqrt(sigma^2 + 1) d sigma along the path, div by Hutchinson's estimator with `num_probes` random
    signs (Song et al., arXiv 2011.13456, D.2). Both integrals take Heun's steps of order 2 between the steps of tau. Where
    x is data in 8 bits, add uniform noise of its bin's width, and the log of that width for each value.

    schedule:   the noise schedule.
    predict:    (x [B, ...], t [B]) -> Prediction.
    tau:        int [S+1], from 0 to T.
    x:          [B, ...].
    key:        a typed random key, for the signs.
    num_probes: how many draws of the signs are averaged; 1 is the default.

    Raises ValueError where tau does not end at T, or x_T holds no signal at all, so that sigma_T is infinite.
    """
    pairs(schedule, tau)  # the same checks of tau
    tau = np.asarray(tau)
    if tau[-1] != schedule.num_steps or (is_known(schedule.alpha_bar) and schedule.alpha_bar[-1] == 0):
        raise ValueError(
            f"tau ends at {tau[-1]}, where alpha_bar is {schedule.alpha_bar[tau[-1]]}; the prior is that of the last step of the "
            f"schedule, {schedule.num_steps}, with alpha_bar above 0"
        )
    probes = jax.random.rademacher(key, (num_probes, *x.shape), x.dtype)

    def slope(x_bar, t):
        """eps and its divergence in x-bar: what x-bar and log p change by with sigma."""

        def eps(x_bar):
            return predict(x_bar * signal_scale(schedule, t, x_bar), jnp.full(x_bar.shape[0], t)).eps

        value, push = jax.linearize(eps, x_bar)
        divergence = jax.lax.map(lambda probe: jnp.sum(probe * push(probe), axis=range(1, x.ndim)), probes)
        return value, divergence.mean(0)

    def heun(carry, row):
        x_bar, change = carry
        s, t = row
        h = noise_to_signal(schedule, t, x_bar) - noise_to_signal(schedule, s, x_bar)
        first, first_divergence = slope(x_bar, s)
        second, second_divergence = slope(x_bar + h * first, t)
        return (x_bar + h * (first + second) / 2, change + h * (first_divergence + second_divergence) / 2), None

    start = (to_x_bar(schedule, x, int(tau[1])), jnp.zeros(x.shape[0], x.dtype))
    (x_bar, change), _ = jax.lax.scan(heun, start, (jnp.asarray(tau[1:-1]), jnp.asarray(tau[2:])))
    prior = jax.scipy.stats.norm.logpdf(x_bar, 0, noise_to_signal(schedule, int(tau[-1])))
    # p is the density of x-bar; that of x itself is 1 / signal times it, for each value.
    signal = signal_scale(schedule, int(tau[1]))
    rescaled = -math.prod(x.shape[1:]) * library(signal).log(signal)
    return jnp.sum(prior, axis=range(1, x.ndim)) + change + rescaled
