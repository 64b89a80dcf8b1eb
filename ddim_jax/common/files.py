"""Files and folders that are written whole or not at all, and the hashes that lie beside them."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from ddim_jax.common.text import is_plain, shown


def local(path: str) -> str:
    """A path that somebody wrote, as this machine has it: `~` is the home folder, and file:// is left out.

    Raises ValueError for a place that is no path, like gs://bucket/run.
    """
    scheme, is_url, rest = path.partition("://")
    if is_url and scheme != "file":
        raise ValueError(
            f"{path} is no path on this machine: mount what {scheme}:// names (a bucket, with gcsfuse, s3fs or the like), "
            "and give the path of the mount"
        )
    return os.path.expanduser(rest if is_url else path)


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which becomes `path` once all is written: a reader sees the whole file or none."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a folder to fill, which becomes `folder` once all is written.

    Raises FileExistsError where `folder` already holds something.
    """
    folder = pathlib.Path(folder)
    check_new(folder)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    try:
        yield part
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_new(folder: pathlib.Path) -> None:
    """Raises FileExistsError where there is a file, or a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} already holds something: give a folder that is new or empty")


def write_digest(path: pathlib.Path) -> None:
    """Writes the SHA-256 of a file into PATH.sha256 beside it, as `sha256sum` does."""
    with whole(path.with_name(path.name + ".sha256")) as part:
        part.write_text(f"{digest(path)}  {path.name}\n")


def check_digest(path: pathlib.Path) -> None:
    """Raises ValueError where a file PATH.sha256 lies beside this one and was written for another."""
    recorded = path.with_name(path.name + ".sha256")
    if recorded.exists() and recorded.read_text().split()[0] != digest(path):
        raise ValueError(f"{path} is not the file that {recorded.name} was written for: it is damaged, fetch it again")


def digest(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(path: str | os.PathLike, folder: bool = False) -> None:
    """Raises ValueError unless a file can be written at `path`, or, where `path` is to be a folder, files in it.

    Folders that are missing are made by the writing itself; here the nearest that is there is tried, and nothing is left behind.
    """
    path = pathlib.Path(path)
    place = path if folder else path.parent
    while not place.exists() and not place.is_symlink():
        place = place.parent
    try:
        if not folder and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ValueError(f"the output {path} cannot be written to ({error.strerror}): give another") from error


def read_json(text: str | bytes, source: str) -> dict[str, Any]:
    """The fields of an object in JSON. Raises ValueError, which calls the place `source`, where it is none of plain names."""
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is damaged or not a configuration in JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{source} is damaged or not a configuration in JSON (it holds a {type(found).__name__}, no object)")
    strange = [name for name in found if not is_plain(name)]
    if strange:
        raise ValueError(f"{source} is no configuration: it has a field {shown(strange[0])}")
    return found
