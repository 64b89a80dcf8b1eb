"""Turns published weights into ours, and ours into a folder that diffusers loads.

    python -m experiments.convert diffusion_cifar10_model-790000.ckpt cifar10.safetensors
    python -m experiments.convert FOLDER_OF_DIFFUSERS cifar10.safetensors
    python -m experiments.convert runs/cifar10 cifar10_for_diffusers/
    python -m experiments.convert runs/digits digits.safetensors --dtype=bfloat16

A DST that ends in .safetensors becomes a file of ours, with its SHA-256 beside it; any other a folder of diffusers. SRC is
whatever `ddim_jax.interop.read` reads; see docs/coming-from-diffusers.md.
"""

import pathlib

from absl import app, flags

from ddim_jax import interop, weights
from ddim_jax.commands import command
from ddim_jax.common.files import check_new, check_writable, local, local_or_bucket
from ddim_jax.interop import formats, to_diffusers

_FORMAT = flags.DEFINE_enum("format", "auto", ("auto", *formats.FORMATS), "The format of SRC.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "Of the kernels in a file of ours; the rest is float32.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Of published weights, where they do not say.", lower_bound=1)


def main(arguments: list[str]) -> None:
    """The command, once its flags are parsed."""
    if len(arguments) != 3:
        raise app.UsageError("give two paths: SRC DST")
    _, source, destination = arguments
    if not source or not destination:
        raise app.UsageError("a path is empty; give two: SRC DST")
    if _DTYPE.value != "float32" and not destination.endswith(".safetensors"):
        raise app.UsageError("--dtype is of files of ours, whose names end in .safetensors; a folder of diffusers is float32")
    if destination.endswith(".safetensors"):
        destination = local_or_bucket(destination)
    else:
        destination = local(destination)
        check_new(pathlib.Path(destination))
    check_writable(destination)
    found = interop.read(local_or_bucket(source), None if _FORMAT.value == "auto" else _FORMAT.value, _IMAGE_SIZE.value)
    if destination.endswith(".safetensors"):
        weights.save(destination, found, _DTYPE.value)
    else:
        to_diffusers.save(destination, found)
    print(f"wrote {destination}")


def run() -> None:
    """Runs the command line."""
    command.run(main, positional=True)
