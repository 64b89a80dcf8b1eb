"""What samples are compared by: the features that an extractor, a plain function of images, finds in them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


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
