"""The devices of this process, with the rows of a batch spread over them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class LocalDevices:
    """Where arrays go before a compiled program: split by rows, or a copy on every device."""

    def __init__(self) -> None:
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        self._split, self._everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))

    def everywhere(self, tree: Any) -> Any:
        """A copy of each array on every device."""
        return jax.device_put(tree, self._everywhere)

    def split(self, tree: Any) -> Any:
        """Arrays [B, ...] by their rows; some are repeated at the end until the devices divide them: cut the results to [:B]."""
        count = len(jax.tree.leaves(tree)[0])
        even = np.arange(count + -count % self._split.num_devices) % count
        return jax.device_put(jax.tree.map(lambda a: a[even], tree), self._split)
