"""The U-Net of DDPM and DDIM (Ho et al., arXiv 2006.11239, appendix B), in Flax Linen.

`UNet(...)(x [B, H, W, C], step [B])` gives [B, H, W, C]; steps are numbered from 0. Each level holds `num_blocks` residual
blocks on the way down and one more on the way up, every one of which takes a skip connection from its twin. Parameters map
one to one onto those of the published PyTorch networks. They are float32.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddim_jax.common import draws
from ddim_jax.models.products import convolve, convolve_repeated, multiply

Parts = Sequence[jax.Array]  # the halves [B, H, W, C_i] of a tensor that was never concatenated along its channels

initial = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
near_zero = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")  # a block starts as the identity


def time_embedding(step: jax.Array, width: int) -> jax.Array:
    """Sines, then cosines, of step [B] at width/2 frequencies from 1 down to 1/10000: float32 [B, width]."""
    half = width // 2
    frequency = jnp.exp(-math.log(10000) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angle = step.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def dense(features: int, dtype: Any, name: str, init: Any = initial, use_bias: bool = True) -> nn.Dense:
    """A product of the channels with a kernel."""
    return nn.Dense(features, use_bias, kernel_init=init, dtype=dtype, name=name, dot_general=multiply)


def split(values: jax.Array, parts: Parts, axis: int = -1) -> list[jax.Array]:
    """Values for all channels of the parts, along an axis, as one piece for each part."""
    ends = np.cumsum([part.shape[-1] for part in parts])
    return jnp.split(values, ends[:-1], axis)


class GroupNorm(nn.Module):
    """Group normalisation over the parts of a skip connection as if they were one tensor; gives the parts, normalised.

    A number can be added to each channel of an image beforehand, `shift` [B, channels]. The sum is never written: an accelerator
    would write and read all of it, or a broadcast shift, once more.

    The variance of float32 is the mean squared deviation: the difference of two moments loses it where mean >> std. That of
    bfloat16 is this difference within each channel, in float32, and the deviations of the channels' means: a TPU finds both
    moments while it computes what is to be normalised. That loses about mean^2 / 2^23 of a channel; bfloat16 itself, whose
    spacing is mean / 2^8 or more, has added spacing^2 / 12, more than mean^2 / 2^20.
    """

    dtype: Any
    num_groups: int = 32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, parts: Parts, shift: jax.Array | float = 0.0) -> Parts:
        channels = sum(part.shape[-1] for part in parts)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)

        def mean_of_channels(values):  # [B, H, W, C_i] each -> [B, channels]
            return jnp.concatenate([x.mean((1, 2)) for x in values], axis=-1)

        def mean_of_groups(values):  # [B, channels] -> the same, averaged within groups, which may span two parts
            groups = values.reshape(values.shape[0], self.num_groups, -1).mean(-1)
            return jnp.repeat(groups, channels // self.num_groups, axis=-1)

        wide = [part.astype(jnp.float32) for part in parts]
        means = mean_of_channels(wide)
        mean = mean_of_groups(means + shift)
        centre = mean - shift
        centred = [x - c[:, None, None] for x, c in zip(wide, split(centre, parts))]
        if parts[0].dtype == jnp.bfloat16:
            within = mean_of_channels(map(jnp.square, wide)) - jnp.square(means)
            variance = mean_of_groups(jnp.maximum(within, 0) + jnp.square(means - centre))
        else:
            variance = mean_of_groups(mean_of_channels(map(jnp.square, centred)))
        gain = scale * jax.lax.rsqrt(variance + self.epsilon)
        pieces = zip(centred, split(gain, parts), split(bias, parts))
        return [(x * g[:, None, None] + b).astype(self.dtype) for x, g, b in pieces]


class Dropout(nn.Module):
    """As `flax.linen.Dropout`, to the bit, with numbers that are drawn faster on CPUs."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.rate:
            return x
        keep = draws.uniform(self.make_rng("dropout"), x.shape) < 1 - self.rate
        return jnp.where(keep, x / (1 - self.rate), 0)


