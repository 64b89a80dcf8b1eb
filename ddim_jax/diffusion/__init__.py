"""The functional core: pure functions of arrays, which import JAX and NumPy alone."""

from ddim_jax.diffusion import (
    discrete,
    distillation,
    guidance,
    joint,
    likelihood,
    losses,
    ode,
    process,
    sampling,
    schedule,
    solvers,
)

__all__ = [
    "discrete",
    "distillation",
    "guidance",
    "joint",
    "likelihood",
    "losses",
    "ode",
    "process",
    "sampling",
    "schedule",
    "solvers",
]
