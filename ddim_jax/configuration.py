"""From a configuration to the objects that it names. Configurations are `ml_collections` files; see configs/."""

import functools
import inspect
import json
import os
import pathlib
from typing import Callable

import jax
import jax.numpy as jnp
import ml_collections

from ddim_jax.common.files import whole
from ddim_jax.diffusion import discrete, process
from ddim_jax.diffusion import schedule as schedules
from ddim_jax.diffusion.losses import drawn_loss
from ddim_jax.diffusion.schedule import Schedule
from ddim_jax.models.unet import UNet

_SCHEDULES = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "cosine": schedules.cosine,
    "betas": lambda num_steps, betas: schedules.from_betas(betas),
}
_PREDICTORS = {"eps": process.from_eps, "x0": process.from_x0, "v": process.from_v}


def make_schedule(config: ml_collections.ConfigDict) -> Schedule:
    """The noise schedule of config.diffusion: `schedule` names it, the fields that it takes are its arguments.

    Fields of other schedules are left alone, so that --config.diffusion.schedule=cosine is enough.
    """
    fields = config.diffusion.to_dict()
    name, moved = fields.pop("schedule"), fields.pop("zero_terminal_snr")
    prediction, categories = fields.pop("prediction"), fields.pop("categories")
    if name not in _SCHEDULES:
        raise ValueError(f"config.diffusion.schedule is {name!r}; expected one of {', '.join(_SCHEDULES)}")
    if prediction not in _PREDICTORS:
        raise ValueError(f"config.diffusion.prediction is {prediction!r}; expected one of {', '.join(_PREDICTORS)}")
    if categories and prediction != "x0":
        raise ValueError(f"config.diffusion.prediction is {prediction!r}; over categories a network predicts 'x0'")
    takes = {each: inspect.signature(make).parameters for each, make in _SCHEDULES.items()}
    unknown = set(fields).difference(*takes.values())
    if unknown:
        raise ValueError(f"config.diffusion has fields that no schedule takes: {', '.join(sorted(unknown))}")
    made = _SCHEDULES[name](**{field: value for field, value in fields.items() if field in takes[name]})
    made = schedules.zero_terminal_snr(made) if moved else made
    if made.alpha_bar[-1] == 0 and prediction == "eps":
        raise ValueError("config.diffusion ends in pure noise (zero terminal SNR), from which eps tells nothing: predict 'v'")
    return made


def make_unet(config: ml_collections.ConfigDict) -> UNet:
    """The network of config.model. Raises ValueError where the images of config.data do not fit it."""
    unet = UNet(**{field: tuple(v) if isinstance(v, (list, tuple)) else v for field, v in config.model.items()})
    unet.check(network_shape(config))
    return unet


def make_predictor(config: ml_collections.ConfigDict, network: process.EpsFn) -> process.Predict:
    """The predictor of a network (x, t), which says what config.diffusion.prediction names."""
    return _PREDICTORS[config.diffusion.prediction](make_schedule(config), network)


def make_loss(config: ml_collections.ConfigDict) -> Callable:
    """The objective of config.diffusion: (schedule, network (x, t), x0 [B, ...], t [B], keys [B], label) -> [B]."""
    schedule, gamma = make_schedule(config), config.training.min_snr_gamma
    if config.diffusion.categories:
        if gamma:
            raise ValueError(
                f"config.training.min_snr_gamma is {gamma}; the loss over categories has no such weight: set it to 0"
            )
        return functools.partial(_categorical_loss, categories=config.diffusion.categories)
    if gamma and schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "config.training.min_snr_gamma gives the last step of a schedule with zero terminal SNR no weight at all, so that "
            "sampling would begin at a step which was never trained: set it to 0, or zero_terminal_snr to False"
        )
    return functools.partial(drawn_loss, prediction=config.diffusion.prediction, min_snr_gamma=gamma)


def _categorical_loss(schedule, network, x0, t, keys, label, *, categories):
    return discrete.cross_entropy(schedule, by_category(network), discrete.one_hot(x0, categories), t, keys)


def by_category(network: process.EpsFn) -> process.EpsFn:
    """A network of images [B, H, W, C K] as one of one-hot values [B, H, W, C, K]."""
    return lambda x, t: network(x.reshape(*x.shape[:-2], -1), t).reshape(x.shape)


def parameter_shapes(config: ml_collections.ConfigDict):
    """The network's parameters as shapes and dtypes alone: a nested dict of jax.ShapeDtypeStruct."""
    x = jnp.zeros((1, *network_shape(config)))
    return jax.eval_shape(make_unet(config).init, jax.random.key(0), x, jnp.zeros(1, jnp.int32))["params"]


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """(H, W, C) of the images that config.data gives."""
    return (config.data.image_size, config.data.image_size, config.data.channels)


def network_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """(H, W, C) of what the network sees: the images, or each value of them as one-hot channels."""
    height, width, channels = image_shape(config)
    return (height, width, channels * (config.diffusion.categories or 1))


def save(config: ml_collections.ConfigDict, path: str | os.PathLike) -> None:
    """Writes a configuration as JSON, whole or not at all."""
    with whole(path) as part:
        part.write_text(config.to_json(indent=1) + "\n")


def load(path: str | os.PathLike) -> ml_collections.ConfigDict:
    """Reads what `save` wrote."""
    return ml_collections.ConfigDict(json.loads(pathlib.Path(path).read_text()))
