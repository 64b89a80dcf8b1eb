"""A folder of the user's own images as a source, and their classes by subfolder."""

import concurrent.futures
import hashlib
import itertools
import os
from typing import NoReturn

import numpy as np

from ddim_jax.data import decoding

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class Folder:
    """All images under a directory, in the order of `image_paths`: folder[i] -> uint8 [H, W, C], safe to use from threads.

    Raises what `image_paths` raises; folder[i] raises ValueError, naming the file, where it cannot be read or does not fit.
    """

    def __init__(self, directory: str | os.PathLike | None, form: decoding.Form):
        self.paths = image_paths(directory)
        self._form = form

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        return decoding.read(self.paths[i], self.paths[i], self._form)


def image_paths(directory: str | os.PathLike | None) -> list[str]:
    """The image files under a directory, sorted by path.

    Hidden files and folders are left out. Links are followed, but no folder is read twice, however many links lead to it.
    Raises FileNotFoundError where there is no such directory, ValueError where none is given or it holds no image, OSError
    where a part of it cannot be read.
    """
    if directory is None:
        raise ValueError("data.name is 'folder', but data.directory is not set; set it to your folder of images")
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"data.directory is {str(directory)!r}, and there is no such folder")
    found, seen, waiting = [], set(), [os.fspath(directory)]
    while waiting:  # os.walk stops at linked folders: they wait until all that are no links are read
        for place, folders, names in os.walk(waiting.pop(0), onerror=_fail):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            images = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
            found += [os.path.join(place, name) for name in images]
    if not found:
        raise ValueError(f"no image under {str(directory)!r}; expected files that end in {', '.join(SUFFIXES)}")
    return sorted(found)


def labels(paths: list[str], directory: str | os.PathLike | None) -> np.ndarray:
    """The class of each of the `image_paths` of a directory, int32 [N]: the number of its subfolder, in alphabetical order.

    Raises ValueError for an image that is in no subfolder.
    """
    classes = []
    for name in _names(paths, directory):
        first, inside, _ = name.partition(os.sep)
        if not inside:
            path = os.path.join(directory or "", name)
            raise ValueError(f"{path} is in no subfolder, so its class is not known: expected a folder for each class")
        classes.append(first)
    numbers = {name: i for i, name in enumerate(sorted(set(classes)))}
    return np.array([numbers[name] for name in classes], np.int32)


def digest(paths: list[str], directory: str | os.PathLike | None) -> str:
    """16 hex digits of the names below a directory of its `image_paths` and their sizes in bytes, in order.

    A copy of the folder has the same: neither times nor the place count. Nor do the bytes themselves, which would take long.
    """
    parts = [paths[start : start + 1000] for start in range(0, len(paths), 1000)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # on a network, each question takes its time
        sizes = itertools.chain.from_iterable(pool.map(_sizes, parts))
        found = hashlib.sha256()
        for name, size in zip(_names(paths, directory), sizes, strict=True):
            found.update(os.fsencode(f"{name}\0{size}\n"))
    return found.hexdigest()[:16]


def _sizes(paths: list[str]) -> list[int]:
    return [os.path.getsize(path) for path in paths]


def _names(paths: list[str], directory: str | os.PathLike | None) -> list[str]:
    """The `image_paths` of a directory, as they are named below it."""
    start = len(os.path.join(directory or "", ""))
    return [path[start:] for path in paths]


def _fail(error: OSError) -> NoReturn:
    raise error
