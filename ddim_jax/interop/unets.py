"""Which network a checkpoint is for: config.model, from diffusers' unet/config.json and back, or from tensors alone."""

import re
from collections.abc import Mapping

from ddim_jax import configuration
from ddim_jax.common.text import shown
from ddim_jax.configuration import Config

# What our network has one value of: the option of diffusers' UNet2DModel, its default there, and what it must say.
_FIXED = {
    "act_fn": ("silu", "silu"),
    "norm_eps": (1e-5, 1e-6),
    "norm_num_groups": (32, 32),
    "attn_norm_num_groups": (None, None),
    "downsample_padding": (1, 0),
    "downsample_type": ("conv", "conv"),
    "upsample_type": ("conv", "conv"),
    "flip_sin_to_cos": (True, False),
    "freq_shift": (0, 1),
    "time_embedding_type": ("positional", "positional"),
    "time_embedding_dim": (None, None),
    "center_input_sample": (False, False),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2D"),
    "mid_block_scale_factor": (1, 1),
    "resnet_time_scale_shift": ("default", "default"),
    "add_attention": (True, True),
    "class_embed_type": (None, None),
    "num_class_embeds": (None, None),
    "num_train_timesteps": (None, None),
}
_READ = {  # and what it has many values of
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
    "dropout": 0.0,
}
_ATTENDS = {"DownBlock2D": False, "AttnDownBlock2D": True, "UpBlock2D": False, "AttnUpBlock2D": True}


def from_diffusers(fields: dict, source: str, image_size: int | None = None) -> tuple[dict, int, int]:
    """(config.model, image_size, image channels) of a unet/config.json; `image_size` replaces its sample_size.

    Raises ValueError, naming every option that our network does not have.
    """
    if fields.get("_class_name") != "UNet2DModel":
        raise ValueError(f"{source} describes a {shown(fields.get('_class_name'))}; expected a UNet2DModel")
    given = {name: value for name, value in fields.items() if not name.startswith("_")}
    option = {name: default for name, (default, _) in _FIXED.items()} | _READ | given
    faults = [f"{name}={shown(option[name])}, expected {ours!r}" for name, (_, ours) in _FIXED.items() if option[name] != ours]
    faults += [f"{name}={shown(given[name])}, an option unknown here" for name in given.keys() - _FIXED.keys() - _READ.keys()]

    widths = option["block_out_channels"]
    down, up = ([name.removeprefix("UNetRes") for name in option[f"{way}_block_types"]] for way in ("down", "up"))
    attends = [_ATTENDS.get(name) for name in down]
    if None in attends or attends != [_ATTENDS.get(name) for name in reversed(up)] or len(widths) != len(down):
        faults.append(
            f"down_block_types={shown(down)}, up_block_types={shown(up)}, expected {sorted(_ATTENDS)}, the same way up as down"
        )
    attended = {width for width, attend in zip(widths, attends) if attend} | {widths[-1]}
    if option["attention_head_dim"] is not None and attended != {option["attention_head_dim"]}:
        faults.append(f"attention_head_dim={shown(option['attention_head_dim'])}, expected None, for one head")
    if option["in_channels"] != option["out_channels"]:
        faults.append(
            f"in_channels={shown(option['in_channels'])}, out_channels={shown(option['out_channels'])}, expected the same"
        )
    if any(width % widths[0] for width in widths):
        faults.append(f"block_out_channels={shown(widths)}, expected multiples of the first")
    size = option["sample_size"] if image_size is None else image_size
    size = size[0] if isinstance(size, (list, tuple)) and len(set(size)) == 1 else size
    if not isinstance(size, int):
        faults.append(f"sample_size={shown(size)}, expected one number of pixels (or give image_size)")
    if faults:
        raise ValueError(f"{source} describes a network that is not ours:\n  " + "\n  ".join(sorted(faults)[:20]))

    model = _model(widths[0], widths, option["layers_per_block"], list(map(bool, attends)), size, option["dropout"])
    return model, size, option["in_channels"]


def to_diffusers(config: Config) -> dict:
    """The unet/config.json of our configuration. Raises ValueError for options of ours that its networks lack."""
    model, (height, width, _) = config.model.to_dict(), configuration.image_shape(config)
    plain = {"patch_size": 1, "input_skip": False, "num_classes": 0}
    stray = [f"config.model.{name}={model[name]}" for name, value in plain.items() if model.get(name, value) != value]
    if model["multipliers"][0] != 1:
        stray.append(f"config.model.multipliers={list(model['multipliers'])}, whose first is not 1")
    if height != width:
        stray.append(f"config.data.image_size={(height, width)}, which is no square")
    if config.data.degrade:
        stray.append(f"config.data.degrade={config.data.degrade}")
    if config.diffusion.categories:
        stray.append(f"config.diffusion.categories={config.diffusion.categories}")
    if stray:
        raise ValueError(f"diffusers' UNet2DModel has no counterpart of {', '.join(stray)}")
    attends = [height >> level in model["attention_sides"] for level in range(len(model["multipliers"]))]
    kinds = ["Attn" * attend for attend in attends]
    return {
        "_class_name": "UNet2DModel",
        "sample_size": height,
        "in_channels": config.data.channels,
        "out_channels": config.data.channels,
        "block_out_channels": [model["channels"] * multiplier for multiplier in model["multipliers"]],
        "layers_per_block": model["num_blocks"],
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "attention_head_dim": None,
        "dropout": model["dropout"],
        **{name: value for name, (_, value) in _FIXED.items()},
    }


def from_ermongroup(shapes: Mapping[str, tuple], source: str, image_size: int | None = None) -> tuple[dict, int, int]:
    """(config.model, image_size, image channels) that the shapes of the paper's tensors tell.

    A state dict does not say for which size of images it is. Every published one attends at a side of 16 pixels, on one
    level, from which the size follows; `image_size` says otherwise. Dropout, which leaves no trace, is 0.
    Raises ValueError where tensors that would tell are not there.
    """

    def shape(name: str, rank: int) -> tuple:
        if len(shapes.get(name, ())) != rank:
            raise ValueError(f"{source} does not fit: {name} has shape {shapes.get(name)}, expected {rank} dimensions")
        return shapes[name]

    def count(pattern: str) -> int:  # of the indices that stand at the pattern's only group
        found = {int(match[1]) for match in (re.match(pattern, name) for name in shapes) if match}
        return max(found, default=-1) + 1

    channels, image_channels, _, _ = shape("conv_in.weight", 4)
    widths = [shape(f"down.{level}.block.0.norm2.weight", 1)[0] for level in range(count(r"down\.(\d+)\."))]
    if not widths or not channels or any(not width or width % channels for width in widths):
        raise ValueError(f"{source} does not fit: its levels have {widths} channels, expected multiples of conv_in's {channels}")
    attends = [count(rf"down\.{level}\.attn\.(\d+)\.") > 0 for level in range(len(widths))]
    if image_size is None:
        if sum(attends) != 1:
            raise ValueError(
                f"{source} attends on {sum(attends)} levels, so its shapes do not tell the image size: give image_size"
            )
        image_size = 16 << attends.index(True)
    model = _model(channels, widths, count(r"down\.0\.block\.(\d+)\."), attends, image_size, dropout=0.0)
    return model, image_size, image_channels


def _model(channels: int, widths, num_blocks: int, attends: list[bool], image_size: int, dropout: float) -> dict:
    return dict(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        num_blocks=num_blocks,
        attention_sides=tuple(image_size >> level for level, attend in enumerate(attends) if attend),
        dropout=dropout,
        patch_size=1,
        input_skip=False,
        num_classes=0,
    )
