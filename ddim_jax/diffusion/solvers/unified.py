"""UniPC: a predictor, and a corrector that uses the next prediction without asking for it twice (arXiv 2302.04867).

With lambda = log(signal / noise), h = lambda_s - lambda_t and D_k = (x0[k] - x0[0]) / r_k, r_k = (lambda_k - lambda_t) / h,
predictor (UniP) and corrector (UniC) of order p are both

    x_s = (noise_s / noise_t) x_t - signal_s (exp(-h) - 1) x0[0] - signal_s B sum_k c_k D_k,     B = exp(-h) - 1,

over the last p - 1 differences, to which the corrector adds the one to the prediction at s itself (r = 1); the c_k solve the
paper's linear system, which makes the sum exact for polynomials. So the corrected x_s is the predicted one plus a sum of
x0's: it needs no memory of its own, and a row of the table first corrects where it stands, then predicts.
"""

import math

import numpy as np
from jax.typing import ArrayLike

from ddim_jax.diffusion.process import noise_scale, signal_scale
from ddim_jax.diffusion.schedule import Schedule, check_known, pairs
from ddim_jax.diffusion.solvers.table import StepTable, half_log_snr


def unipc(schedule: Schedule, tau: ArrayLike, order: int = 2) -> StepTable:
    """UniPC of order 1, 2 or 3 over tau [S+1], in x_0 and with the paper's B_2: S network evaluations, deterministic.

    Its error is of order p + 1 with the corrector, where every step is small in log(signal / noise). The order falls to what is
    there in the first steps, and towards 1 at the end, as the last step into x_0 is DDIM's: UniPC-3 keeps order 3 for certain,
    and 4 where those steps err little. On 'trailing' steps the last one is long and decides: on a mixture of three Gaussians
    (the tests') UniPC-2 and -3 fall by S^-1.8 and S^-1.7 from S = 10 to 160, by S^-1.1 if the Gaussians are a sixth as wide; on
    the steps of `log_snr_subsequence` by S^-2.8 and S^-4.2.

    Raises ValueError for another order, where the schedule ends in pure noise, and where its values are not known.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"unipc has order 1, 2 or 3; got {order}")
    check_known(schedule, "unipc")
    t, s = pairs(schedule, tau)
    if schedule.alpha_bar[t[0]] == 0:
        raise ValueError("unipc cannot start from pure noise (alpha_bar[T] = 0): its first step would be infinite")
    lambdas = half_log_snr(schedule, np.append(t, 0))
    x0, correction = np.zeros((len(t), order + 1)), np.zeros(order + 1)
    for i in range(len(t)):
        p = min(order, i + 1, len(t) - i)
        kept = noise_scale(schedule, s[i]) / noise_scale(schedule, t[i])  # of the corrected x_t
        x0[i] = kept * correction
        x0[i, 0] += kept * signal_scale(schedule, t[i])
        h, past = lambdas[i + 1] - lambdas[i], lambdas[i::-1][:p]  # past: lambda of x0[0], x0[1], ...
        step = -signal_scale(schedule, s[i]) * np.expm1(-h)
        predicted = step * _estimate(h, past, order, corrects=False)
        x0[i] += predicted[1:]
        if i + 1 < len(t):
            correction = (step * _estimate(h, past, order, corrects=True) - predicted)[:-1]
    return StepTable(t, s, x0, noise_scale(schedule, s)[:, None], np.zeros(len(t)))


def _estimate(h: float, past: np.ndarray, order: int, corrects: bool) -> np.ndarray:
    """The mean x_0 of a step, as weights [order + 2] of the prediction at its end and of x0[0], x0[1], ...: x0[0] + sum c_k D_k.

    `past` [p] holds lambda of x0[0], x0[1], ... The c_k [p-1, or p with the end] solve sum_k r_k^(n-1) c_k = b_n.
    """
    r, place = (past[1:] - past[0]) / h, 2 + np.arange(len(past) - 1)
    if corrects:
        r, place = np.append(r, 1.0), np.append(place, 0)
    phi, b = np.expm1(-h) / -h - 1, []
    for n in range(1, len(r) + 1):
        b.append(phi * math.factorial(n) / np.expm1(-h))
        phi = phi / -h - 1 / math.factorial(n + 1)
    powers = r ** np.arange(len(r))[:, None]
    c = np.array([0.5]) if len(r) == 1 else np.linalg.solve(powers, b)  # the paper's choice where there is one
    weights = np.zeros(order + 2)
    weights[place] = c / r
    weights[1] = 1 - np.sum(c / r)
    return weights
