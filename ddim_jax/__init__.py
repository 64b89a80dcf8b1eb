"""Denoising Diffusion Implicit Models (Song, Meng & Ermon, arXiv 2010.02502) in JAX.

    diffusion    the functions of the paper, in modules: `ddim_jax.diffusion.process`, `.sampling`, `.solvers`, ...
    load         a trained network, ready to sample from
    train        the training loop

Each is imported when it is first asked for, so that `import ddim_jax` alone is quick and does not import JAX.
"""

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim_jax import diffusion
    from ddim_jax.interop import load
    from ddim_jax.training.loop import train

__version__ = "0.1.0"
__all__ = ["__version__", "diffusion", "load", "train"]

_PLACES = {"diffusion": "ddim_jax.diffusion", "load": "ddim_jax.interop:load", "train": "ddim_jax.training.loop:train"}


def __getattr__(name: str) -> Any:
    """Python asks here for a name that the package does not hold yet (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ddim_jax' has no attribute {name!r}")
    globals()[name] = pkgutil.resolve_name(_PLACES[name])
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(globals().keys() | _PLACES.keys())
