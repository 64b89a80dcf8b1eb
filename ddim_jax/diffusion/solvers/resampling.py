"""RePaint's resampling: each step is taken several times, with noise between, so that the painted part and the known agree.

(Lugmayr et al., arXiv 2201.09865, algorithm 1, with jumps of one step.) The last step, into x_0, is taken once, since nothing
noises x_0 again. From t down to s and up again to t is one row:

    x_t' = (signal_t / signal_s) x_s + sqrt(1 - a_t / a_s) z,      x_s as Eq. 12 has it
"""

from jax.typing import ArrayLike

from ddim_jax.diffusion.process import signal_scale, transition_std
from ddim_jax.diffusion.schedule import Schedule, library
from ddim_jax.diffusion.solvers.first_order import ddim
from ddim_jax.diffusion.solvers.table import StepTable


def repaint(schedule: Schedule, tau: ArrayLike, eta: ArrayLike = 1.0, repeats: int = 10) -> StepTable:
    """`ddim` over tau [S+1], with every step but the last taken `repeats` times: (S - 1) repeats + 1 network evaluations.

    For use with `guidance.inpaint`.

    schedule: the noise schedule.
    tau:      int [S+1], rising from 0.
    eta:      as in `ddim`; 1, which is DDPM, is the default.
    repeats:  how often each step is taken, at least once; 10 is the default, as in the paper.

    Raises ValueError for repeats below 1, and as `ddim` does.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; every step is taken at least once")
    down = ddim(schedule, tau, eta)
    lost = signal_scale(schedule, down.t) / signal_scale(schedule, down.s)
    xp = library(lost)
    noise = xp.hypot(lost * down.noise, transition_std(schedule, down.t, down.s))
    again = StepTable(down.t, down.t, lost[:, None] * down.x0, lost[:, None] * down.eps, noise)
    rounds, last = [again] * (repeats - 1) + [down], repeats - 1
    every = (xp.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:]) for columns in zip(*rounds))
    return StepTable(*(xp.concatenate([column[: -1 - last], column[-1:]]) for column in every))
