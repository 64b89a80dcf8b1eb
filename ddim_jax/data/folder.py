"""A folder of the user's own images as a source."""

import os

import numpy as np

from ddim_jax.data import decoding

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class Folder:
    """All images under a directory, in the order of their paths: folder[i] -> uint8 [H, W, C], safe to use from threads.

    `fit` holds image_size, channels and crop, as `decoding.fit` takes them. Hidden files and folders are left out, links are
    followed.
    Raises FileNotFoundError where there is no such directory, ValueError where it holds no image; folder[i] raises
    ValueError, naming the file, where it cannot be read or does not fit.
    """

    def __init__(self, directory: str | os.PathLike | None, **fit):
        if directory is None:
            raise ValueError(
                "config.data.name is 'folder', but config.data.directory is not set; set it to your folder of images"
            )
        if not os.path.isdir(directory):
            raise FileNotFoundError(f"config.data.directory is {str(directory)!r}, and there is no such folder")
        self.paths = sorted(
            os.path.join(place, name)
            for place, _, names in os.walk(directory, followlinks=True)
            for name in names
            if name.lower().endswith(SUFFIXES)
            and f"{os.sep}." not in os.sep + os.path.relpath(os.path.join(place, name), directory)
        )
        if not self.paths:
            raise ValueError(f"no image under {str(directory)!r}; expected files that end in {', '.join(SUFFIXES)}")
        self._directory, self._fit = directory, fit

    def labels(self) -> np.ndarray:
        """int [N]: the number of the subfolder that holds each image, in alphabetical order.

        Raises ValueError for an image that is in none.
        """
        parts = [os.path.relpath(path, self._directory).split(os.sep) for path in self.paths]
        for path, (first, *rest) in zip(self.paths, parts):
            if not rest:
                raise ValueError(f"{path} is in no subfolder, so its class is not known: expected a folder for each class")
        return np.unique([first for first, *_ in parts], return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        return decoding.read(self.paths[i], self.paths[i], **self._fit)
