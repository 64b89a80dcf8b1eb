"""What a call spends its time on, by JAX's profiler."""

import math
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax

# Names of convolutions and products of matrices: of HLO, of the libraries that XLA calls for them, and of their kernels.
_PRODUCTS = re.compile(r"convolution|(?<![a-z])dot|matmul|gemm|cudnn|cublas|cutlass|xmma|ynn|onednn")
# Loops, calls and branches hold other operations, whose time would count twice.
_HOLDERS = re.compile(r"(while|call|conditional)(\.\d+)?$")


def share_of_products(call: Callable[[], Any]) -> float:
    """The share of the time of a call, which is run once more, that goes into convolutions and products of matrices.

    It is that of the devices; on CPUs, of the threads that compute. NaN where the profile has no operation.
    """
    spent: dict[bool, float] = {True: 0.0, False: 0.0}
    for name, nanoseconds in _operations(call):
        spent[bool(_PRODUCTS.search(name))] += nanoseconds
    return spent[True] / total if (total := sum(spent.values())) else math.nan


def _operations(call: Callable[[], Any]) -> Iterator[tuple[str, float]]:
    """Each operation of a call, with the nanoseconds it took: by its category where the profile has one, as for TPUs."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        lines = [line for plane in devices or planes for line in plane.lines if line.name == "XLA Ops" or not devices]
        for event in (event for line in lines for event in line.events):
            about = dict(event.stats)
            if (devices or "hlo_op" in about) and not _HOLDERS.match(event.name):  # what Python does is in it, too
                yield f"{about.get('hlo_category', '')} {event.name}", event.duration_ns
