"""Published weights in, ours out: the paper's PyTorch checkpoints and diffusers' folders, with the same numbers.

`load(path)` gives a `Model` to sample from, of any format that `formats.FORMATS` lists, ours among them; `read` its
configuration and parameters; `to_diffusers.save` writes a folder that diffusers loads. None needs torch or diffusers. What is
refused stands in docs/coming-from-diffusers.md.
"""

import os

from ddim_jax import configuration
from ddim_jax.inference.model import Model
from ddim_jax.interop.formats import read

__all__ = ["load", "read"]


def load(path: str | os.PathLike, format: str | None = None, image_size: int | None = None) -> Model:
    """A trained network to sample from: the folder of a run, a file of weights, or what others published; see `read`."""
    return configuration.make_model(*read(path, format, image_size))
