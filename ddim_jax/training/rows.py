"""A data set on the devices: each example is one row, which a TPU looks up without a copy of the others.

A TPU keeps images [N, H, W, C] of few channels in an order in which no image lies in one piece. To look up a batch, each compiled
call would first copy them all: for the 2 GB of CelebA 4 GB of temporaries and 6 GB of traffic, as the TPU's compiler says.
"""

import dataclasses
import functools
from typing import Any

import jax


@functools.partial(jax.tree_util.register_dataclass, data_fields=["flat"], meta_fields=["shape"])
@dataclasses.dataclass(frozen=True)
class Rows:
    """An array [N, *shape] as `flat` [N, M]; `rows[index]`, index int [B], gives [B, *shape]."""

    flat: Any
    shape: tuple[int, ...]

    def __getitem__(self, index: jax.Array) -> jax.Array:
        return self.flat[index].reshape(*index.shape, *self.shape)


def from_arrays(examples: Any) -> Any:
    """Examples in memory, each array [N, ...] as rows; those of one or two axes stay as they are.

    An array in one piece (contiguous) is not copied.
    """
    return jax.tree.map(lambda array: Rows(array.reshape(len(array), -1), array.shape[1:]) if array.ndim > 2 else array, examples)


def take(dataset: Any, index: jax.Array) -> Any:
    """The examples of these numbers, index int [B]: arrays [B, ...]."""
    return jax.tree.map(lambda values: values[index], dataset, is_leaf=lambda each: isinstance(each, Rows))
