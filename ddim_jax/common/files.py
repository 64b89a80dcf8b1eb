"""Files and folders that are written whole or not at all, and the hashes that lie beside them."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any, cast

from ddim_jax.common.extras import require
from ddim_jax.common.text import is_plain, shown

_BUCKETS = "gs://"  # of Google Cloud Storage


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


def local_or_bucket(path: str) -> str:
    """As `local`, but what lies in a bucket of Google Cloud Storage, gs://BUCKET/PATH, is left as it is.

    Raises ValueError for other places and for a bucket that may not be read, and ModuleNotFoundError where the packages for
    buckets are not installed.
    """
    if not in_bucket(path):
        return local(path)
    place = at(path)
    if len(place.parts) < 4:  # /, gs, bucket, name
        raise ValueError(f"{path} names no place in a bucket; expected {_BUCKETS}BUCKET/FOLDER")
    try:
        place.exists()
        _ask_for_bucket(place)
    except Exception as error:  # clients raise what their layers raise
        raise ValueError(f"{path} cannot be read ({_reason(error, place)}): see to it that this machine may") from error
    return os.fspath(place)


def _ask_for_bucket(path: pathlib.Path) -> None:
    """Asks what Orbax asks before it reads or removes a checkpoint, which who may use objects alone is not told."""
    from google.cloud import storage

    if storage.Client().lookup_bucket(path.parts[2]) is None:
        raise FileNotFoundError


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path begins with gs://."""
    return os.fspath(path).startswith(_BUCKETS)


def at(path: str | os.PathLike) -> pathlib.Path:
    """A path of this machine, or of a bucket, gs://BUCKET/PATH, where it does what a pathlib.Path does, except to append.

    Raises ModuleNotFoundError where it is of a bucket, and the packages for that are not installed.
    """
    return cast(pathlib.Path, _epath().Path(path)) if in_bucket(path) else pathlib.Path(path)


def _epath() -> Any:
    require("gcsfs", "gcs")
    import fsspec
    from etils import epath

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it raises says it once
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False  # TensorStore and other hosts write there, too
    os.environ.setdefault("EPATH_USE_TF", "false")  # TensorFlow, where it is installed, has a client of its own
    return epath


def _file_system() -> Any:
    _epath()
    import fsspec

    return fsspec.filesystem("gcs")


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which becomes `path` once all is written: a reader sees the whole file or none."""
    path = at(path)
    if in_bucket(path):  # whose objects are whole or not there
        with tempfile.TemporaryDirectory() as folder:
            part = pathlib.Path(folder) / path.name
            yield part
            put(part, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def put(file: pathlib.Path, path: pathlib.Path) -> None:
    """Copies a file of this machine into a bucket. Raises OSError, in one line, where that fails."""
    try:
        _file_system().put_file(str(file), str(path))
    except Exception as error:  # gcsfs raises what its layers raise
        raise OSError(f"{path} cannot be written ({_reason(error, path)})") from error


def move(folder: pathlib.Path, place: pathlib.Path) -> None:
    """Moves a folder to a place where nothing is; in a bucket, object by object."""
    if in_bucket(folder):
        _file_system().mv(str(folder), str(place), recursive=True)
    else:
        place.parent.mkdir(exist_ok=True)
        folder.rename(place)


@contextlib.contextmanager
def here(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The file as one of this machine: itself, or a copy of an object and of its .sha256, for as long as the context lasts.

    A ValueError within, in which the copy is named, is raised with the name of the object.
    """
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        for each in (path, path.with_name(path.name + ".sha256")):
            if each == path or each.exists():
                _file_system().get_file(str(each), str(copy.with_name(each.name)))
        try:
            yield copy
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(path))) from error


def _reason(error: Exception, path: pathlib.Path) -> str:
    """What a bucket refuses for, in a line."""
    if isinstance(error, FileNotFoundError):
        return f"there is no bucket {path.parts[2]}"
    return (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")  # before it are addresses of requests


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
    path = at(path)
    place = path if folder else path.parent
    if in_bucket(path):
        probe = place / f".{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"")
            probe.unlink()
            _ask_for_bucket(path)
        except Exception as error:  # clients raise what their layers raise
            raise ValueError(f"the output {path} cannot be written to ({_reason(error, path)}): give another") from error
        return
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
