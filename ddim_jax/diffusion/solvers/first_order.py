"""The paper's own samplers: one step of Eq. 12 a row. They are of order 1 in 1/S, and need the newest prediction alone."""

import numpy as np

from ddim_jax.diffusion.process import direction_scale, signal_scale, step_std, transition_std
from ddim_jax.diffusion.schedule import Schedule, pairs
from ddim_jax.diffusion.solvers.table import StepTable


def _table(schedule: Schedule, t, s, std, noise) -> StepTable:
    """Eq. 12 for each step: `std` sets the direction pointing to x_t, `noise` is what is added."""
    return StepTable(t, s, signal_scale(schedule, s)[:, None], direction_scale(schedule, s, std)[:, None], noise)


def ddim(schedule: Schedule, tau, eta: float = 0.0) -> StepTable:
    """The paper's sampler over tau [S+1] (Eq. 12 and 16): eta = 0 is DDIM, of order 1 in 1/S; eta = 1 is DDPM.

    Raises ValueError for an eta that is negative or past its limit (see `process.step_std`).
    """
    t, s = pairs(schedule, tau)
    std = step_std(schedule, t, s, eta)
    return _table(schedule, t, s, std, std)


def ddpm(schedule: Schedule, tau, variance: str = "small") -> StepTable:
    """DDPM's ancestral sampler over tau [S+1] (Ho et al., section 3.2), with the variance of its posterior or of its chain.

    'small' is eta = 1. 'large' is the paper's sigma-hat (D.3): the mean of eta = 1, with noise sqrt(1 - a_t / a_s); its
    last step, into x_0, adds none.
    """
    t, s = pairs(schedule, tau)
    std = step_std(schedule, t, s, eta=1.0)
    if variance == "small":
        return _table(schedule, t, s, std, std)
    if variance == "large":
        return _table(schedule, t, s, std, np.where(s > 0, transition_std(schedule, t, s), 0.0))
    raise ValueError(f"unknown variance {variance!r}; expected 'small' or 'large'")


def encode(schedule: Schedule, tau) -> StepTable:
    """DDIM upwards, from an image x_0 to its latent x_T over tau [S+1] (section 4.3): the same steps, s and t exchanged.

    eps is asked for at the step that is left, which for the first one is 0; see `process.number_from_zero`.
    """
    t, s = (steps[::-1] for steps in reversed(pairs(schedule, tau)))
    none = np.zeros(len(t))
    return _table(schedule, t, s, none, none)
