"""From an image file to the array that the network sees: decode, crop, colours, resize."""

import dataclasses
import numbers
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

CROPS = ("none", "center", "celeba")
_MODES = {1: "L", 3: "RGB"}
# The paper's square of an aligned CelebA image: 128x128 centred at x = 89, y = 121, as (left, top, right, bottom).
_CELEBA_SIZE, _CELEBA_BOX = (178, 218), (89 - 64, 121 - 64, 89 + 64, 121 + 64)


class DamagedImage(ValueError):
    """A file that is no whole image, however often it is read."""


@dataclasses.dataclass(frozen=True)
class Form:
    """What every image becomes: uint8 [H, W, C].

    image_size: (H, W), the height and width in pixels.
    channels: C, 1 for grey or 3 for red, green, blue.
    crop: 'none' takes images that have the final size already; 'center' takes the largest central rectangle of the
        proportions H:W, and resizes it; 'celeba' the paper's 128x128 of an aligned CelebA image, resized (H must be W).
    Raises ValueError where no image can become so.
    """

    image_size: tuple[int, int]
    channels: int
    crop: str = "none"

    def __post_init__(self):
        size = self.image_size
        if np.shape(size) != (2,) or not all(isinstance(side, numbers.Integral) and side >= 1 for side in size):
            raise ValueError(f"data.image_size is {size!r}; expected (height, width) in pixels, each a whole number from 1")
        if self.channels not in _MODES:
            raise ValueError(f"data.channels is {self.channels!r}; expected 1 (grey) or 3 (red, green, blue)")
        if self.crop not in CROPS:
            raise ValueError(f"data.crop is {self.crop!r}; expected one of {', '.join(CROPS)}")
        if self.crop == "celeba" and size[0] != size[1]:
            raise ValueError(f"data.crop is 'celeba', which takes a square, but data.image_size is {size}; use crop 'center'")


def read(file: str | BinaryIO, name: str, form: Form) -> np.ndarray:
    """Decodes an image file (a path or an open file) to uint8 [H, W, C]: `open_image`, then `fit`, and what both raise."""
    return fit(open_image(file, name), name, form)


def open_image(file: str | BinaryIO, name: str) -> Image.Image:
    """Decodes an image file (a path or an open file), and turns it upright where its EXIF data say how.

    `name` is what errors call it. Raises DamagedImage where the file is no whole image, ValueError where it cannot be read,
    FileNotFoundError where there is none.
    """
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
            return image
    except FileNotFoundError:
        raise
    except Exception as error:  # A damaged file makes Pillow raise anything from OSError to IndexError.
        of_system = isinstance(error, OSError) and error.errno is not None  # those of Pillow have no number
        kind = ValueError if of_system or isinstance(error, MemoryError) else DamagedImage
        raise kind(f"{name} cannot be read as an image ({error}); mend it or take it away") from error


def fit(image: Image.Image, name: str, form: Form) -> np.ndarray:
    """Crops, converts and resizes an image to uint8 [H, W, C], as `form` says.

    Resizing is bilinear with antialiasing. Transparent parts become white. `name` is what errors call the image.
    Raises ValueError where the image has the wrong size for the crop, or more than 8 bits a channel.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(f"{name} has more than 8 bits a channel (Pillow's mode {image.mode}); convert it to 8 bits first")
    width, height = image.size
    final_height, final_width = form.image_size
    if form.crop == "celeba":
        if image.size != _CELEBA_SIZE:
            raise ValueError(
                f"{name} is {width} wide and {height} high, but data.crop='celeba' expects the aligned images of CelebA "
                "(img_align_celeba), 178 wide and 218 high; use data.crop='center' for other pictures"
            )
        image = image.crop(_CELEBA_BOX)
    elif form.crop == "center":
        crop_width = max(1, min(width, round(height * final_width / final_height)))
        crop_height = max(1, min(height, round(width * final_height / final_width)))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        image = image.crop((left, top, left + crop_width, top + crop_height))
    elif image.size != (final_width, final_height):
        raise ValueError(
            f"{name} is {width} wide and {height} high, but data.crop='none' expects images of the final size, {final_width} "
            f"wide and {final_height} high; set data.crop='center' to crop and resize, or another data.image_size"
        )
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert(_MODES[form.channels]).resize((final_width, final_height), Image.Resampling.BILINEAR)
    return np.array(image).reshape(final_height, final_width, form.channels)
