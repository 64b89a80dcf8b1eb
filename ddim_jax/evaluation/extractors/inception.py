"""The Inception-v3 by whose features FID is defined: TensorFlow's network of December 2015, in Flax.

Every published FID is of this network and these weights (Heusel et al., arXiv 1706.08500), today mostly as pytorch-fid ported
them to PyTorch; torchvision's Inception-v3 is another. What is its own, beside the weights: images are resized as TensorFlow 1
did it, averages leave out the padding, and the last block takes a maximum where all others take an average.

Parameters are named as in pytorch-fid's file, but each batch normalisation is folded into its convolution.
"""

import http.client
import os
import pathlib
import shutil
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ddim_jax.common import files, tensor_files
from ddim_jax.evaluation.features import Extractor

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SIZE = 95_628_359  # bytes
DIGEST = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # SHA-256
SIDE = 299  # of the images that the network sees

_NORM = ("weight", "bias", "running_mean", "running_var")  # of batch normalisation
_HIGHEST = jax.lax.Precision.HIGHEST  # float32 on every device


def fetch(directory: str | os.PathLike) -> pathlib.Path:
    """Downloads the weights into a directory, whole or not at all; gives their path. A file already there is kept if it is right.

    Raises OSError where they cannot be downloaded, ValueError where another file came, or lies there.
    """
    path = pathlib.Path(directory) / FILE
    if path.exists():
        _check(path, path)
        return path
    with files.whole(path) as part:
        try:
            with urllib.request.urlopen(URL, timeout=60) as response, open(part, "wb") as file:
                shutil.copyfileobj(response, file)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{URL} cannot be downloaded ({error}); fetch it in another way and put it there: {path}") from error
        _check(part, URL)
    return path


def load(path: str | os.PathLike) -> Extractor:
    """The network with the weights of pytorch-fid's file, as `fetch` downloads it.

    Raises FileNotFoundError where there is no such file, ValueError for any other file: its figures would not be FIDs.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected the weights of Inception-v3, from {URL}")
    _check(path, path)
    return extractor({name: tensor.read() for name, tensor in tensor_files.tensors(path).items()}, DIGEST)


def _check(path: pathlib.Path, source: str | os.PathLike) -> None:
    found = files.digest(path)
    if found != DIGEST:
        raise ValueError(
            f"{source} has {path.stat().st_size} bytes and SHA-256 {found}; expected the weights of Inception-v3, which have "
            f"{SIZE} and {DIGEST}: get them from {URL}"
        )


def extractor(tensors: Mapping[str, np.ndarray], digest: str) -> Extractor:
    """The network with weights of the names and shapes that `shapes` gives, from a file with the SHA-256 `digest`.

    It takes images uint8 [B, H, W, 3] of any size, and gives in float32:
    features [B, 2048]: the averages over the last block ("pool_3"), of which FID is.
    logits [B, 1008]: of its classifier, without the bias, which the Inception Score has always left out.
    spatial [B, 2023]: 7 channels at 17 x 17 places, of which sFID is (Nash et al., arXiv 2103.03841): the first ones of
        Mixed_6d.branch1x1, as guided-diffusion's evaluator takes them from mixed_6/conv.
    Raises ValueError where a tensor is missing or has another shape; what it gives raises one for other images.
    """
    faults = [
        f"{name} {list(tensors[name].shape)}, not {list(shape)}" if name in tensors else f"no {name}"
        for name, shape in shapes().items()
        if name not in tensors or tensors[name].shape != shape
    ]
    if faults:
        more = f" and {len(faults) - 1} more such" if len(faults) > 1 else ""
        raise ValueError(f"these are not the weights of Inception-v3: there is {faults[0]}{more}; expected those of {URL}")
    params: dict[tuple[str, ...], jax.Array] = {}
    for layer in _kernels():
        path = tuple(layer.split("."))
        if layer == "fc":
            params[*path, "kernel"] = jnp.asarray(tensors["fc.weight"].T, jnp.float32)
            continue
        scale, shift, mean, variance = (tensors[f"{layer}.bn.{name}"].astype(np.float64) for name in _NORM)
        gain = scale / np.sqrt(variance + 1e-3)
        kernel = tensors[f"{layer}.conv.weight"].transpose(2, 3, 1, 0)
        params[*path, "kernel"] = jnp.asarray(kernel * gain, jnp.float32)
        params[*path, "bias"] = jnp.asarray(shift - mean * gain, jnp.float32)
    return Extractor("Inception-v3 (2015)", digest, traverse_util.unflatten_dict(params), _apply, channels=3, distance="FID")


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of pytorch-fid's file that the network uses, by name: kernels are [out, in, height, width]."""
    found: dict[str, tuple[int, ...]] = {}
    for layer, (*size, inputs, outputs) in _kernels().items():
        if layer == "fc":
            found["fc.weight"] = (outputs, inputs)
        else:
            found[f"{layer}.conv.weight"] = (outputs, inputs, *size)
            found |= {f"{layer}.bn.{name}": (outputs,) for name in _NORM}
    return found


def _kernels() -> dict[str, tuple[int, ...]]:
    """The shapes of the kernels in Flax, [height, width, in, out], by the names of their layers."""
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.uint8)
    params = traverse_util.flatten_dict(jax.eval_shape(_Inception().init, jax.random.key(0), images)["params"])
    return {".".join(path[:-1]): leaf.shape for path, leaf in params.items() if path[-1] == "kernel"}


