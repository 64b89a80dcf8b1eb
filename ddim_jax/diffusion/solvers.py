"""Samplers as tables: one row for each step t -> s, of the weights of what the network predicted.

    x_s = sum_k x0[k] x0_hat[k] + sum_k eps[k] eps_hat[k] + noise z

The newest prediction has index 0, those of earlier steps follow. A solver writes this table in float64 on the host, and
`sampling.sample` runs any table. Give new solvers the order of their error and their source.
"""

from typing import NamedTuple

import numpy as np

from ddim_jax.diffusion.process import direction_scale, signal_scale, step_std, transition_std
from ddim_jax.diffusion.schedule import Schedule


class StepTable(NamedTuple):
    """The steps of a sampler, in the order they are taken. A row with noise == 0 draws nothing."""

    t: np.ndarray  # [S] int: the step that row i starts from, where the network is asked
    s: np.ndarray  # [S] int: the step it leads to
    x0: np.ndarray  # [S, K] float64: weights of the predicted x_0, newest first
    eps: np.ndarray  # [S, K'] float64: weights of the predicted eps, newest first
    noise: np.ndarray  # [S] float64: weight of fresh standard normal noise


def _pairs(schedule: Schedule, tau) -> tuple[np.ndarray, np.ndarray]:
    """The steps (t, s) down through tau [S+1]. Raises ValueError unless tau rises strictly from 0 to at most T."""
    tau = np.asarray(tau)
    if tau.ndim != 1 or len(tau) < 2 or not np.issubdtype(tau.dtype, np.integer):
        raise ValueError(f"tau must be [S+1] whole numbers with S >= 1, as `schedule.subsequence` gives them; got {tau}")
    if tau[0] != 0 or np.any(np.diff(tau) <= 0) or tau[-1] > schedule.num_steps:
        raise ValueError(f"tau must rise strictly from 0 to at most {schedule.num_steps}, the steps of the schedule; got {tau}")
    return tau[:0:-1], tau[-2::-1]


def _table(schedule: Schedule, t, s, std, noise) -> StepTable:
    """Eq. 12 for each step: `std` sets the direction pointing to x_t, `noise` is what is added."""
    return StepTable(t, s, signal_scale(schedule, s)[:, None], direction_scale(schedule, s, std)[:, None], noise)


def ddim(schedule: Schedule, tau, eta: float = 0.0) -> StepTable:
    """The paper's sampler over tau [S+1] (Eq. 12 and 16): eta = 0 is DDIM, of order 1 in 1/S; eta = 1 is DDPM.

    Raises ValueError for an eta that is negative or past its limit (see `process.step_std`).
    """
    t, s = _pairs(schedule, tau)
    std = step_std(schedule, t, s, eta)
    return _table(schedule, t, s, std, std)


def ddpm(schedule: Schedule, tau, variance: str = "small") -> StepTable:
    """DDPM's ancestral sampler over tau [S+1] (Ho et al., section 3.2), with the variance of its posterior or of its chain.

    'small' is eta = 1. 'large' is the paper's sigma-hat (D.3): the mean of eta = 1, with noise sqrt(1 - a_t / a_s); its
    last step, into x_0, adds none.
    """
    t, s = _pairs(schedule, tau)
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
    t, s = (steps[::-1] for steps in reversed(_pairs(schedule, tau)))
    none = np.zeros(len(t))
    return _table(schedule, t, s, none, none)
