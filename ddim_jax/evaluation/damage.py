"""Real images made worse on purpose: what an extractor sees of it says what its figures are worth."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Damage = Callable[[np.ndarray, np.ndarray | None], np.ndarray]  # (images uint8 [N, H, W, C], labels int [N]) -> images


def blur(radius: float) -> Damage:
    """A Gaussian blur of this many pixels."""

    def apply(images: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        return np.stack([_blurred(image, radius) for image in images])

    return apply


def _blurred(image: np.ndarray, radius: float) -> np.ndarray:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))).reshape(image.shape)


def noise(std: float) -> Damage:
    """Normal noise of this standard deviation, in values of 0 to 255."""

    def apply(images: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        drawn = np.random.default_rng(0).normal(0, std, images.shape)
        return np.clip(np.round(images + drawn), 0, 255).astype(np.uint8)

    return apply


def lose(share: float) -> Damage:
    """This share of the images of class 0 left out. It needs labels."""

    def apply(images: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        assert labels is not None, "the caller asks for this only where there are classes"
        of_class = np.flatnonzero(labels == 0)
        return np.delete(images, of_class[: round(share * len(of_class))], axis=0)

    return apply


DAMAGES: dict[str, dict[str, Damage]] = {  # kind -> strength -> what it does
    "blur": {f"radius {radius:g}": blur(radius) for radius in (0.5, 1, 2)},
    "noise": {f"std {std}": noise(std) for std in (8, 16, 32)},
    "class 0 lost": {f"{share:.0%}": lose(share) for share in (0.25, 0.5, 1)},
}
