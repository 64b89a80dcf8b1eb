"""Packages that only some uses need: imported where they are used, so that training from memory needs none."""

import importlib
import types


def require(module: str, extra: str) -> types.ModuleType:
    """Imports a module that an extra of setup.cfg brings. Raises ModuleNotFoundError that says how to install the extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; it comes with the extra {extra!r}. In the folder of your clone of ddim_jax, run: "
            f'pip install -c constraints.txt -e ".[{extra}]"',
            name=error.name,
        ) from error
