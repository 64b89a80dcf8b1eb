"""Trained weights with their configuration: the average of a run's newest checkpoint, or one safetensors file."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util

from ddim_jax import configuration
from ddim_jax.common import tensor_files
from ddim_jax.common.arrays import check_fit
from ddim_jax.common.files import at, here
from ddim_jax.configuration import Config
from ddim_jax.training.checkpoints import Checkpoints

DIGITS = pathlib.Path(__file__).parent / "pretrained" / "digits.safetensors"  # which ship with the package
FASHION_MNIST = DIGITS.with_name("fashion_mnist.safetensors")
SHIPPED = {"digits": DIGITS, "fashion_mnist": FASHION_MNIST}
_CONFIG = "ddim_jax_config"  # the name of the configuration within a file
_CHECKSUM = "ddim_jax_sha256"  # and that of `_checksum`, which files from before it lack


class Weights(NamedTuple):
    """A trained network: what it is, and its parameters."""

    config: Config
    params: Any  # float32, as `models.unet.UNet` takes them


def fitted(config: Config, arrays: Mapping[str, Any], source: str) -> Weights:
    """Weights from arrays "conv_in.kernel": ..., once they are what their configuration asks for.

    Raises ValueError where they are not, or are not finite numbers; `source` is what it calls them.
    """
    expected = traverse_util.flatten_dict(configuration.parameter_shapes(config), sep=".")
    check_fit(arrays, expected, source)
    broken = [name for name, array in arrays.items() if not np.all(np.isfinite(array))]
    if broken:
        raise ValueError(f"{source} holds NaN or infinite numbers in {', '.join(broken[:5])}: its training had diverged")
    return Weights(config, traverse_util.unflatten_dict(dict(arrays), sep="."))


def trained_with(notes: Mapping[str, Any]) -> Config:
    """The configuration within the notes of a checkpoint."""
    return configuration.from_json(json.dumps(notes["config"]), "a checkpoint")


def from_workdir(workdir: str | os.PathLike) -> Weights:
    """The averaged parameters of the newest checkpoint of a training run, with the settings of config.json.

    Raises FileNotFoundError where there is none, DamagedCheckpoint and ValueError where it cannot be used, or where config.json
    is not what it was trained with; of `sampling`, and of what is free to change when a run goes on, it may say anything.
    """
    workdir = at(workdir)
    if not (workdir / "config.json").exists():
        raise FileNotFoundError(f"{workdir} is not the folder of a training run: it has no config.json")
    config = configuration.load(workdir / "config.json")
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        arrays, notes = checkpoints.load(["average"])
    changed = configuration.changes(config, trained_with(notes)) if "config" in notes else []
    if changed:
        raise ValueError(f"{workdir / 'config.json'} is not what its weights were trained with: {'; '.join(changed)}. Undo that")
    ema = {name.removeprefix("ema."): array for name, array in arrays.items() if name.startswith("ema.")}
    return fitted(config, ema, f"the checkpoint in {workdir}")


def load(path: str | os.PathLike) -> Weights:
    """Weights that `save` wrote. Raises ValueError where the file is damaged, foreign or does not fit its configuration."""
    with here(at(path)) as copy:
        return _load(copy)


def _load(path: pathlib.Path) -> Weights:
    tensors = tensor_files.safetensors_of(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    if _CONFIG not in metadata:
        raise ValueError(f"{path} holds no ddim_jax configuration: it was not written by `ddim-convert`")
    no_floats = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if not jnp.issubdtype(tensor.dtype, jnp.floating)]
    if no_floats:
        raise ValueError(f"{path} holds whole numbers where floats belong, in {', '.join(no_floats[:5])}: they are no weights")
    config = configuration.from_json(metadata[_CONFIG], str(path))
    configuration.check_blocks(config, len(tensors), str(path))
    found = fitted(config, {name: jnp.asarray(tensor.read(), jnp.float32) for name, tensor in tensors.items()}, str(path))
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _checksum(metadata[_CONFIG], found.params):
        raise ValueError(f"{path} is damaged: its numbers are not those that its checksum was made of; fetch it again")
    return found


def is_ours(path: str | os.PathLike) -> bool:
    """Whether a file carries our configuration. A damaged one does not, and fails as what it then seems to be."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return _CONFIG in (file.metadata() or {})
    except safetensors.SafetensorError:
        return False


def read(source: str | os.PathLike) -> Weights:
    """Weights of ours, from a run's folder (`from_workdir`) or from a file (`load`)."""
    return from_workdir(source) if at(source).is_dir() else load(source)


def initial(config: Config) -> Any:
    """The parameters of config.training.initial_weights, or None. Raises ValueError where they are another network's.

    To a network that is to learn classes, weights without them are given labels that say nothing yet.
    """
    source = config.training.initial_weights
    if not source:
        return None
    begun = read(source)
    if begun.config.diffusion.prediction != config.diffusion.prediction:
        raise ValueError(
            f"{source} predicts {begun.config.diffusion.prediction!r}, but config.diffusion.prediction is "
            f"{config.diffusion.prediction!r}: they would begin as another function; make the two agree"
        )
    arrays = traverse_util.flatten_dict(begun.params, sep=".")
    if config.model.num_classes:
        arrays.setdefault("label.embedding", jnp.zeros((config.model.num_classes + 1, 4 * config.model.channels)))
    return fitted(config, arrays, source).params


def digest(params: Any) -> str:
    """The SHA-256 of parameters, float32, in the order of their names."""
    arrays, sha = traverse_util.flatten_dict(params, sep="."), hashlib.sha256()
    for name in sorted(arrays):
        sha.update(name.encode() + np.ascontiguousarray(arrays[name], "<f4").tobytes())
    return sha.hexdigest()


def _checksum(config: str, params: Any) -> str:
    """The SHA-256 of a configuration, as text, and of parameters."""
    return hashlib.sha256((config + digest(params)).encode()).hexdigest()


def save(path: str | os.PathLike, weights: Weights, dtype: str = "float32") -> None:
    """Writes weights as one safetensors file, their configuration and a checksum within, its SHA-256 in a file beside.

    Kernels are of this dtype. Biases and scales are few, and an error in one is the same at every pixel and step (in bfloat16,
    the demo's digits come out 4% too bright): they stay float32.
    """
    arrays = traverse_util.flatten_dict(weights.params, sep=".")
    arrays = jax.tree.map(lambda a: jnp.asarray(a, dtype if a.ndim > 1 else jnp.float32), arrays)
    config = configuration.to_json(weights.config)
    tensor_files.save(path, arrays, {_CONFIG: config, _CHECKSUM: _checksum(config, arrays)})
