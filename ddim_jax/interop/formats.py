"""Weights in any format that people publish, as our model: what lies at a path, and how it becomes a configuration and arrays."""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import traverse_util

from ddim_jax import configuration, weights
from ddim_jax.common import tensor_files
from ddim_jax.common.arrays import check_fit
from ddim_jax.common.files import at, here, read_json
from ddim_jax.common.pickles import Tensor
from ddim_jax.common.text import shown
from ddim_jax.configuration import Config
from ddim_jax.interop import names, schedulers, unets
from ddim_jax.weights import Weights

FORMATS = {
    "ours": "the folder of a training run, or a safetensors file that `weights.save` wrote",
    "ermongroup": "a state dict or training checkpoint of the paper's PyTorch code, or of pesser/pytorch_diffusion",
    "diffusers": "a folder or file of diffusers' UNet2DModel, its config.json beside it",
}
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

# Where a checkpoint brings no schedule, it is the paper's.
_DIFFUSION = dict(
    schedule="linear",
    num_steps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    prediction="eps",
    zero_terminal_snr=False,
    categories=0,
)
_SAMPLING = dict(steps=50, spacing="leading", eta=0.0, clip=False, count=64, dtype="float32")


def read(path: str | os.PathLike, format: str | None = None, image_size: int | None = None) -> Weights:
    """The weights at a path, in one of FORMATS; without `format` it is found out. Parameters are float32.

    "digits" and "fashion_mnist" are those that ship with the package, where there is no file or folder of that name.
    `image_size` is for checkpoints that do not say, or that shall draw images of another size.
    Raises FileNotFoundError where there is nothing, and ValueError, saying what does not fit, where something else is.
    """
    path = at(path)
    if not path.exists():
        if str(path) not in weights.SHIPPED:
            raise FileNotFoundError(
                f"there is no file or folder {path}; published weights are to be downloaded first; what ships is called "
                f"{' and '.join(weights.SHIPPED)}"
            )
        path = weights.SHIPPED[str(path)]
    if format is not None and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    file, fields = _locate(path)
    with here(file) if file else contextlib.nullcontext() as copy:
        if copy is None or format == "ours" or format is None and weights.is_ours(copy):
            if image_size is not None:
                raise ValueError(f"image_size is {image_size}, but {path} is of ours and says its size itself: leave it out")
            return weights.read(copy or path)
        return _published(copy, file or path, fields, format, image_size)


def _published(
    copy: pathlib.Path, file: pathlib.Path, fields: dict | None, format: str | None, image_size: int | None
) -> Weights:
    """The weights in a file, which is called `file` and read from `copy`; `fields` are those of the config.json beside it."""
    tensors = tensor_files.tensors(copy)
    format = format or _detect(tensors, file)
    if format == "ermongroup":
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        model, image_size, channels = unets.from_ermongroup(shapes, str(file), image_size)
        diffusion, sampling = _DIFFUSION, _SAMPLING
        naming = names.ERMONGROUP
    else:
        if fields is None:
            raise ValueError(f"{file} holds diffusers' weights, but no config.json beside it says of which network")
        config_json = str(file.with_name("config.json"))
        model, image_size, channels = _described(config_json, unets.from_diffusers, fields, config_json, image_size)
        diffusion, sampling = _scheduler(file)
        naming = names.DIFFUSERS_OLD if any(name.endswith(".proj_attn.weight") for name in tensors) else names.DIFFUSERS
    config = Config(dict(data=_data(image_size, channels), model=model, diffusion=diffusion, sampling=sampling))
    configuration.check_stored(config, str(file))
    configuration.check_blocks(config, len(tensors), str(file))
    return weights.fitted(config, _parameters(config, tensors, naming, str(file)), str(file))


