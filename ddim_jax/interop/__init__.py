"""Published weights in, ours out: the paper's PyTorch checkpoints and diffusers' folders, with the same numbers.

`read(path)` gives a `Model` from any format that `formats.FORMATS` lists, ours among them; `to_diffusers.save` writes a
folder that diffusers loads. Neither needs torch or diffusers. What is refused stands in docs/coming-from-diffusers.md.
"""

from ddim_jax.interop.formats import read

__all__ = ["read"]