class Conv(nn.Module):
    """A convolution of 3x3. A stride of 2 pads below and on the right alone, as the published networks do.

    `more` [features] is added to its bias. Added to the output instead, it would make a GPU read and write all of that once more.
    """

    features: int
    dtype: Any
    init: Any = initial
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, more: jax.Array | float = 0.0) -> jax.Array:
        kernel = self.param("kernel", self.init, (3, 3, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        before = 1 if self.stride == 1 else 0
        out = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, ((before, 1), (before, 1)))
        return out + (bias + more).astype(self.dtype)


class Shortcut(nn.Module):
    """A product of the channels of all parts with a kernel, part by part: they are never concatenated.

    Gives the product [B, H, W, features] and, for a convolution to add, the bias [features].
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, parts: Parts) -> tuple[jax.Array, jax.Array]:
        channels = sum(part.shape[-1] for part in parts)
        kernel = self.param("kernel", initial, (channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        products = [multiply(x, piece) for x, piece in zip(parts, split(kernel.astype(self.dtype), parts, axis=0))]
        return functools.reduce(jnp.add, products), bias


class ResBlock(nn.Module):
    """norm, swish, conv, + time, norm, swish, dropout, conv, + input."""

    features: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, parts: Parts, time: jax.Array, train: bool) -> jax.Array:
        h = jnp.concatenate([nn.swish(x) for x in GroupNorm(self.dtype, name="norm1")(parts)], axis=-1)
        h = Conv(self.features, self.dtype, name="conv1")(h)
        shift = dense(self.features, self.dtype, "time")(nn.swish(time))
        (h,) = GroupNorm(self.dtype, name="norm2")([h], shift)
        h = Dropout(self.dropout if train else 0.0)(nn.swish(h))
        alike = [part.shape[-1] for part in parts] == [self.features]
        shortcut, bias = (parts[0], 0.0) if alike else Shortcut(self.features, self.dtype, name="shortcut")(parts)
        return Conv(self.features, self.dtype, near_zero, name="conv2")(h, bias) + shortcut


class Attention(nn.Module):
    """Single-head self-attention over the H * W positions, added to the input."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        (h,) = GroupNorm(self.dtype, name="norm")([x])
        h = h.reshape(batch, height * width, 1, channels)
        q, k, v = (dense(channels, self.dtype, name)(h) for name in "qkv")
        h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return x + dense(channels, self.dtype, "out", near_zero)(h)


class Upsample(nn.Module):
    """Every pixel repeated to 2x2, then a convolution of 3x3."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", initial, (3, 3, channels, channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return convolve_repeated(x, kernel) + bias.astype(self.dtype)


class UNet(nn.Module):
    """The noise-predicting network: x [B, H, W, C] in about [-1, 1] and step [B] from 0, to [B, H, W, C] float32.

    What it may be told besides, each where its option is above 0 (a condition that is left out counts as not told):
        label [B]               with `num_classes`: the class of each image, from 0; num_classes itself is "not told"
                                (Ho & Salimans, arXiv 2207.12598)
        image [B, H, W, C']     with `image_channels` = C': an image, joined to x along the channels; 0 is "not told"
        vector [B, F]           with `vector_features` = F: numbers, added to the time embedding; 0 is "not told"

    Two more options are not in the paper, and make small networks cheap to train: a `patch_size` of p (1 there) folds p x p
    pixels into channels in front of the network and unfolds them behind it; with `input_skip` a multiple of x, learned for each
    step, is added to the output. At high noise, eps is nearly x itself, which normalised layers are slow to learn to hand
    through exactly.

    `dtype` is what the layers compute in, and with `remat` the activations of a block are computed again on the way back
    instead of kept: neither is part of what the network is, and the same parameters serve any.

    A level needs more than 32 channels to hear of time and conditions: they are added to each channel as a number, which the
    normalisation of groups of one channel takes away again.

    Raises ValueError for sizes that are no whole numbers above 0, sides that the patches and levels do not divide, channels that
    32 groups do not divide, and conditions that it was not made for.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_sides: tuple[int, ...] = (16,)  # attention at the levels whose height and width are both among these
    dropout: float = 0.0
    patch_size: int = 1
    input_skip: bool = False
    num_classes: int = 0
    image_channels: int = 0
    vector_features: int = 0
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def null(self) -> dict[str, float]:
        """The value of each condition that stands for "not told", as `network.Network` has it."""
        values = {"label": (self.num_classes, self.num_classes), "image": (self.image_channels, 0.0)}
        values["vector"] = (self.vector_features, 0.0)
        return {name: value for name, (size, value) in values.items() if size}

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless images of this shape (H, W, C) fit the network."""
        if type(self.num_blocks) is not int or self.num_blocks < 0:
            raise ValueError(f"the U-Net's num_blocks is {self.num_blocks}; expected a whole number from 0")
        sizes = {"channels": [self.channels], "patch_size": [self.patch_size]}
        for name, values in (sizes | {"multipliers": self.multipliers, "attention_sides": self.attention_sides}).items():
            if not all(type(value) is int and value > 0 for value in values) or name == "multipliers" and not values:
                raise ValueError(f"the U-Net's {name} is {getattr(self, name)}; expected whole numbers above 0")
        factor = self.patch_size * 2 ** (len(self.multipliers) - 1)
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise ValueError(
                f"images of shape {shape} do not fit this U-Net: its patches of {self.patch_size} and {len(self.multipliers)} "
                f"levels need a height and a width divisible by {factor}, as (height, width, channels)"
            )
        if self.channels % 32:
            raise ValueError(f"the U-Net has {self.channels} channels; its normalisation in 32 groups needs a multiple of 32")

    def _told(self, x: jax.Array, condition: Mapping[str, jax.Array | None]) -> dict[str, jax.Array]:
        """Every condition that the network was made for, null where it was not given. Raises ValueError for any other."""
        batch, null = x.shape[0], self.null
        given = {name: rows for name, rows in condition.items() if rows is not None}
        shapes = {"label": (batch,), "image": (*x.shape[:3], self.image_channels), "vector": (batch, self.vector_features)}
        for name, rows in given.items():
            if name not in null:
                option = {"label": "num_classes", "image": "image_channels", "vector": "vector_features"}[name]
                raise ValueError(f"the U-Net was given the condition {name!r}, but not made for it; set its {option}")
            if rows.shape != shapes[name]:
                raise ValueError(f"the condition {name!r} has shape {rows.shape}; expected {shapes[name]} for x {x.shape}")
        return {name: given[name] if name in given else jnp.full(shapes[name], value) for name, value in null.items()}

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        step: jax.Array,
        label: jax.Array | None = None,
        image: jax.Array | None = None,
        vector: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        self.check(x.shape[1:])
        told = self._told(x, {"label": label, "image": image, "vector": vector})
        wide = 4 * self.channels
        time = time_embedding(step, self.channels)
        time = dense(wide, self.dtype, "time_0")(time)
        time = dense(wide, self.dtype, "time_1")(nn.swish(time))
        if "label" in told:
            table = nn.Embed(self.num_classes + 1, wide, embedding_init=nn.initializers.zeros, name="label")
            time += table(told["label"]).astype(self.dtype)
        if "vector" in told:
            time += dense(wide, self.dtype, "vector", use_bias=False)(told["vector"])
        res_block = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock  # of self, parts, time, train: the last

        def block(parts: Parts, level: int, name: str, attend: bool | None = None) -> jax.Array:
            features = self.channels * self.multipliers[level]
            h = res_block(features, self.dropout, self.dtype, name=name)(parts, time, train)
            attend = set(h.shape[1:3]) <= set(self.attention_sides) if attend is None else attend
            return Attention(self.dtype, name=f"{name}_attention")(h) if attend else h

        seen = jnp.concatenate([x, told["image"]], axis=-1) if "image" in told else x
        h = Conv(self.channels, self.dtype, name="conv_in")(fold(seen, self.patch_size))
        skips = [h]
        last = len(self.multipliers) - 1
        for level in range(last + 1):
            for i in range(self.num_blocks):
                h = block([h], level, f"down_{level}_block_{i}")
                skips.append(h)
            if level != last:
                h = Conv(h.shape[-1], self.dtype, stride=2, name=f"down_{level}_downsample")(h)
                skips.append(h)
        h = block([h], last, "middle_block_0", attend=True)
        h = block([h], last, "middle_block_1", attend=False)
        for level in reversed(range(last + 1)):
            for i in range(self.num_blocks + 1):
                h = block([h, skips.pop()], level, f"up_{level}_block_{i}")
            if level:
                h = Upsample(self.dtype, name=f"up_{level}_upsample")(h)
        (h,) = GroupNorm(self.dtype, name="norm_out")([h])
        h = Conv(x.shape[-1] * self.patch_size**2, jnp.float32, near_zero, name="conv_out")(nn.swish(h))
        out = unfold(h, self.patch_size)
        if self.input_skip:
            one = nn.Dense(1, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.ones, name="input_skip")
            out += one(nn.swish(time.astype(jnp.float32)))[:, None, None] * x
        return out


def fold(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/p, W/p, p p C]: each patch of p x p pixels becomes one position."""
    b, h, w, c = x.shape
    return x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3).reshape(b, h // patch, w // patch, -1)


def unfold(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, p p C] -> [B, H p, W p, C]: the inverse of `fold`."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, patch, patch, -1).swapaxes(2, 3).reshape(b, h * patch, w * patch, -1)
