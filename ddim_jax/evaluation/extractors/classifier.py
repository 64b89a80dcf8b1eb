"""A small classifier of grey images of 28x28 pixels: what an ImageNet network has never seen, it knows well.

Two such networks ship with the package, one for MNIST's digits and one for Fashion-MNIST: pretrained/README.md says how they
were trained. Figures made with them compare samples of the same data set, and nothing else.
"""

import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
from flax import traverse_util

from ddim_jax.common import tensor_files
from ddim_jax.common.arrays import check_fit
from ddim_jax.common.files import check_digest, digest
from ddim_jax.data.images import to_float
from ddim_jax.evaluation.features import Extractor

NUM_CLASSES, SHAPE = 10, (28, 28, 1)
_PRETRAINED = pathlib.Path(__file__).parents[2] / "pretrained"
SHIPPED = {  # data set: the classifier of it that ships with the package
    "mnist_5k": _PRETRAINED / "digits_classifier.safetensors",
    "fashion_mnist": _PRETRAINED / "fashion_mnist_classifier.safetensors",
}
_DATA = "ddim_jax_classifier_of"  # the name of the data set's name within a file


class _Network(nn.Module):
    """Three convolutions, each halving the image, and two dense layers: x [B, 28, 28, 1] -> features [B, 128], logits [B, 10]."""

    @nn.compact
    def __call__(self, x: jax.Array, dropout_key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        for channels in (32, 64, 64):
            x = _halved(nn.relu(nn.Conv(channels, (3, 3))(x)))
        features = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        kept = nn.Dropout(0.5, deterministic=dropout_key is None)(features, rng=dropout_key)
        return features, nn.Dense(NUM_CLASSES)(kept)


def _halved(x: jax.Array) -> jax.Array:
    """The largest of every 2x2 pixels, without a last odd one: `nn.max_pool`, but for its gradient, which is slow on CPUs."""
    height, width = (side // 2 for side in x.shape[1:3])
    return x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2, -1).max((2, 4))


def train(images: np.ndarray, labels: np.ndarray, seed: int, epochs: int = 30) -> Any:
    """The parameters of a classifier of these images: Adam, each image shifted anew by up to two pixels.

    images: uint8 [N, 28, 28, 1], at least 100.
    labels: int [N], the class of each, from 0 to 9.
    seed: of the first parameters, the order, the shifts and the dropout.
    epochs: how often it sees each image; 30 times 4,500 took six minutes on two cores that were shared with other work.
    Raises ValueError for other images.
    """
    _check(images.shape)
    batch, rng = 100, np.random.default_rng(seed)
    network, steps = _Network(), epochs * (len(images) // batch)
    first, key = jax.random.split(jax.random.key(seed))
    params = network.init(first, jnp.zeros((1, *SHAPE)))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, x, y, key):
        def loss(params):
            logits = network.apply(params, to_float(x), key)[1]
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for step in range(steps):
        if step % (len(images) // batch) == 0:
            order = rng.permutation(len(images))
        chosen = order[step % (len(images) // batch) * batch :][:batch]
        params, state = update(params, state, _shifted(images[chosen], rng), labels[chosen], jax.random.fold_in(key, step))
    return params["params"]


def _shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image [B, 28, 28, 1] moved by up to two pixels each way; zeros come in."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))  # [B, 5, 5, 1, 28, 28]
    down, right = rng.integers(0, 5, (2, len(images)))
    return windows[np.arange(len(images)), down, right].transpose(0, 2, 3, 1)


def save(path: str | os.PathLike, params: Any, data: str) -> None:
    """Writes a classifier as one safetensors file that names its data set, and its SHA-256 in a file beside."""
    tensor_files.save(path, traverse_util.flatten_dict(params, sep="."), {_DATA: data})


def load(path: str | os.PathLike) -> Extractor:
    """The classifier that `save` wrote: "features" [B, 128] in front of its last layer, and "logits" [B, 10].

    Raises ValueError for a file that is damaged or holds something else; its `apply`, for images that are not 28x28 and grey.
    """
    path = pathlib.Path(path)
    check_digest(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error})") from error
    if _DATA not in metadata:
        raise ValueError(f"{path} holds no classifier: give a file that `classifier.save` wrote")
    expected = jax.eval_shape(_Network().init, jax.random.key(0), jnp.zeros((1, *SHAPE)))["params"]
    check_fit(arrays, traverse_util.flatten_dict(expected, sep="."), str(path))
    name = f"classifier of {metadata[_DATA]}"
    params = traverse_util.unflatten_dict(arrays, sep=".")
    return Extractor(name, digest(path), params, _apply, channels=1, distance=f"Fréchet distance ({name})")


def _apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
    _check(images.shape)
    features, logits = _Network().apply({"params": params}, to_float(images))
    return {"features": features, "logits": logits}


def _check(shape: tuple[int, ...]) -> None:
    if shape[1:] != SHAPE:
        raise ValueError(f"the images are {list(shape)}; a classifier of grey images takes [N, 28, 28, 1]")
