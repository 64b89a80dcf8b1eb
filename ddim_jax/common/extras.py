"""Packages that only some uses of data need: imported where they are used, so that training from memory needs none."""

import importlib
import types


def require(module: str, extra: str) -> types.ModuleType:
    """Imports a module that the extra `ddim_jax[extra]` brings. Raises ModuleNotFoundError that names the extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; this needs the extra {extra!r}: pip install 'ddim_jax[{extra}]'", name=error.name
        ) from error
