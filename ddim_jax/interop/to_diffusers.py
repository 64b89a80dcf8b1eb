"""Our model as a folder that diffusers' `DDIMPipeline.from_pretrained` loads."""

import json
import os
import pathlib

import numpy as np
from flax import traverse_util

from ddim_jax.common import tensor_files
from ddim_jax.common.files import whole_folder
from ddim_jax.interop import schedulers, unets
from ddim_jax.interop.names import DIFFUSERS
from ddim_jax.weights import Weights


def save(folder: str | os.PathLike, weights: Weights) -> None:
    """Writes the weights, in float32, as a diffusers folder: whole or not at all.

    Raises FileExistsError where the folder already holds something, and ValueError for a model that diffusers cannot hold.
    """
    unet, scheduler = unets.to_diffusers(weights.config), schedulers.to_diffusers(weights.config)
    ours = traverse_util.flatten_dict(weights.params, sep=".")
    theirs = {name: DIFFUSERS.name(name, len(weights.config.model.multipliers)) for name in ours}
    views = {theirs[name]: DIFFUSERS.to_theirs(name, np.asarray(array)) for name, array in ours.items()}
    with whole_folder(folder) as part:
        parts = {name: ["diffusers", part_of["_class_name"]] for name, part_of in (("unet", unet), ("scheduler", scheduler))}
        index = {"_class_name": "DDIMPipeline", **parts}
        _write_json(part / "model_index.json", index)
        _write_json(part / "unet" / "config.json", unet)
        _write_json(part / "scheduler" / "scheduler_config.json", scheduler)
        tensor_files.write(part / "unet" / "diffusion_pytorch_model.safetensors", views)


def _write_json(path: pathlib.Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
