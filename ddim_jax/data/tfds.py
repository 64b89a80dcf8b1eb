"""Data sets of TensorFlow Datasets (TFDS) as sources, read without TensorFlow; preparing them needs it, once.

The record files must be array_record, the format of TFDS that gives random access. `prepare` writes it:

    python -m experiments.prepare --name=celeb_a --directory=DIR

Names: 'cifar10', 'celeb_a', 'lsun/bedroom', 'lsun/church_outdoor', or any other of www.tensorflow.org/datasets/catalog
whose examples have an 'image'.
"""

import difflib
import functools
import io
import os
import types
from collections.abc import Iterator

import numpy as np

from ddim_jax.data import decoding, extras


class TfdsImages:
    """The images of a prepared TFDS data set: source[i] -> uint8 [H, W, C], safe to use from threads.

    split may be a part, as TFDS writes it: 'train[:90%]'. directory is TFDS's data_dir; None is its default,
    $TFDS_DATA_DIR or ~/tensorflow_datasets. `fit` holds image_size, channels and crop, as `decoding.fit` takes them.
    Raises ValueError for an unknown name or split or examples without images, FileNotFoundError where the data set is
    not prepared, or not as array_record, ModuleNotFoundError without TFDS.
    """

    def __init__(self, name: str, split: str, directory: str | os.PathLike | None, **fit):
        tfds = extras.require("tensorflow_datasets", "tfds")
        builder = _builder(name, directory)
        command = f"python -m experiments.prepare --name={name}" + (f" --directory={directory}" if directory else "")
        if not builder.is_prepared():
            raise FileNotFoundError(f"the data set {name!r} is not prepared: {builder.data_path} does not hold it; prepare it with\n    {command}")
        if not isinstance(builder.info.features.get("image"), tfds.features.Image):
            raise ValueError(f"the examples of {name!r} have no 'image'; they have {', '.join(builder.info.features)}")
        try:
            # Decoding is ours, so that pixels do not depend on which of OpenCV and Pillow TFDS finds.
            self._records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise FileNotFoundError(
                f"{builder.data_path} holds {name!r} as {builder.info.file_format.value}, which has no random access; "
                f"expected array_record. Move it away, or choose another directory, and prepare it with\n    {command}"
            ) from error
        self._name = f"{name}, split {split!r}"
        self._fit = fit

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> np.ndarray:
        return decoding.read(io.BytesIO(self._records[i]["image"]), f"example {i} of {self._name},", **self._fit)


def prepare(name: str, directory: str | os.PathLike | None) -> str:
    """Downloads a data set and writes it as array_record; returns the folder that holds it. Needs TensorFlow.

    Raises ModuleNotFoundError without the extra `ddim_jax[prepare]`, ValueError for an unknown name.
    """
    extras.require("tensorflow", "prepare")
    builder = _builder(name, directory, file_format="array_record")
    if name.startswith("lsun/"):
        # TFDS reads LSUN through tensorflow_io, which ends at TensorFlow 2.16: its LMDB files are read here.
        builder._generate_examples = functools.partial(_lsun_examples, extras.require("lmdb", "prepare"))
    builder.download_and_prepare()
    return str(builder.data_path)


def _lsun_examples(lmdb: types.ModuleType, extracted_dir: str, file_path: str) -> Iterator[tuple[int, dict]]:
    with lmdb.open(os.path.join(extracted_dir, file_path), readonly=True, lock=False) as database, database.begin() as reading:
        for i, (key, image) in enumerate(reading.cursor()):
            yield i, {"id": key.decode(), "image": io.BytesIO(image)}


def _builder(name: str, directory: str | os.PathLike | None, **options):
    tfds = extras.require("tensorflow_datasets", "tfds")
    try:
        builder = tfds.builder(name, data_dir=directory, **options)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"config.data.name is {name!r}; expected 'mnist_5k', 'folder' or a data set of TFDS "
            f"(www.tensorflow.org/datasets/catalog).{hint}"
        ) from None
    if "/" not in name and len(builder.BUILDER_CONFIGS) > 1:
        kinds = ", ".join(config.name for config in builder.BUILDER_CONFIGS)
        raise ValueError(f"config.data.name is {name!r}, which is several data sets; write {name}/KIND with KIND one of {kinds}")
    return builder
