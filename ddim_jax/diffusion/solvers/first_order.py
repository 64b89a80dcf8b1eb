"""The paper's own samplers: one step of Eq. 12 a row. They are of order 1 in 1/S, and need the newest prediction alone."""

import numpy as np
from jax.typing import ArrayLike

from ddim_jax.diffusion.process import noise_scale, signal_scale, step_std, step_weights, transition_std
from ddim_jax.diffusion.schedule import Schedule, is_known, library, pairs
from ddim_jax.diffusion.solvers.table import StepTable


def _table(schedule: Schedule, t, s, std, noise) -> StepTable:
    """Eq. 12 for each step: `std` sets the direction pointing to x_t, `noise` is what is added."""
    x0, eps = step_weights(schedule, s, std)
    return StepTable(t, s, x0[:, None], eps[:, None], noise)


def ddim(schedule: Schedule, tau: ArrayLike, eta: ArrayLike = 0.0) -> StepTable:
    """The paper's sampler over tau [S+1] (Eq. 12 and 16): eta = 0 is DDIM, of order 1 in 1/S; eta = 1 is DDPM.

    Raises ValueError for an eta that is negative or past its limit (see `process.step_std`).
    """
    t, s = pairs(schedule, tau)
    without_noise = is_known(eta) and np.all(np.asarray(eta) == 0)  # which is seen in the table whatever the schedule is
    std = np.zeros(len(t)) if without_noise else step_std(schedule, t, s, eta)
    return _table(schedule, t, s, std, std)


def ddpm(schedule: Schedule, tau: ArrayLike, variance: str = "small") -> StepTable:
    """DDPM's ancestral sampler over tau [S+1] (Ho et al., section 3.2), with the variance of its posterior or of its chain.

    'small' is eta = 1. 'large' is the paper's sigma-hat (D.3): the mean of eta = 1, with noise sqrt(1 - a_t / a_s); its
    last step, into x_0, adds none. Raises ValueError for another variance.
    """
    t, s = pairs(schedule, tau)
    std = step_std(schedule, t, s, eta=1.0)
    if variance == "small":
        return _table(schedule, t, s, std, std)
    if variance == "large":
        added = transition_std(schedule, t, s)
        return _table(schedule, t, s, std, library(added).where(s > 0, added, 0.0))
    raise ValueError(f"unknown variance {variance!r}; expected 'small' or 'large'")


def encode(schedule: Schedule, tau: ArrayLike, ask: str = "departure") -> StepTable:
    """DDIM upwards, from an image x_0 to its latent x_T over tau [S+1] (section 4.3): the same steps, s and t exchanged.

    `ask` says at which step of each pair the network is asked for eps of the x that the row starts from:

    'departure'  at the one that is left: Eq. 13 read upwards. For the first row it is 0; see `process.number_from_zero`.
    'arrival'    at the one that is reached, which is where decoding asks, and what the DDIMInverseScheduler of diffusers
                 does with a network that predicts eps.

    Both are of order 1 in 1/S. Raises ValueError for another `ask`.
    """
    leaves, reaches = (steps[::-1] for steps in reversed(pairs(schedule, tau)))
    none = np.zeros(len(leaves))
    if ask == "departure":
        return _table(schedule, leaves, reaches, none, none)
    if ask != "arrival":
        raise ValueError(f"ask is {ask!r}; expected 'departure' or 'arrival'")
    # x = signal x0_hat + noise eps_hat at the step reached; x_0 = (x - noise eps_hat) / signal at the one left, as Eq. 9 has it.
    x0, eps = step_weights(schedule, reaches, none)
    signal, noise = signal_scale(schedule, leaves), noise_scale(schedule, leaves)
    eps = eps + x0 * (noise_scale(schedule, reaches) - noise) / signal
    return StepTable(reaches, reaches, (x0 * x0 / signal)[:, None], eps[:, None], none)
