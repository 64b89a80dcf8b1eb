"""The U-Net of DDPM and DDIM (Ho et al., arXiv 2006.11239, appendix B), in Flax Linen.

`UNet(...)(x [B, H, W, C], step [B], label [B])` gives [B, H, W, C]; steps are numbered from 0. Each level holds `num_blocks`
residual blocks on the way down and one more on the way up, every one of which takes a skip connection from its twin.
Parameters map one to one onto those of the published PyTorch networks. They are float32; `dtype` is what the layers compute
in.
"""

import math
from typing import Any, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Parts = Sequence[jax.Array]  # the halves [B, H, W, C_i] of a tensor that was never concatenated along its channels

initial = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
near_zero = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")  # a block starts as the identity


def time_embedding(step: jax.Array, width: int) -> jax.Array:
    """Sines, then cosines, of step [B] at width/2 frequencies from 1 down to 1/10000: float32 [B, width]."""
    half = width // 2
    frequency = jnp.exp(-math.log(10000) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angle = step.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def conv(features: int, size: int, dtype, name: str, init=initial, stride: int = 1) -> nn.Conv:
    # A stride of 2 pads below and on the right alone, as the published networks do.
    padding = "SAME" if stride == 1 else ((0, 1), (0, 1))
    return nn.Conv(features, (size, size), stride, padding, kernel_init=init, dtype=dtype, name=name)


class GroupNorm(nn.Module):
    """Group normalisation over the parts of a skip connection as if they were one tensor; gives the parts, normalised.

    The variance is the mean squared deviation, in float32: the difference of two moments loses it where mean >> std.
    """

    dtype: Any
    num_groups: int = 32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, parts: Parts) -> Parts:
        channels = sum(part.shape[-1] for part in parts)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        ends = [sum(p.shape[-1] for p in parts[: i + 1]) for i in range(len(parts) - 1)]

        def split(values):  # [..., channels] -> one piece for each part
            return jnp.split(values, ends, axis=-1)

        def group_mean(per_channel):  # [B, C_i] each -> [B, 1, 1, channels], averaged within groups that may span two parts
            joined = jnp.concatenate(per_channel, axis=-1)
            groups = joined.reshape(len(joined), self.num_groups, -1).mean(-1)
            return jnp.repeat(groups, channels // self.num_groups, axis=-1)[:, None, None]

        wide = [part.astype(jnp.float32) for part in parts]
        mean = group_mean([x.mean((1, 2)) for x in wide])
        centred = [x - m for x, m in zip(wide, split(mean))]
        variance = group_mean([jnp.square(x).mean((1, 2)) for x in centred])
        gain = scale * jax.lax.rsqrt(variance + self.epsilon)
        return [(x * g + b).astype(self.dtype) for x, g, b in zip(centred, split(gain), split(bias))]


class ResBlock(nn.Module):
    """norm, swish, conv, + time, norm, swish, dropout, conv, + input."""

    features: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, parts: Parts, time: jax.Array, train: bool) -> jax.Array:
        h = jnp.concatenate([nn.swish(x) for x in GroupNorm(self.dtype, name="norm1")(parts)], axis=-1)
        h = conv(self.features, 3, self.dtype, "conv1")(h)
        h += nn.Dense(self.features, kernel_init=initial, dtype=self.dtype, name="time")(nn.swish(time))[:, None, None]
        (h,) = GroupNorm(self.dtype, name="norm2")([h])
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(h))
        h = conv(self.features, 3, self.dtype, "conv2", near_zero)(h)
        x = jnp.concatenate(parts, axis=-1)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, kernel_init=initial, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Single-head self-attention over the H * W positions, added to the input."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        (h,) = GroupNorm(self.dtype, name="norm")([x])
        h = h.reshape(batch, height * width, 1, channels)
        q, k, v = (nn.Dense(channels, kernel_init=initial, dtype=self.dtype, name=name)(h) for name in "qkv")
        h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return x + nn.Dense(channels, kernel_init=near_zero, dtype=self.dtype, name="out")(h)


