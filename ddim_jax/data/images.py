"""Pixels: uint8 [0, 255] on disk, float32 [-1, 1] in the network, and the grids that people look at."""

import contextlib
import io
import os
import zipfile

import jax.numpy as jnp
import numpy as np
from PIL import Image

from ddim_jax.common.files import whole


def to_float(images):
    """uint8 [0, 255] -> float32 [-1, 1], as the paper has it: no dequantisation."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def to_uint8(x):
    """float [-1, 1] -> uint8 [0, 255], clipped and rounded to the nearest value."""
    return jnp.round(jnp.clip((x + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def grid(images: np.ndarray, gap: int = 2, background: int = 128) -> np.ndarray:
    """One picture, uint8 [H', W', C], of images uint8 [rows, columns, H, W, C], or [N, H, W, C] as square as can be."""
    images = np.asarray(images)
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
    """Writes uint8 [H, W, C] as a PNG file."""
    with whole(path) as part:
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part, "PNG")


def load_mask(path: str | os.PathLike, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture of this size (H, W, C) as bool [H, W, 1]: whether each pixel is white. Raises ValueError for another size."""
    with Image.open(path) as picture:
        mask = np.asarray(picture.convert("L")) >= 128
    if mask.shape != shape[:2]:
        raise ValueError(f"{path} is a mask of height and width {mask.shape}; the images have {shape[:2]}")
    return mask[..., None]


@contextlib.contextmanager
def npz_writer(path: str | os.PathLike, name: str, shape: tuple[int, ...]):
    """Gives a function that appends batches uint8 [b, H, W, C] to the one array, of this shape [N, H, W, C], of an .npz file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            file.write(header.getvalue())
            yield lambda batch: file.write(np.ascontiguousarray(batch, np.uint8).tobytes())