def _apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != jnp.uint8:
        raise ValueError(f"the images are {images.dtype}{list(images.shape)}; expected uint8[B, H, W, 3]")
    return _Inception().apply({"params": params}, images)  # type: ignore[return-value]


def _resize(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, 299, 299, C], bilinear as TensorFlow 1 did it: pixel i of the output lies at i H/299 of the input.

    So the picture is shifted by up to half a pixel, and one that becomes smaller is not smoothed.
    """
    for axis in (2, 1):
        size = x.shape[axis]
        place = np.arange(SIDE, dtype=np.float32) * np.float32(size / SIDE)
        below = place.astype(np.int32)
        share = (place - below).reshape([SIDE if i == axis else 1 for i in range(4)])
        low, high = (jnp.take(x, index, axis) for index in (below, np.minimum(below + 1, size - 1)))
        x = low + (high - low) * share
    return x


def _conv(x: jax.Array, name: str, width: int, size: Sequence[int] = (1, 1), stride: int = 1, padding: str = "") -> jax.Array:
    """A convolution with ReLU. One with stride 1 keeps the size, one with stride 2 pads nothing, unless `padding` is given."""
    padding = padding or ("SAME" if stride == 1 else "VALID")
    return nn.relu(nn.Conv(width, size, stride, padding, precision=_HIGHEST, name=name)(x))


def _chain(x: jax.Array, name: str, *convolutions: tuple) -> jax.Array:
    """Convolutions NAME_1, NAME_2, ..., each (width, size, stride), one after the other."""
    for i, convolution in enumerate(convolutions, start=1):
        x = _conv(x, f"{name}_{i}", *convolution)
    return x


def _average(x: jax.Array) -> jax.Array:
    """Over 3x3, of the pixels that there are: at a border fewer than 9."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _largest(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding="SAME")


def _halve(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


class _Mixed5(nn.Module):
    """[B, 35, 35, C] -> [B, 35, 35, 224 + pool]."""

    pool: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _join(
            _conv(x, "branch1x1", 64),
            _chain(x, "branch5x5", (48,), (64, (5, 5))),
            _chain(x, "branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3))),
            _conv(_average(x), "branch_pool", self.pool),
        )


class _Mixed6a(nn.Module):
    """[B, 35, 35, 288] -> [B, 17, 17, 768]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _join(
            _conv(x, "branch3x3", 384, (3, 3), 2),
            _chain(x, "branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3), 2)),
            _halve(x),
        )


class _Mixed6(nn.Module):
    """[B, 17, 17, 768] -> the same."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column = (1, 7), (7, 1)
        w = self.width
        return _join(
            _conv(x, "branch1x1", 192),
            _chain(x, "branch7x7", (w,), (w, row), (192, column)),
            _chain(x, "branch7x7dbl", (w,), (w, column), (w, row), (w, column), (192, row)),
            _conv(_average(x), "branch_pool", 192),
        )


class _Mixed7a(nn.Module):
    """[B, 17, 17, 768] -> [B, 8, 8, 1280]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _join(
            _chain(x, "branch3x3", (192,), (320, (3, 3), 2)),
            _chain(x, "branch7x7x3", (192,), (192, (1, 7)), (192, (7, 1)), (192, (3, 3), 2)),
            _halve(x),
        )


class _Mixed7(nn.Module):
    """[B, 8, 8, C] -> [B, 8, 8, 2048]."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        single = _conv(x, "branch3x3_1", 384)
        double = _chain(x, "branch3x3dbl", (448,), (384, (3, 3)))
        return _join(
            _conv(x, "branch1x1", 320),
            _conv(single, "branch3x3_2a", 384, (1, 3)),
            _conv(single, "branch3x3_2b", 384, (3, 1)),
            _conv(double, "branch3x3dbl_3a", 384, (1, 3)),
            _conv(double, "branch3x3dbl_3b", 384, (3, 1)),
            _conv(self.pool(x), "branch_pool", 192),
        )


class _Inception(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        x = (_resize(images.astype(jnp.float32)) - 128) / 128
        x = _conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2)
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), padding="VALID")
        x = _halve(_conv(x, "Conv2d_2b_3x3", 64, (3, 3)))
        x = _conv(x, "Conv2d_3b_1x1", 80)
        x = _halve(_conv(x, "Conv2d_4a_3x3", 192, (3, 3), padding="VALID"))
        x = _Mixed5(32, name="Mixed_5b")(x)
        x = _Mixed5(64, name="Mixed_5c")(x)
        x = _Mixed5(64, name="Mixed_5d")(x)
        x = _Mixed6a(name="Mixed_6a")(x)
        x = _Mixed6(128, name="Mixed_6b")(x)
        x = _Mixed6(160, name="Mixed_6c")(x)
        x = _Mixed6(160, name="Mixed_6d")(x)
        spatial = x[..., :7]  # of branch1x1, which comes first
        x = _Mixed6(192, name="Mixed_6e")(x)
        x = _Mixed7a(name="Mixed_7a")(x)
        x = _Mixed7(_average, name="Mixed_7b")(x)
        x = _Mixed7(_largest, name="Mixed_7c")(x)
        features = x.mean((1, 2))
        logits = nn.Dense(1008, use_bias=False, precision=_HIGHEST, name="fc")(features)
        return {"features": features, "logits": logits, "spatial": spatial.reshape(len(x), -1)}
