"""A trained network as a page: a folder that any static server can serve."""

from ddim_jax.page.build import build
from ddim_jax.page.serving import serve

__all__ = ["build", "serve"]
