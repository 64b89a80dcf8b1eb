"""What samples are compared by: the features that an extractor, a plain function of images, finds in them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ddim_jax.common.devices import LocalDevices


class Extractor(NamedTuple):
    """A network that describes images by numbers. Figures made with different extractors cannot be compared."""

    name: str  # what figures are reported under
    digest: str  # SHA-256 of its weights
    params: Any
    # (params, images uint8 [B, H, W, channels]) -> "features" [B, D], and where it has them "logits" [B, K] of a classifier and
    # "spatial" [B, D'], what it sees at each place
    apply: Callable[[Any, jax.Array], dict[str, jax.Array]]
    channels: int  # of the images that it takes, 1 or 3
    distance: str = "Fréchet distance"  # what the Fréchet distance of its features is called; "FID" is of Inception alone


def check_channels(extractor: Extractor, channels: int) -> bool:
    """Whether images of this many channels are grey ones that it will see three times, as red, green and blue.

    Raises ValueError for images that it cannot take at all.
    """
    if channels == extractor.channels:
        return False
    if (channels, extractor.channels) == (1, 3):
        return True
    raise ValueError(
        f"the images have {channels} channels, but {extractor.name} takes {extractor.channels}: choose another extractor"
    )


def describer(extractor: Extractor) -> Callable[[np.ndarray | jax.Array], dict[str, np.ndarray]]:
    """The extractor as one compiled function over the devices of this process: images uint8 [B, H, W, C] -> float32 [B, ...].

    B may be any number, and is compiled once for each size; grey images are repeated to three channels where it takes three.
    The function raises ValueError for other images, and FloatingPointError where features are not finite.
    """
    devices = LocalDevices()
    params = devices.everywhere(extractor.params)
    compiled = jax.jit(extractor.apply)

    def describe(images: np.ndarray | jax.Array) -> dict[str, np.ndarray]:
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"an extractor takes images uint8 [B, H, W, C]; these are {images.dtype} {images.shape}")
        grey = check_channels(extractor, images.shape[-1])
        images = np.repeat(images, 3, axis=-1) if grey else np.asarray(images)
        found = {name: np.asarray(a)[: len(images)] for name, a in compiled(params, devices.split(images)).items()}
        if not all(np.isfinite(array).all() for array in found.values()):
            raise FloatingPointError(f"features of {extractor.name} are NaN or infinite: are its weights whole?")
        return found

    return describe
