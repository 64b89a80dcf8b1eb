"""What a call spends its time on, by JAX's profiler."""

import math
import pathlib
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

# Names of convolutions and products of matrices: of HLO, of the libraries that XLA calls for them, and of their kernels.
_PRODUCTS = re.compile(r"conv(?!ert)|(?<![a-z])dot|matmul|gemm|cudnn|cublas|cutlass|xmma|ynn|onednn")
# Loops, calls and branches hold other operations, whose time would count twice.
_HOLDERS = re.compile(r"(while|call|conditional)(\.\d+)?$")


def share_of_products(call: Callable[[], Any]) -> float:
    """The share of the time of a call, which is run once more, that goes into convolutions and products of matrices.

    It is that of the devices. On CPUs it is of the processor's time, less what other operations take: the threads in which Eigen
    computes convolutions are in no profile. NaN where the profile has no operation.
    """
    operations, processor_seconds = _profile(call)
    spent: dict[bool, float] = {True: 0.0, False: 0.0}
    for name, nanoseconds in operations:
        spent[bool(_PRODUCTS.search(name))] += nanoseconds / 1e9
    if spent[True]:
        spent[True] = max(spent[True], processor_seconds - spent[False])
    return spent[True] / total if (total := sum(spent.values())) else math.nan


def _profile(call: Callable[[], Any]) -> tuple[list[tuple[str, float]], float]:
    """Each operation of a call, with the nanoseconds it took, and the processor's seconds, 0 where it only waits for a device.

    Operations are named by their category, too, where the profile has one, as for TPUs.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.process_time()
            call()
            processor_seconds = time.process_time() - start
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        lines = [line for plane in devices or planes for line in plane.lines if line.name == "XLA Ops" or not devices]
        operations = []
        for event in (event for line in lines for event in line.events):
            about = dict(event.stats)
            if (devices or "hlo_op" in about) and not _HOLDERS.match(event.name):  # what Python does is in it, too
                operations.append((f"{about.get('hlo_category', '')} {event.name}", event.duration_ns))
        return operations, 0.0 if devices else processor_seconds
