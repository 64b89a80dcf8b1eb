"""A data set on the devices: each example is one row, which TPUs look up where it lies.

Images [N, H, W, C] would be copied in each call, all of them, since a TPU keeps arrays with few channels in an order in which no
image lies in one piece: 4 GB of temporaries and 6 GB of traffic for the 2 GB of CelebA.
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
