"""The devices of this process and their memory, with the rows of a batch spread over them."""

import os
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
        missing = -count % self._split.num_devices
        if missing:
            tree = jax.tree.map(lambda a: a[np.arange(count + missing) % count], tree)
        return jax.device_put(tree, self._split)


def processor() -> jax.Device | None:
    """The host's processor as a device; None where JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def check_memory(what: str, on_device: int = 0, on_host: int = 0) -> None:
    """Raises ValueError where `what` takes more bytes than each of this process's devices, or the machine, has in all.

    The numbers of bytes are the least that is needed: what passes may still be too much.
    """
    device = jax.local_devices()[0]
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = (device.memory_stats() or {}).get("bytes_limit", host)
    places = [("a device of this machine", on_device, limit), ("this machine", on_host, host)]
    if device.platform == "cpu":  # whose memory is the machine's
        places = [("this machine", on_device + on_host, host)]
    for place, needed, there in places:
        if needed > there:
            raise ValueError(
                f"{what} takes at least {needed / 1e9:,.1f} GB of memory, but {place} has {there / 1e9:,.1f} GB: ask for less"
            )
