"""Real images from beside the checkout."""

import importlib.util
import pathlib

import numpy as np
import pytest

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


def real_images(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [N, H, W, C], classes int [N]). Skips where they are not there."""
    if not (SHARED / "load.py").exists():
        pytest.skip(f"needs {name} in ../shared/data, which is not there")
    spec = importlib.util.spec_from_file_location("shared_data", SHARED / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images, labels = module.load(name, split)
    return images.reshape(len(images), *images.shape[1:3], -1), labels
