"""PyTorch checkpoints (.pt, .pth, .ckpt, .bin) without PyTorch, and without running what is in them.

Such a file is a pickle, a small program that may call anything it can import. The reader here knows the ten or so names
that tensors in dictionaries need, and refuses a file that asks for another before anything is called. torch.load with
weights_only=True would do as well; but reading weights should not take a second deep-learning library, and what may be
called can be read here in a dozen lines.

A file comes in one of two shapes. Since PyTorch 1.6 it is a zip archive: the pickle as NAME/data.pkl, every storage
(a flat piece of memory) as NAME/data/KEY. Before, it was five pickles (a magic number, a version, facts of the machine, the
object, the keys of the storages) and then the storages, each behind its length. Either way the pickle names storages by
key, and a tensor here knows where in the file its own lies: nothing is read until it is asked for.
"""

import collections
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # opens every file from before PyTorch 1.6

_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Tensor(NamedTuple):
    """A tensor that still lies in its file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class RefusedPickle(ValueError):
    """A pickle that asks for more than tensors and so could run code."""


def load(path: str | os.PathLike) -> Any:
    """What was saved, with a `Tensor` for each tensor. Raises RefusedPickle, and ValueError for a damaged or foreign file."""
    path = pathlib.Path(path)
    try:
        return (_load_zip if zipfile.is_zipfile(path) else _load_legacy)(path)
    except (RefusedPickle, OSError):
        raise
    except Exception as error:  # bytes that are not a checkpoint fail in as many ways as there are
        raise ValueError(f"{path} is damaged or not a PyTorch checkpoint ({type(error).__name__}: {error})") from error


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int  # numbers, not bytes


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers and tensors; `offsets` says at which byte of `path` each storage begins."""

    def __init__(self, file, path: pathlib.Path, offsets: dict[str, int]):
        super().__init__(file, encoding="utf-8")
        self.path, self.offsets = path, offsets
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str):
        if module == "torch" and name in _DTYPES:
            return name  # text, not the dtype: a pickle may change the objects that it is given
        allowed = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
        }
        if f"{module}.{name}" not in allowed:
            raise RefusedPickle(
                f"{self.path} asks for {module}.{name} when it is read. Tensors need nothing of the kind, and a pickle that may "
                "call what it likes can run any code: it was refused, and nothing of it was run. If you trust where it comes "
                "from, load it with torch and save its state_dict() alone"
            )
        return allowed[f"{module}.{name}"]

    def persistent_load(self, identity) -> _Storage:
        kind, type_name, key, _, size, *view = identity
        if kind != "storage" or any(view):
            raise ValueError(f"a storage of an unknown kind, {kind}, {view}")
        return self.storages.setdefault(key, _Storage(key, np.dtype(_DTYPES[type_name]), size))

    def _tensor(self, storage: _Storage, offset: int, shape: tuple, stride: tuple, *_) -> Tensor:
        """A strided view of a storage. Raises ValueError where it would reach outside."""
        span = 0 if 0 in shape else 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if min((offset, *shape, *stride)) < 0 or math.prod(shape) > storage.size or offset + span > storage.size:
            raise ValueError(f"a tensor of shape {shape} and strides {stride} at {offset} in {storage.size} numbers")

        def read() -> np.ndarray:
            size = storage.dtype.itemsize
            values = np.fromfile(self.path, storage.dtype, span, offset=self.offsets[storage.key] + offset * size)
            if len(values) != span:
                raise ValueError(f"{self.path} became shorter while it was read")
            return np.lib.stride_tricks.as_strided(values, shape, [step * size for step in stride])

        return Tensor(shape, storage.dtype, read)

    def _parameter(self, tensor: Tensor, *_) -> Tensor:
        return tensor


def _load_zip(path: pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        damaged = archive.testzip()  # every storage against its checksum
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")
        (index,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        offsets: dict[str, int] = {}
        unpickler = _Unpickler(io.BytesIO(archive.read(index)), path, offsets)
        content = unpickler.load()
        for storage in unpickler.storages.values():
            entry = archive.getinfo(f"{index.removesuffix('.pkl')}/{storage.key}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != storage.size * storage.dtype.itemsize:
                raise ValueError(f"{entry.filename} has {entry.file_size} bytes; expected {storage}, not compressed")
            file.seek(entry.header_offset + 26)  # the lengths of two fields that precede the bytes
            offsets[storage.key] = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return content


def _load_legacy(path: pathlib.Path) -> Any:
    with open(path, "rb") as file:
        offsets: dict[str, int] = {}
        magic, _, _ = (_Unpickler(file, path, offsets).load() for _ in range(3))
        if magic != _MAGIC:
            raise ValueError("it does not begin as one")
        unpickler = _Unpickler(file, path, offsets)
        content = unpickler.load()
        for key in _Unpickler(file, path, offsets).load():
            storage = unpickler.storages[key]
            (size,) = struct.unpack("<q", file.read(8))
            offsets[key] = file.tell()
            end = file.seek(size * storage.dtype.itemsize, os.SEEK_CUR)
            if size != storage.size or end > path.stat().st_size:
                raise ValueError(f"{size} numbers up to byte {end} of {path.stat().st_size}; expected {storage}")
    return content
