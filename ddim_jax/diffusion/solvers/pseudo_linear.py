"""Pseudo linear multistep (PLMS): DDIM's step along a mean of the last predictions (Liu et al., arXiv 2202.09778, Eq. 11-12).

    eps' = (55 eps[0] - 59 eps[1] + 37 eps[2] - 9 eps[3]) / 24
    x_s = signal_s (x_t - noise_t eps') / signal_t + noise_s eps'

The weights are those of Adams and Bashforth, for steps of one size; the first steps, before there are four predictions,
take the lower orders, as iPNDM does (Zhang & Chen, arXiv 2204.13902), and so ask the network once a step. The order is 2,
whatever the weights promise: the start is of order 1 and 2, and the steps are not of one size in the ODE's own time. It holds
where every step is small in log(signal / noise); the last one, into x_0, is of order 1. On a mixture of three Gaussians (the
tests') the error falls by S^-2.0 from S = 10 to 160 on the steps of `log_snr_subsequence`, but by S^-1.6 on 'trailing' ones,
where the last step is a long one; by S^-1.3 if the Gaussians are a sixth as wide.
"""

import numpy as np
from jax.typing import ArrayLike

from ddim_jax.diffusion.process import noise_scale, signal_scale
from ddim_jax.diffusion.schedule import Schedule, pairs
from ddim_jax.diffusion.solvers.table import StepTable

ADAMS_BASHFORTH = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(schedule: Schedule, tau: ArrayLike, order: int = 4) -> StepTable:
    """PLMS over tau [S+1] with up to `order` predictions (1: DDIM): S network evaluations, deterministic.

    Raises ValueError for an order other than 1, 2, 3 or 4.
    """
    if order not in range(1, 5):
        raise ValueError(f"plms has order 1, 2, 3 or 4; got {order}")
    t, s = pairs(schedule, tau)
    mean = np.zeros((len(t), order))
    for i in range(len(t)):
        weights = ADAMS_BASHFORTH[min(i + 1, order) - 1]
        mean[i, : len(weights)] = weights
    # With x_t = signal_t x0[0] + noise_t eps[0] put into x_s, it is DDIM's plus this factor times (eps' - eps[0]). In the first
    # step these two are equal; its factor is taken at t = 0, where there is signal to divide by, even if x_T is pure noise.
    asked = np.append(0, t[1:])
    factor = noise_scale(schedule, s) - noise_scale(schedule, asked) * (signal_scale(schedule, s) / signal_scale(schedule, asked))
    newest = np.eye(1, order)
    eps = noise_scale(schedule, s)[:, None] * newest + factor[:, None] * (mean - newest)
    return StepTable(t, s, signal_scale(schedule, s)[:, None], eps, np.zeros(len(t)))
