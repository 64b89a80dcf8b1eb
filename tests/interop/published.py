"""The published networks, to compare with: the paper's PyTorch module, written from the architecture, and diffusers' own.

The architecture is that of DDPM's appendix B; names and order of modules are those by which the published state dicts of
ermongroup/ddim and pesser/pytorch_diffusion call their tensors. The module is NCHW, as they are.
"""

import functools
import json
import math

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ddim_jax import configuration

torch.set_num_threads(1)  # its threads wait for each other in vain where JAX's are at work

norm = functools.partial(nn.GroupNorm, 32, eps=1e-6)
conv3 = functools.partial(nn.Conv2d, kernel_size=3, padding=1)
conv1 = functools.partial(nn.Conv2d, kernel_size=1)

# The paper's three networks at a quarter of their width. Attention at a side of 16, as there, but for LSUN, which is run on
# a fourth of its size: the network is convolutional, and its fifth level attends all the same.
CIFAR10 = dict(channels=32, multipliers=(1, 2, 2, 2), num_blocks=2, attention_sides=(16,), size=32)
CELEBA = dict(channels=32, multipliers=(1, 2, 2, 2, 4), num_blocks=2, attention_sides=(16,), size=64)
LSUN = dict(channels=32, multipliers=(1, 1, 2, 2, 4, 4), num_blocks=2, attention_sides=(4,), size=64)
# And what those leave out: one level alone, twice as wide as conv_in, which diffusers does not have; uneven widths with
# attention on the last level, and grey images; attention on two levels.
FLAT = dict(channels=32, multipliers=(2,), num_blocks=1, attention_sides=(), size=8)
UNEVEN = dict(channels=32, multipliers=(1, 3, 2), num_blocks=1, attention_sides=(4,), size=16, image_channels=1)
TWICE = dict(channels=32, multipliers=(1, 2), num_blocks=3, attention_sides=(8, 4), size=8)
ALL = {name: globals()[name] for name in ("CIFAR10", "CELEBA", "LSUN", "FLAT", "UNEVEN", "TWICE")}


class Block(nn.Module):
    def __init__(self, given, made, time):
        super().__init__()
        self.norm1, self.conv1 = norm(given), conv3(given, made)
        self.temb_proj = nn.Linear(time, made)
        self.norm2, self.conv2 = norm(made), conv3(made, made)
        if given != made:
            self.nin_shortcut = conv1(given, made)

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(time))[..., None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (conv1(width, width) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))  # [B, C, positions]
        weights = torch.einsum("bci,bcj->bij", q, k).mul(x.shape[1] ** -0.5).softmax(-1)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))


def tree(**children):
    """A module that does nothing but hold others under these names."""
    module = nn.Module()
    for name, child in children.items():
        setattr(module, name, child)
    return module


class Original(nn.Module):
    """The U-Net of the paper's code: (x [B, C, H, W], step [B]) -> [B, C, H, W]."""

    def __init__(self, *, channels, multipliers, num_blocks, attention_sides, size, image_channels=3):
        super().__init__()
        self.channels, time, last = channels, 4 * channels, len(multipliers) - 1
        widths = [channels * multiplier for multiplier in multipliers]
        self.temb = tree(dense=nn.ModuleList([nn.Linear(channels, time), nn.Linear(time, time)]))
        self.conv_in = conv3(image_channels, channels)

        def level(i, given):  # the blocks of a level from their numbers of input channels, attention behind each of them
            attends = (size >> i) in attention_sides
            blocks = nn.ModuleList(Block(n, widths[i], time) for n in given)
            return tree(block=blocks, attn=nn.ModuleList(Attention(widths[i]) for _ in given if attends))

        self.down, skips, width = nn.ModuleList(), [channels], channels
        for i in range(last + 1):
            self.down.append(level(i, [width] + [widths[i]] * (num_blocks - 1)))
            width = widths[i]
            skips += [width] * (num_blocks + (i != last))
            if i != last:
                self.down[i].downsample = tree(conv=nn.Conv2d(width, width, 3, stride=2))
        self.mid = tree(block_1=Block(width, width, time), attn_1=Attention(width), block_2=Block(width, width, time))
        up = {}
        for i in reversed(range(last + 1)):
            given = [(width if j == 0 else widths[i]) + skips.pop() for j in range(num_blocks + 1)]
            up[i], width = level(i, given), widths[i]
            if i:
                up[i].upsample = tree(conv=conv3(width, width))
        self.up = nn.ModuleList(up[i] for i in range(last + 1))
        self.norm_out, self.conv_out = norm(width), conv3(width, image_channels)

    def forward(self, x, step):
        half = self.channels // 2
        angle = step.float()[:, None] * torch.exp(-math.log(1e4) * torch.arange(half) / (half - 1))
        time = self.temb.dense[0](torch.cat([angle.sin(), angle.cos()], 1))
        time = self.temb.dense[1](F.silu(time))

        def run(level, x, j):
            x = level.block[j](x, time)
            return level.attn[j](x) if len(level.attn) else x

        x = self.conv_in(x)
        skips = [x]
        for level in self.down:
            for j in range(len(level.block)):
                x = run(level, x, j)
                skips.append(x)
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))
                skips.append(x)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x, time)), time)
        for level in reversed(self.up):
            for j in range(len(level.block)):
                x = run(level, torch.cat([x, skips.pop()], 1), j)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2))
        return self.conv_out(F.silu(self.norm_out(x)))


def diffusers_config(shape: dict) -> dict:
    """The options of google/ddpm-* and google/ddpm-ema-*, as their config.json has them, for one of the shapes above."""
    widths = [shape["channels"] * multiplier for multiplier in shape["multipliers"]]
    kinds = ["Attn" * ((shape["size"] >> i) in shape["attention_sides"]) for i in range(len(widths))]
    return {
        "act_fn": "silu",
        "attention_head_dim": None,
        "block_out_channels": widths,
        "center_input_sample": False,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": shape.get("image_channels", 3),
        "layers_per_block": shape["num_blocks"],
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "out_channels": shape.get("image_channels", 3),
        "sample_size": shape["size"],
        "time_embedding_type": "positional",
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
    }


def perturb(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter drawn anew, of about the size that keeps activations near 1 and that no initialisation has: none is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
    return module.eval()


@functools.cache
def _compiled(config_json: str):
    import ml_collections

    unet = configuration.make_unet(ml_collections.ConfigDict(json.loads(config_json)))
    return jax.jit(lambda params, x, step: unet.apply({"params": params}, x, step))


def ours(model, x: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Our network's output on x [B, C, H, W]: [B, C, H, W]. Networks of one configuration are compiled once."""
    out = _compiled(model.config.to_json(sort_keys=True))(model.params, x.transpose(0, 2, 3, 1), step)
    return np.asarray(out).transpose(0, 3, 1, 2)


def inputs(shape: dict, batch: int = 2, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images [B, C, H, W] of standard normal noise and the steps to go with them: the first and the last of 1000."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, shape.get("image_channels", 3), shape["size"], shape["size"]))
    return x.astype(np.float32), np.resize([0, 999, 421], batch)
