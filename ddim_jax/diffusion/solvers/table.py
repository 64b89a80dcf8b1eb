"""A sampler as a table: one row for each step t -> s, of the weights of what the network predicted.

    x_s = sum_k x0[k] x0_hat[k] + sum_k eps[k] eps_hat[k] + noise z

The newest prediction has index 0, those of earlier steps follow; x itself is signal_scale x0_hat[0] + noise_scale
eps_hat[0], both scales at the step t where the network was asked. A solver writes this table in float64 on the host (or, for
a schedule that is an argument of compiled code, there), and `sampling.sample` runs any table.
"""

from typing import Any, NamedTuple

import numpy as np
from jax import export

from ddim_jax.diffusion.schedule import Array, Schedule, library, values


class StepTable(NamedTuple):
    """The steps of a sampler, in the order they are taken. A row with noise == 0 draws nothing."""

    t: Array  # [S] int: where the network is asked: the step that row i starts from (but see `encode`)
    s: Array  # [S] int: the step it leads to
    x0: Array  # [S, K] float64: weights of the predicted x_0, newest first
    eps: Array  # [S, K'] float64: weights of the predicted eps, newest first
    noise: Array  # [S] float64: weight of fresh standard normal noise


export.register_namedtuple_serialization(StepTable, serialized_name="ddim_jax.StepTable")  # for `jax.export` of any sampler


def half_log_snr(schedule: Schedule, t: np.ndarray) -> Any:
    """lambda_t = log(signal_scale / noise_scale), the time of the exponential integrators; it is infinite at t = 0."""
    alpha_bar = values(schedule)[t]
    xp = library(alpha_bar)
    with np.errstate(divide="ignore"):
        return 0.5 * (xp.log(alpha_bar) - xp.log(1 - alpha_bar))