def _locate(path: pathlib.Path) -> tuple[pathlib.Path | None, dict | None]:
    """(the file of weights, the config.json beside it) for a file or one of diffusers' folders; no file for a run of ours."""
    if path.is_file():
        config = path.with_name("config.json")
        return path, _json(config) if config.exists() else None
    folder = path / "unet" if (path / "unet" / "config.json").exists() else path
    config = folder / "config.json"
    fields = _json(config) if config.exists() else {}
    if "_class_name" not in fields:
        return None, None
    found = [folder / name for name in _WEIGHTS if (folder / name).exists()]
    if not found:
        raise FileNotFoundError(f"{folder} has a config.json of diffusers but no {' or '.join(_WEIGHTS)}")
    return found[0], fields


def _json(path: pathlib.Path) -> dict:
    return read_json(path.read_bytes(), str(path))


def _detect(tensors: Mapping[str, Tensor], file: pathlib.Path) -> str:
    """Which of FORMATS the names of the tensors belong to."""
    if "temb.dense.0.weight" in tensors:
        return "ermongroup"
    if "time_embedding.linear_1.weight" in tensors:
        return "diffusers"
    if "time_embed.0.weight" in tensors and "input_blocks.0.0.weight" in tensors:
        raise ValueError(
            f"{file} is of openai's improved-diffusion or guided-diffusion, whose network is another one: cosines before sines "
            "in its time embedding, 1e-5 in its normalisation, symmetric padding, several heads of attention and, as "
            "published, scale-shift normalisation and a learned variance. It cannot run here"
        )
    begin = ", ".join(sorted(tensors)[:3])
    known = "\n  ".join(f"{name}: {what}" for name, what in FORMATS.items())
    raise ValueError(f"{file} holds {begin}, ..., which belong to no format known here. Known are\n  {known}")


def _scheduler(file: pathlib.Path) -> tuple[dict, dict]:
    """(config.diffusion, config.sampling) of the scheduler that lies with a diffusers network: beside it, or a folder up."""
    for folder in (file.parent, file.parent.parent / "scheduler"):
        path = folder / "scheduler_config.json"
        if path.exists():
            return _described(str(path), schedulers.from_diffusers, _json(path), str(path))
    return _DIFFUSION, _SAMPLING


def _described(source: str, described: Callable[..., Any], *arguments: Any) -> Any:
    """described(*arguments). Raises ValueError where a field that it reads is of another kind than it should be."""
    try:
        return described(*arguments)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        reason = f"{type(error).__name__}: {shown(str(error))}"
        raise ValueError(f"{source} has a field of another kind than diffusers writes ({reason})") from error


def _data(image_size: int, channels: int) -> dict:
    """A checkpoint names no data set: a folder of images, which the user gives, stands in for it."""
    return dict(
        name="folder",
        split="train",
        directory=ml_collections.config_dict.placeholder(str),
        image_size=(image_size, image_size),
        channels=channels,
        crop="center",
        flip=True,
        memory_limit_mb=4096,
        corrupt="stop",
        degrade="",
        held_out_split="test",
    )


def _parameters(config: Config, tensors: dict[str, Tensor], naming: names.Naming, source: str) -> dict:
    """Our parameters by name from theirs, one in memory at a time. Raises ValueError, in their names, where they do not fit."""
    ours = traverse_util.flatten_dict(configuration.parameter_shapes(config), sep=".")
    theirs = {name: naming.name(name, len(config.model.multipliers)) for name in ours}
    expected = {theirs[name]: jax.eval_shape(functools.partial(naming.to_theirs, name), ours[name]) for name in ours}
    found = {name: jax.ShapeDtypeStruct(tensor.shape, _as_read(tensor.dtype)) for name, tensor in tensors.items()}
    check_fit(found, expected, source)
    return {name: jnp.array(naming.to_ours(name, tensors[theirs[name]].read()), jnp.float32) for name in ours}


def _as_read(dtype: np.dtype) -> np.dtype:
    """Numbers of any precision become float32; anything else is no weight and shall not fit."""
    return np.dtype(np.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype
