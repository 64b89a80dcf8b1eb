"""Data sets of TensorFlow Datasets (TFDS) as sources, read without TensorFlow; preparing them needs it, once.

The record files must be array_record, the format of TFDS that gives random access. `prepare` writes it:

    ddim-prepare --name=celeb_a --directory=DIR

Names: 'cifar10', 'celeb_a', 'lsun/bedroom', 'lsun/church_outdoor', or any other of www.tensorflow.org/datasets/catalog
whose examples have an 'image'.
"""

import difflib
import functools
import io
import os
import pathlib
import shutil
import types
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ddim_jax.common import extras
from ddim_jax.data import decoding


class TfdsImages:
    """The images of a prepared TFDS data set: source[i] -> uint8 [H, W, C], safe to use from threads.

    name: that of the data set.
    split: 'train', ..., or a part of one, as TFDS writes it: 'train[:90%]'.
    directory: TFDS's data_dir; None is its default, $TFDS_DATA_DIR or ~/tensorflow_datasets.
    form: what every image becomes.
    Raises ValueError for an unknown name or split, examples without images or a format other than array_record,
    FileNotFoundError where the data set is not prepared, ModuleNotFoundError without TFDS. source[i] raises ValueError for an
    image that cannot be read or does not fit.
    """

    def __init__(self, name: str, split: str, directory: str | os.PathLike | None, form: decoding.Form):
        self._records = _records(name, split, directory)
        self._name, self._form = f"{name}, split {split!r}", form

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> np.ndarray:
        return decoding.read(io.BytesIO(self._records[i]["image"]), f"example {i} of {self._name},", self._form)


def fingerprint(name: str, split: str, directory: str | os.PathLike | None) -> dict[str, str | int]:
    """What a prepared split is known by: its version and how many examples it has. Raises what `TfdsImages` raises."""
    records = _records(name, split, directory)
    return {"version": str(_builder(name, directory).version), "count": len(records)}


def labels(name: str, split: str, directory: str | os.PathLike | None) -> np.ndarray:
    """The 'label' of each example of `TfdsImages(name, split, directory, ...)`: int [N].

    Raises ValueError where the examples have none, and what `TfdsImages` raises.
    """
    records = _records(name, split, directory)
    if "label" not in records[0]:
        raise ValueError(f"the examples of {name!r} have no 'label', so their classes are not known; train without classes")
    return np.array([record["label"] for record in records])


def _records(name: str, split: str, directory: str | os.PathLike | None) -> Sequence[dict]:
    tfds = extras.require("tensorflow_datasets", "tfds")
    builder = _builder(name, directory)
    if not builder.is_prepared():
        raise FileNotFoundError(f"{name!r} is not prepared in {builder.data_path}; {_how(name, directory)}")
    _check_format(builder, name, directory)
    features = dict(builder.info.features)
    if not isinstance(features.get("image"), tfds.features.Image):
        raise ValueError(f"the examples of {name!r} have no 'image'; they have {', '.join(features)}")
    # Decoding is ours, so that pixels do not depend on which of OpenCV and Pillow TFDS finds.
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def prepare(name: str, directory: str | os.PathLike | None) -> str:
    """Downloads a data set and writes it as array_record; returns the folder that holds it. Needs TensorFlow.

    Files that lie in downloads/manual of `directory` (TFDS's data_dir, as for `TfdsImages`), under the names that TFDS knows
    them by, are taken instead of downloads.
    Raises ConnectionError where a file cannot be downloaded, and ValueError where one is not what TFDS expects: both say which
    files belong there. ModuleNotFoundError without the extra `ddim_jax[prepare]`, ValueError for an unknown name, or where the
    data set is there already in another format.
    """
    extras.require("tensorflow", "prepare")
    tfds = extras.require("tensorflow_datasets", "tfds")
    import requests  # TFDS brings it
    from tensorflow_datasets.core.download import download_manager, downloader

    builder = _builder(name, directory)
    if builder.is_prepared():
        _check_format(builder, name, directory)
    if name.startswith("lsun/"):
        # TFDS reads LSUN through tensorflow_io, which ends at TensorFlow 2.16: its LMDB files are read here.
        builder._generate_examples = functools.partial(_lsun_examples, extras.require("lmdb", "prepare"))
        split = builder._split_generators
        builder._split_generators = lambda manager: split(_Unzipping(manager, builder.data_dir_root / "downloads" / "extracted"))
    downloader.MAX_RETRIES = 2  # TFDS has no option for it, and tries ten times, over some minutes
    config = tfds.download.DownloadConfig(try_download_gcs=False)  # no copy there is array_record
    try:
        builder.download_and_prepare(file_format="array_record", download_config=config)
    except download_manager.NonMatchingChecksumError as error:
        raise ValueError(_by_hand(builder, name, error)) from error
    except (requests.RequestException, tfds.download.DownloadError) as error:
        raise ConnectionError(_by_hand(builder, name, error)) from error
    except ValueError as error:
        if "confirmation link" not in str(error):  # of Google Drive, which shows a page instead where it refuses
            raise
        raise ConnectionError(_by_hand(builder, name, error)) from error
    return str(builder.data_path)


def _by_hand(builder: Any, name: str, error: Exception) -> str:
    """What to do where files cannot be downloaded: which they are, where they belong, and what they must be."""
    files, kind = builder.url_infos or {}, builder.builder_config.name if builder.builder_config else ""
    files = {url: info for url, info in files.items() if kind in url} or files  # LSUN's list has all kinds of rooms
    listed = "".join(
        f"\n  {info.filename}: {int(info.size)} bytes, SHA-256 {info.checksum}\n    {url}" for url, info in files.items()
    )
    return (
        f"{name!r} cannot be prepared: {str(error).splitlines()[0]}\n"
        f"Fetch its files in another way, put them into {builder.data_dir_root / 'downloads' / 'manual'} under the names below, "
        f"and run the same command again. A file counts only where it has this size and SHA-256 (sha256sum FILE):{listed}"
    )


class _Unzipping:
    """In the place of TFDS's download manager, which unzips by holding a file in memory: LSUN's largest takes 46 GB.

    It leaves what was unzipped whole, and takes it again.
    """

    def __init__(self, manager: Any, folder: pathlib.Path):
        self._manager, self._folder = manager, folder

    def download_and_extract(self, urls: dict[str, str]) -> dict[str, str]:
        return {split: self._unzip(path) for split, path in self._manager.download(urls).items()}

    def _unzip(self, archive: pathlib.Path) -> str:
        target = self._folder / archive.stem
        if not target.exists():
            part = self._folder / f"{archive.stem}.part"
            shutil.rmtree(part, ignore_errors=True)
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(part)
            part.rename(target)
        return str(target)


def _lsun_examples(lmdb: types.ModuleType, extracted_dir: str, file_path: str) -> Iterator[tuple[int, dict]]:
    with lmdb.open(os.path.join(extracted_dir, file_path), readonly=True, lock=False) as database, database.begin() as reading:
        for i, (key, image) in enumerate(reading.cursor()):
            yield i, {"id": key.decode(), "image": io.BytesIO(image)}


def _how(name: str, directory: str | os.PathLike | None) -> str:
    command = f"ddim-prepare --name={name}" + (f" --directory={directory}" if directory else "")
    return f"prepare it with\n    {command}"


def _check_format(builder: Any, name: str, directory: str | os.PathLike | None) -> None:
    formats = {each.value for each in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise ValueError(
            f"{builder.data_path} holds {name!r} as {', '.join(formats)}, which has no random access; expected array_record. "
            f"Move it away, or choose another directory, and {_how(name, directory)}"
        )


def _builder(name: str, directory: str | os.PathLike | None) -> Any:
    tfds = extras.require("tensorflow_datasets", "tfds")
    try:
        builder = tfds.builder(name, data_dir=directory)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"data.name is {name!r}; expected 'mnist_5k', 'folder' or a data set of TFDS "
            f"(www.tensorflow.org/datasets/catalog).{hint}"
        ) from None
    if "/" not in name and len(builder.BUILDER_CONFIGS) > 1:
        kinds = ", ".join(config.name for config in builder.BUILDER_CONFIGS)
        raise ValueError(f"data.name is {name!r}, which is several data sets; write {name}/KIND with KIND one of {kinds}")
    return builder
