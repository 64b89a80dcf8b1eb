"""A sampler as a table: one row for each step t -> s, of the weights of what the network predicted.

    x_s = sum_k x0[k] x0_hat[k] + sum_k eps[k] eps_hat[k] + noise z

The newest prediction has index 0, those of earlier steps follow; x_t itself is signal_scale x0_hat[0] + noise_scale
eps_hat[0]. A solver writes this table in float64 on the host, and `sampling.sample` runs any table.
"""

from typing import NamedTuple

import numpy as np

from ddim_jax.diffusion.schedule import Schedule


class StepTable(NamedTuple):
    """The steps of a sampler, in the order they are taken. A row with noise == 0 draws nothing."""

    t: np.ndarray  # [S] int: the step that row i starts from, where the network is asked
    s: np.ndarray  # [S] int: the step it leads to
    x0: np.ndarray  # [S, K] float64: weights of the predicted x_0, newest first
    eps: np.ndarray  # [S, K'] float64: weights of the predicted eps, newest first
    noise: np.ndarray  # [S] float64: weight of fresh standard normal noise


def half_log_snr(schedule: Schedule, t) -> np.ndarray:
    """lambda_t = log(signal_scale / noise_scale), the time of the exponential integrators; it is infinite at t = 0."""
    with np.errstate(divide="ignore"):
        return 0.5 * (np.log(schedule.alpha_bar[t]) - np.log(1 - schedule.alpha_bar[t]))
