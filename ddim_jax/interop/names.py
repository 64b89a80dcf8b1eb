"""Names and layouts of one and the same parameter: in our tree, in the paper's PyTorch code and in diffusers.

Ours are "down_0_block_1.conv1.kernel": a place in the network, a layer of it unless the place is one, and the array. Our
kernels are [height, width, in, out] and [in, out]; theirs [out, in, height, width] and [out, in], or [out, in, 1, 1] where a
matrix is kept as a 1x1 convolution. The two number their levels alike on the way down; on the way up, the paper's code
keeps level i as up.i, and diffusers begins at the deepest.
"""

import re
from typing import Any, NamedTuple

import numpy as np


class Naming(NamedTuple):
    """What a format calls the places of our network and the layers in them; names not listed are the same in both."""

    places: dict[str, str]  # "#" in ours stands for a number: {0}, {1} in theirs; {rank} counts levels from the deepest
    layers: dict[str, str]
    convolutions: frozenset[str]  # our layers whose matrix is a 1x1 convolution there

    def name(self, ours: str, levels: int) -> str:
        """Their name of a parameter of a network with this many levels."""
        *place, layer, array = ours.split(".")
        path = [self._place(place[0], levels), self.layers.get(layer, layer)] if place else [self._place(layer, levels)]
        return ".".join([*path, "bias" if array == "bias" else "weight"])

    def _place(self, place: str, levels: int) -> str:
        numbers = [int(n) for n in re.findall(r"\d+", place)]
        theirs = self.places.get(place) or self.places.get(re.sub(r"\d+", "#", place), place)
        return theirs.format(*numbers, rank=levels - 1 - numbers[0] if numbers else None)

    def to_theirs(self, ours: str, array: Any) -> Any:
        """Our array in their layout: a view."""
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if array.ndim == 2:
            return array.T[:, :, None, None] if self._is_convolution(ours) else array.T
        return array

    def to_ours(self, ours: str, array: np.ndarray) -> np.ndarray:
        """Their array in our layout: a view."""
        if array.ndim == 4:
            return array[:, :, 0, 0].T if self._is_convolution(ours) else array.transpose(2, 3, 1, 0)
        return array.T  # of one dimension it is itself

    def _is_convolution(self, ours: str) -> bool:
        return ours.split(".")[-2] in self.convolutions


ERMONGROUP = Naming(
    places={
        "time_#": "temb.dense.{0}",
        "down_#_block_#": "down.{0}.block.{1}",
        "down_#_block_#_attention": "down.{0}.attn.{1}",
        "down_#_downsample": "down.{0}.downsample.conv",
        "middle_block_0": "mid.block_1",
        "middle_block_0_attention": "mid.attn_1",
        "middle_block_1": "mid.block_2",
        "up_#_block_#": "up.{0}.block.{1}",
        "up_#_block_#_attention": "up.{0}.attn.{1}",
        "up_#_upsample": "up.{0}.upsample.conv",
    },
    layers={"time": "temb_proj", "shortcut": "nin_shortcut", "out": "proj_out"},
    convolutions=frozenset(["shortcut", "q", "k", "v", "out"]),
)

DIFFUSERS = Naming(
    places={
        "time_0": "time_embedding.linear_1",
        "time_1": "time_embedding.linear_2",
        "down_#_block_#": "down_blocks.{0}.resnets.{1}",
        "down_#_block_#_attention": "down_blocks.{0}.attentions.{1}",
        "down_#_downsample": "down_blocks.{0}.downsamplers.0.conv",
        "middle_block_#": "mid_block.resnets.{0}",
        "middle_block_0_attention": "mid_block.attentions.0",
        "up_#_block_#": "up_blocks.{rank}.resnets.{1}",
        "up_#_block_#_attention": "up_blocks.{rank}.attentions.{1}",
        "up_#_upsample": "up_blocks.{rank}.upsamplers.0.conv",
        "norm_out": "conv_norm_out",
    },
    layers={
        "time": "time_emb_proj",
        "shortcut": "conv_shortcut",
        "norm": "group_norm",
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "out": "to_out.0",
    },
    convolutions=frozenset(["shortcut"]),
)

# As diffusers named the layers of attention until 2023; its first published weights keep these names.
DIFFUSERS_OLD = DIFFUSERS._replace(layers=DIFFUSERS.layers | {"q": "query", "k": "key", "v": "value", "out": "proj_attn"})
