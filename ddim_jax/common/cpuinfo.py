"""What Linux tells of the processor of this machine."""

import functools
import pathlib
import platform
import re


@functools.cache
def features() -> frozenset[str]:
    """Its instruction sets, such as "avx2" or "amx_bf16", among the other words of `line`."""
    return frozenset(line().split())


def line() -> str:
    """The line of /proc/cpuinfo that lists its instruction sets; the processor's name on systems that have none."""
    try:
        found = re.search("^(flags|Features).*", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[0] if found else platform.processor()
