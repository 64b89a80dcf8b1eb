"""From an image file to the array that the network sees: decode, crop, colours, resize."""

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

CROPS = ("none", "center", "celeba")
_MODES = {1: "L", 3: "RGB"}
# The paper's square of an aligned CelebA image: 128x128 centred at x = 89, y = 121, as (left, top, right, bottom).
_CELEBA_SIZE, _CELEBA_BOX = (178, 218), (89 - 64, 121 - 64, 89 + 64, 121 + 64)


def check(image_size: int, channels: int, crop: str) -> None:
    """Raises ValueError where `fit` could not make such images."""
    if image_size < 1:
        raise ValueError(f"config.data.image_size is {image_size}; expected a number of pixels, at least 1")
    if channels not in _MODES:
        raise ValueError(f"config.data.channels is {channels!r}; expected 1 (grey) or 3 (red, green, blue)")
    if crop not in CROPS:
        raise ValueError(f"config.data.crop is {crop!r}; expected one of {', '.join(CROPS)}")


def read(file: str | BinaryIO, name: str, image_size: int, channels: int, crop: str) -> np.ndarray:
    """Decodes an image file (a path or an open file) to uint8 [image_size, image_size, channels]: see `fit`.

    The image is turned upright where its EXIF data say how. `name` is what errors call it.
    Raises ValueError where the file is no whole image, or an image that does not fit.
    """
    try:
        with Image.open(file) as image:
            image = ImageOps.exif_transpose(image)
            image.load()
    except Exception as error:  # A damaged file makes Pillow raise anything from OSError to IndexError.
        raise ValueError(f"{name} cannot be read as an image ({error}); mend it or take it away") from error
    return fit(image, name, image_size, channels, crop)


def fit(image: Image.Image, name: str, image_size: int, channels: int, crop: str) -> np.ndarray:
    """Crops, converts and resizes an image to uint8 [image_size, image_size, channels].

    crop: 'none' takes images that have the final size already; 'center' takes the largest central square; 'celeba' the
    paper's 128x128 of an aligned CelebA image. Resizing is bilinear with antialiasing. Transparent parts become white.
    Raises ValueError where the image has the wrong size for `crop`, or more than 8 bits a channel.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(f"{name} has more than 8 bits a channel (Pillow's mode {image.mode}); convert it to 8 bits first")
    width, height = image.size
    if crop == "celeba":
        if image.size != _CELEBA_SIZE:
            raise ValueError(
                f"{name} is {width}x{height}, but config.data.crop='celeba' expects the aligned 178x218 images of CelebA "
                "(img_align_celeba); use config.data.crop='center' for other pictures"
            )
        image = image.crop(_CELEBA_BOX)
    elif crop == "center":
        side = min(image.size)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    elif image.size != (image_size, image_size):
        raise ValueError(
            f"{name} is {width}x{height}, but config.data.image_size={image_size} with config.data.crop='none' expects "
            f"{image_size}x{image_size}; set config.data.crop='center' to crop and resize, or another image_size"
        )
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert(_MODES[channels]).resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.array(image).reshape(image_size, image_size, channels)
