"""What the processor of this machine has, where it is what computes."""

import functools
import pathlib
import platform
import re


@functools.cache
def features() -> frozenset[str]:
    """Its instruction sets by the names of Linux, such as "avx2" or "amx_bf16"; none where the system does not tell them so."""
    return frozenset(described().split())


def described() -> str:
    """The line that tells them, or else the processor's name."""
    try:
        found = re.search("^(flags|Features).*", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[0] if found else platform.processor()
