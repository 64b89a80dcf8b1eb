"""Noise schedules, and the sub-sequences of steps that a sampler visits.

A schedule is one array, `alpha_bar`: the paper's alpha_t, which DDPM writes with a bar. Its index is the paper's t, so
alpha_bar[0] == 1 is clean data and alpha_bar[T] is nearly pure noise. Everything here is NumPy float64 on the host, but for
a schedule that is an argument of compiled code; see `Schedule`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

Array = jax.Array | np.ndarray  # an array with a shape and a dtype, of either library
Steps = int | Array  # whole numbers 0..T: one, or [B], one for each example

SPACINGS = ("linspace", "leading", "trailing", "quadratic")


class Schedule(NamedTuple):
    """How much of the signal is left at each step. Make one with `linear`, `cosine`, `from_betas` or `from_alpha_bar`.

    Compiled code may have it in three ways. Used from outside, or as a static argument (it can be hashed), its values stay
    float64 on the host, and steps, eta and std are checked. As an ordinary argument it can be mapped over and differentiated;
    its values are unknown then, nothing is checked, and it is as precise as the arrays are: in float32, 1 - alpha_bar[1] of
    the paper's schedule is right to about 3 digits. Solvers write their tables for it too, but for `unipc`.
    """

    alpha_bar: Array  # [T+1] float64, alpha_bar[0] == 1, strictly falling

    @property
    def num_steps(self) -> int:
        """T, the number of steps that the network is trained on."""
        return self.alpha_bar.shape[0] - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and np.array_equal(self.alpha_bar, other.alpha_bar)

    def __ne__(self, other: object) -> bool:  # a tuple's own would compare the arrays as truth values
        return not self == other

    def __hash__(self) -> int:
        return hash(np.asarray(self.alpha_bar).tobytes())


def is_known(*arrays: Any) -> bool:
    """Whether the values can be seen, which those of arguments of compiled code cannot."""
    return not any(isinstance(array, Tracer) for array in arrays)


def values(schedule: Schedule) -> Any:
    """alpha_bar [T+1] to compute with: float64 on the host where it is known, else the widest float of compiled code."""
    if is_known(schedule.alpha_bar):
        return np.asarray(schedule.alpha_bar, np.float64)
    return jnp.asarray(schedule.alpha_bar, float)


def library(*arrays: Any) -> Any:
    """jax.numpy where one of the arrays is JAX's, else NumPy, in which numbers stay float64 on the host."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def check_known(schedule: Schedule, who: str) -> None:
    """Raises ValueError where the schedule is an argument of compiled code, for `who`, which needs its values."""
    if not is_known(schedule.alpha_bar):
        raise ValueError(
            f"{who} works on the host, from a known schedule, and this one is an argument of compiled code: call it before, "
            "and pass what it gives to the compiled code"
        )


def from_alpha_bar(alpha_bar: ArrayLike) -> Schedule:
    """A schedule from alpha_bar [T+1] itself. Raises ValueError unless it falls strictly from 1 and stays at or above 0.

    An alpha_bar that compiled code computes is taken as it is.
    """
    if isinstance(alpha_bar, Tracer):
        return Schedule(alpha_bar)
    alpha_bar = np.array(alpha_bar, np.float64)
    if alpha_bar.ndim != 1 or len(alpha_bar) < 2:
        raise ValueError(
            f"alpha_bar has shape {alpha_bar.shape}; expected [T+1] with T >= 1, alpha_bar[0] == 1 before the first step"
        )
    if alpha_bar[0] != 1:
        raise ValueError(f"alpha_bar[0] is {alpha_bar[0]}; expected exactly 1 (clean data): put a 1 in front of the T values")
    if not (np.all(np.diff(alpha_bar) < 0) and alpha_bar[-1] >= 0):
        step = int(np.argmax(~(np.diff(alpha_bar) < 0) | ~(alpha_bar[1:] >= 0))) + 1
        raise ValueError(
            f"alpha_bar must fall strictly from 1 towards 0, but alpha_bar[{step - 1}] = {alpha_bar[step - 1]} is followed "
            f"by alpha_bar[{step}] = {alpha_bar[step]}: is this the cumulative product, in order of rising noise?"
        )
    alpha_bar.setflags(write=False)
    return Schedule(alpha_bar)


def from_betas(betas: ArrayLike) -> Schedule:
    """A schedule from DDPM's variances betas [T]: alpha_bar[t] = prod_{i<=t} (1 - betas[i-1]) (DDPM Eq. 4).

    Betas .1, .2, .3 give alpha_bar 1, .9, .72, .504. Raises ValueError unless every beta lies in (0, 1]; 1 only at the end.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not len(betas):
        raise ValueError(f"betas must be [T] numbers in (0, 1), the last at most 1; got shape {betas.shape}")
    wrong = np.flatnonzero(~((betas > 0) & (betas <= 1)) | ((betas == 1) & (np.arange(len(betas)) < len(betas) - 1)))
    if len(wrong):
        raise ValueError(
            f"betas must be [T] numbers in (0, 1), the last at most 1; {len(wrong)} of {len(betas)} are not, the first of them "
            f"beta {wrong[0] + 1}, which is {betas[wrong[0]]}"
        )
    return from_alpha_bar(np.concatenate([[1.0], np.cumprod(1 - betas)]))


def linear(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2) -> Schedule:
    """The paper's schedule: betas rise linearly from beta_start to beta_end over num_steps (DDPM section 4).

    For another number of steps choose other betas: 100 steps of these end at alpha_bar = 0.36, far from pure noise.
    """
    return from_betas(np.linspace(beta_start, beta_end, num_steps))


def cosine(num_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """alpha_bar falls as cos^2, each beta at most max_beta (Nichol & Dhariwal, arXiv 2102.09672, Eq. 17)."""
    angle = (np.arange(num_steps + 1) / num_steps + offset) / (1 + offset) * np.pi / 2
    signal = np.cos(angle) ** 2
    return from_betas(np.minimum(1 - signal[1:] / signal[:-1], max_beta))


def scaled_linear(num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """sqrt(beta) rises linearly: the schedule of latent diffusion (Rombach et al., arXiv 2112.10752, in its code)."""
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule moved so that x_T is pure noise: sqrt(alpha_bar) shifted to 0 at T and scaled back to what it was at 1.

    (Lin et al., arXiv 2305.08891, algorithm 1.) Predict v or x_0 then: eps prediction is refused at alpha_bar[T] = 0.
    """
    alpha_bar = values(schedule)
    xp = library(alpha_bar)
    signal = xp.sqrt(alpha_bar[1:])
    signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    return from_alpha_bar(xp.concatenate([xp.ones(1), signal**2]))