class UNet(nn.Module):
    """The noise-predicting network: x [B, H, W, C] in about [-1, 1] and step [B] from 0, to [B, H, W, C] float32.

    With `num_classes` it takes the class of each image too, a number from 0; without a `label`, or where that is
    num_classes, it is told none (Ho & Salimans, arXiv 2207.12598). Two more options are not in the paper, and make small
    networks cheap to train: a `patch_size` of p (1 there) folds p x p
    pixels into channels in front of the network and unfolds them behind it; with `input_skip` a multiple of the input,
    learned for each step, is added to the output. At high noise, eps is nearly x itself, which normalised layers are slow
    to learn to hand through exactly.
    Raises ValueError for sides that the patches and levels do not divide and channels that 32 groups do not divide.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_sides: tuple[int, ...] = (16,)  # attention where a level's feature map has one of these heights
    dropout: float = 0.0
    patch_size: int = 1
    input_skip: bool = False
    num_classes: int = 0
    dtype: Any = jnp.float32

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless images of this shape (H, W, C) fit the network."""
        factor = self.patch_size * 2 ** (len(self.multipliers) - 1)
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise ValueError(
                f"images of shape {shape} do not fit this U-Net: its patches of {self.patch_size} and {len(self.multipliers)} "
                f"levels need a height and a width divisible by {factor}, as (height, width, channels)"
            )
        if self.channels % 32:
            raise ValueError(f"the U-Net has {self.channels} channels; its normalisation in 32 groups needs a multiple of 32")

    @nn.compact
    def __call__(self, x: jax.Array, step: jax.Array, label: jax.Array | None = None, train: bool = False) -> jax.Array:
        self.check(x.shape[1:])
        if label is not None and not self.num_classes:
            raise ValueError("a label was given to a U-Net that knows no classes; set its num_classes, and train it so")
        given = x
        time = time_embedding(step, self.channels)
        time = nn.Dense(4 * self.channels, kernel_init=initial, dtype=self.dtype, name="time_0")(time)
        time = nn.Dense(4 * self.channels, kernel_init=initial, dtype=self.dtype, name="time_1")(nn.swish(time))
        if self.num_classes:
            label = jnp.full(len(x), self.num_classes) if label is None else label
            table = nn.Embed(self.num_classes + 1, 4 * self.channels, embedding_init=nn.initializers.zeros, name="label")
            time += table(label).astype(self.dtype)

        def block(parts, level: int, name: str, attend: bool | None = None):
            features = self.channels * self.multipliers[level]
            x = ResBlock(features, self.dropout, self.dtype, name=name)(parts, time, train)
            attend = x.shape[1] in self.attention_sides if attend is None else attend
            return Attention(self.dtype, name=f"{name}_attention")(x) if attend else x

        x = conv(self.channels, 3, self.dtype, "conv_in")(fold(x, self.patch_size))
        skips = [x]
        last = len(self.multipliers) - 1
        for level in range(last + 1):
            for i in range(self.num_blocks):
                x = block([x], level, f"down_{level}_block_{i}")
                skips.append(x)
            if level != last:
                x = conv(x.shape[-1], 3, self.dtype, f"down_{level}_downsample", stride=2)(x)
                skips.append(x)
        x = block([x], last, "middle_block_0", attend=True)
        x = block([x], last, "middle_block_1", attend=False)
        for level in reversed(range(last + 1)):
            for i in range(self.num_blocks + 1):
                x = block([x, skips.pop()], level, f"up_{level}_block_{i}")
            if level:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = conv(x.shape[-1], 3, self.dtype, f"up_{level}_upsample")(x)
        (x,) = GroupNorm(self.dtype, name="norm_out")([x])
        x = conv(given.shape[-1] * self.patch_size**2, 3, jnp.float32, "conv_out", near_zero)(nn.swish(x))
        x = unfold(x, self.patch_size)
        if self.input_skip:
            one = nn.Dense(1, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.ones, name="input_skip")
            x += one(nn.swish(time.astype(jnp.float32)))[:, None, None] * given
        return x


def fold(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/p, W/p, p p C]: each patch of p x p pixels becomes one position."""
    b, h, w, c = x.shape
    return x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3).reshape(b, h // patch, w // patch, -1)


def unfold(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, p p C] -> [B, H p, W p, C]: the inverse of `fold`."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, patch, patch, -1).swapaxes(2, 3).reshape(b, h * patch, w * patch, -1)
