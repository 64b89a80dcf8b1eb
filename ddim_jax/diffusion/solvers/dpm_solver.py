"""DPM-Solver++(2M): of order 2, from the newest x_0 and the one before (Lu et al., arXiv 2211.01095, algorithm 2).

Over one step, with lambda = log(signal / noise), h = lambda_s - lambda_t, and x_0 taken as D, the ODE is solved exactly by

    x_s = (noise_s / noise_t) x_t - signal_s (exp(-h) - 1) D,     D = x0[0] + (x0[0] - x0[1]) h / (2 h_before),

D being the line through the last two predictions, half a step on. The first step, and the last into x_0 where h is
infinite, take D = x0[0], which is DDIM.
"""

import numpy as np
from jax.typing import ArrayLike

from ddim_jax.diffusion.process import noise_scale, signal_scale
from ddim_jax.diffusion.schedule import Schedule, library, pairs
from ddim_jax.diffusion.solvers.table import StepTable, half_log_snr


def dpmpp_2m(schedule: Schedule, tau: ArrayLike) -> StepTable:
    """DPM-Solver++(2M) over tau [S+1]: S network evaluations, deterministic, order 2 (order 1 first and last)."""
    t, s = pairs(schedule, tau)
    levels = half_log_snr(schedule, t)
    xp = library(levels)
    h = levels[1:] - levels[:-1]  # of all steps but the last, whose h is infinite
    slope = xp.concatenate([np.zeros(1), h[1:] / (2 * h[:-1]), np.zeros(min(len(h), 1))])  # 0 after a step from pure noise
    kept = noise_scale(schedule, s) / noise_scale(schedule, t) * signal_scale(schedule, t)  # of x_t's own x0[0]
    gained = signal_scale(schedule, s) - kept  # -signal_s (exp(-h) - 1)
    x0 = xp.stack([kept + gained * (1 + slope), -gained * slope], axis=1)
    return StepTable(t, s, x0, noise_scale(schedule, s)[:, None], np.zeros(len(t)))