def subsequence(num_steps: int, num_sample_steps: int, spacing: str) -> np.ndarray:
    """tau: the S = num_sample_steps of the T = num_steps steps that a sampler visits, with tau[0] = 0 (section 4.2, D.2).

    'linspace'   both ends, 1 and T, and even steps between them (S = 1 visits T alone).
    'trailing'   multiples of T/S, rounded: ends at T.
    'leading'    1 + floor(i T/S): the paper's "linear". Equal to its code where S divides T; elsewhere that code takes
                 strides of floor(T/S) and so more than S steps. Never visits T, unless S = T.
    'quadratic'  1 + floor(c i^2), up to 1 + 0.8 T: what the paper uses for CIFAR-10. Equal to its code where that gives S
                 distinct steps; elsewhere (S = 50 of 1000, say) it repeats early steps, and here each repeat moves up to
                 the next free step. So it passes 0.8 T where S does: with S = T it visits every step.

    Returns: int [S+1], strictly rising, tau[0] == 0 and 1 <= tau[1:] <= T.
    Raises ValueError unless 1 <= S <= T and the spacing is one of these.
    """
    if num_sample_steps not in range(1, num_steps + 1):
        raise ValueError(
            f"cannot choose {num_sample_steps} sampling steps out of {num_steps}: give a whole number from 1 to {num_steps}"
        )
    index = np.arange(num_sample_steps)
    tau: np.ndarray
    if spacing == "linspace":
        tau = np.round(np.linspace(num_steps, 1, num_sample_steps))[::-1]
    elif spacing == "trailing":
        tau = np.round((index + 1) * num_steps / num_sample_steps)
    elif spacing == "leading":
        tau = 1 + index * num_steps // num_sample_steps
    elif spacing == "quadratic":
        squares = np.floor(np.linspace(0, np.sqrt(num_steps * 0.8), num_sample_steps) ** 2)
        tau = 1 + index + np.maximum.accumulate(squares - index)  # squares, each at least one above the one before
    else:
        raise ValueError(f"unknown spacing {spacing!r}; expected one of {', '.join(SPACINGS)}")
    return np.concatenate([[0], tau]).astype(int)


def pairs(schedule: Schedule, tau: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The steps (t [S], s [S]) down through tau [S+1], t -> s, from the last of tau on.

    Raises ValueError unless tau rises strictly from 0 to at most T, and where it is an argument of compiled code.
    """
    if not is_known(tau):
        raise ValueError("tau is an argument of compiled code; its steps must be known, so use tau from outside instead")
    tau = np.asarray(tau)
    if tau.ndim != 1 or len(tau) < 2 or not np.issubdtype(tau.dtype, np.integer):
        raise ValueError(f"tau must be [S+1] whole numbers with S >= 1, as `schedule.subsequence` gives them; got {tau}")
    if tau[0] != 0 or np.any(np.diff(tau) <= 0) or tau[-1] > schedule.num_steps:
        raise ValueError(f"tau must rise strictly from 0 to at most {schedule.num_steps}, the steps of the schedule; got {tau}")
    return tau[:0:-1], tau[-2::-1]


def log_snr_subsequence(schedule: Schedule, num_sample_steps: int) -> np.ndarray:
    """tau [S+1], from 0 to T, at even distances in the log of the signal-to-noise ratio (Lu et al., arXiv 2206.00927, 3.4).

    Each is the trained step nearest to an even distance, or the next free one, since near t = 1 the trained steps lie
    further apart than that. Raises ValueError unless 1 <= S <= T, and for a schedule whose values are not known.
    """
    check_known(schedule, "log_snr_subsequence")
    alpha_bar = values(schedule)
    subsequence(schedule.num_steps, num_sample_steps, "linspace")  # the same check of S
    finite = alpha_bar[1:][alpha_bar[1:] > 0]
    log_snr = np.log(finite / (1 - finite))  # of t = 1, 2, ..., falling
    wanted = np.linspace(log_snr[0], log_snr[-1], num_sample_steps) if num_sample_steps > 1 else log_snr[-1:]
    nearest = np.argmin(np.abs(log_snr[:, None] - wanted), axis=0) + 1
    nearest[-1] = schedule.num_steps
    index = np.arange(num_sample_steps)
    tau = index + np.maximum.accumulate(nearest - index)
    tau = np.minimum(tau, schedule.num_steps - index[::-1])  # room for those that follow
    return np.concatenate([[0], tau])
