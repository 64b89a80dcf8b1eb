"""Whether named arrays are those that somebody expects."""

from collections.abc import Mapping
from typing import Any


def check_fit(found: Mapping[str, Any], expected: Mapping[str, Any], source: str) -> None:
    """Raises ValueError, naming each array of the two that is missing, unknown or of another shape or dtype, with both shapes.

    found, expected: anything with a shape and a dtype, by name.
    source: what the message calls the place that `found` comes from.
    """

    def described(arrays: Mapping[str, Any], name: str, where_not: str) -> str:
        return f"{arrays[name].dtype}{list(arrays[name].shape)}" if name in arrays else where_not

    pairs = {
        name: (described(found, name, "missing"), described(expected, name, "nothing of this name"))
        for name in sorted(expected.keys() | found.keys())
    }
    faults = [f"{name}: {is_there}, expected {wanted}" for name, (is_there, wanted) in pairs.items() if is_there != wanted]
    if faults:
        listed = "\n  ".join(faults[:20] + [f"... {len(faults)} in all"] * (len(faults) > 20))
        raise ValueError(f"{source} does not fit this configuration; was it made with another one?\n  {listed}")
