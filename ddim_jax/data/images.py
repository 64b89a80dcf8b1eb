"""Pixels: uint8 [0, 255] on disk, float32 [-1, 1] in the network, and the grids that people look at.

H and W may differ. Pictures have 1 channel (grey), 3 (red, green, blue) or 4 (and opacity).
"""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from ddim_jax.common.files import whole
from ddim_jax.data import decoding


def to_float(images: ArrayLike) -> jax.Array:
    """uint8 [0, 255] -> float32 [-1, 1], as the paper has it: no dequantisation. Any shape."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def to_uint8(x: ArrayLike) -> jax.Array:
    """float [-1, 1] -> uint8 [0, 255], clipped and rounded to the nearest value. Any shape."""
    return jnp.round(jnp.clip((jnp.asarray(x) + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def grid(images: np.ndarray, gap: int = 2, background: int = 128) -> np.ndarray:
    """One picture, uint8 [H', W', C], of many.

    images: uint8 [rows, columns, H, W, C]; or [N, H, W, C], as square as can be.
    gap: pixels between the images, and around all.
    background: the value of the gaps, and of the places of a list that stay empty.
    Raises ValueError where these are no pictures.
    """
    images = np.asarray(images)
    if images.ndim not in (4, 5):
        raise ValueError(f"a grid expects images [N, H, W, C] or [rows, columns, H, W, C]; this has shape {images.shape}")
    _check_picture(images, "a grid")
    if images.ndim == 4:
        columns = int(np.ceil(np.sqrt(len(images))))
        missing = -len(images) % columns
        blank = np.full((missing, *images.shape[1:]), background, np.uint8)
        images = np.concatenate([images, blank]).reshape(-1, columns, *images.shape[1:])
    padded = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=background)
    rows, columns, height, width, channels = padded.shape
    sheet = padded.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    return np.pad(sheet, ((gap, 0), (gap, 0), (0, 0)), constant_values=background)


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [H, W, C] as a PNG file. Raises ValueError where this is no picture."""
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"a PNG file expects one picture [H, W, C]; this has shape {image.shape}")
    _check_picture(image, "a PNG file")
    with whole(path) as part:
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part, "PNG")


def _check_picture(images: np.ndarray, what: str) -> None:
    if images.dtype != np.uint8 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{what} expects uint8 pixels of 1, 3 or 4 channels; this is {images.dtype} with {images.shape[-1]} channels "
            f"(shape {images.shape}). Floats in [-1, 1] go through `to_uint8` first, latents through their own decoder"
        )


def load_mask(path: str | os.PathLike, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture of the size of images of this shape (H, W, C), as bool [H, W, 1]: whether each pixel is white.

    Raises ValueError for another size, or a file that is no picture; FileNotFoundError where there is none.
    """
    mask = np.asarray(decoding.open_image(os.fspath(path), f"the mask {path}").convert("L")) >= 128
    if mask.shape != shape[:2]:
        (height, width), (expected_height, expected_width) = mask.shape, shape[:2]
        raise ValueError(
            f"the mask {path} is {width} wide and {height} high, but the images are {expected_width} wide and "
            f"{expected_height} high; give a mask of their size"
        )
    return mask[..., None]


@contextlib.contextmanager
def npz_writer(path: str | os.PathLike, name: str, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends batches uint8 [b, H, W, C] to the one array of an .npz file, which is written whole.

    path: of the file.
    name: of the array.
    shape: of the array, [N, H, W, C]; any number of channels.
    Raises ValueError for a batch of another dtype or shape, and at the end where the batches were not N images together.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    written = 0
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:

            def append(batch: np.ndarray) -> None:
                nonlocal written
                batch = np.asarray(batch)
                if batch.dtype != np.uint8 or batch.shape[1:] != shape[1:]:
                    raise ValueError(f"{path} expects batches of uint8 {shape[1:]}; this is {batch.dtype} {batch.shape[1:]}")
                file.write(np.ascontiguousarray(batch).tobytes())
                written += len(batch)

            file.write(header.getvalue())
            yield append
        if written != shape[0]:
            raise ValueError(f"{path} was to hold {shape[0]} images, and {written} were given")
