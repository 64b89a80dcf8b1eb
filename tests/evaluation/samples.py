"""Features to measure, the same on every machine."""

import numpy as np


def features(n: int, seed: int, dimension: int = 24) -> np.ndarray:
    """float32 [n, dimension], not normal, correlated, with a mean that moves with the seed."""
    random = np.random.RandomState(seed)
    mixed = random.standard_normal((n, dimension)) @ np.random.RandomState(7).standard_normal((dimension, dimension)) / 4
    return np.maximum(mixed + 0.1 * seed, -0.5).astype(np.float32)


def logits(n: int, seed: int, classes: int = 12) -> np.ndarray:
    """float32 [n, classes]."""
    return (3 * np.random.RandomState(seed).standard_normal((n, classes))).astype(np.float32)
