"""From a configuration to the objects that it names. Configurations are `ml_collections` files; see configs/."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import ml_collections

from ddim_jax.diffusion import schedule
from ddim_jax.models.unet import UNet

_SCHEDULES = {"linear": schedule.linear, "cosine": schedule.cosine}


def make_schedule(config: ml_collections.ConfigDict) -> schedule.Schedule:
    """The noise schedule of config.diffusion: `schedule` names it, the other fields are its arguments."""
    fields = config.diffusion.to_dict()
    name = fields.pop("schedule")
    if name not in _SCHEDULES:
        raise ValueError(f"config.diffusion.schedule is {name!r}; expected one of {', '.join(_SCHEDULES)}")
    return _SCHEDULES[name](**fields)


def make_unet(config: ml_collections.ConfigDict) -> UNet:
    """The network of config.model. Raises ValueError where the images of config.data do not fit it."""
    unet = UNet(**{field: tuple(v) if isinstance(v, (list, tuple)) else v for field, v in config.model.items()})
    unet.check(image_shape(config))
    return unet


def parameter_shapes(config: ml_collections.ConfigDict):
    """The network's parameters as shapes and dtypes alone: a nested dict of jax.ShapeDtypeStruct."""
    x = jnp.zeros((1, *image_shape(config)))
    return jax.eval_shape(make_unet(config).init, jax.random.key(0), x, jnp.zeros(1, jnp.int32))["params"]


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """(H, W, C) of the images that config.data gives."""
    return (config.data.image_size, config.data.image_size, config.data.channels)


def save(config: ml_collections.ConfigDict, path: str | os.PathLike) -> None:
    """Writes a configuration as JSON, whole or not at all."""
    part = pathlib.Path(f"{path}.part")
    part.write_text(config.to_json(indent=1) + "\n")
    part.replace(path)


def load(path: str | os.PathLike) -> ml_collections.ConfigDict:
    """Reads what `save` wrote."""
    return ml_collections.ConfigDict(json.loads(pathlib.Path(path).read_text()))
