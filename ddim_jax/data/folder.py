"""A folder of the user's own images as a source, and their classes by subfolder."""

import os

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
    Raises FileNotFoundError where there is no such directory, ValueError where none is given or it holds no image.
    """
    if directory is None:
        raise ValueError("data.name is 'folder', but data.directory is not set; set it to your folder of images")
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"data.directory is {str(directory)!r}, and there is no such folder")
    found, seen, waiting = [], set(), [os.fspath(directory)]
    while waiting:  # os.walk stops at linked folders: they wait until all that are no links are read
        for place, folders, names in os.walk(waiting.pop(0)):
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


def labels(directory: str | os.PathLike | None) -> np.ndarray:
    """The class of each image of `image_paths`, int32 [N]: the number of the subfolder that holds it, in alphabetical order.

    Raises ValueError for an image that is in no subfolder, and what `image_paths` raises.
    """
    classes = []
    for path in image_paths(directory):
        first, *rest = os.path.relpath(path, directory).split(os.sep)
        if not rest:
            raise ValueError(f"{path} is in no subfolder, so its class is not known: expected a folder for each class")
        classes.append(first)
    return np.unique(classes, return_inverse=True)[1].astype(np.int32)
