"""PyTorch checkpoints (.pt, .pth, .ckpt, .bin) without PyTorch, and without running what is in them.

Such a file is a pickle, a small program that may call anything it can import. The machine here runs the two dozen instructions
that tensors in dictionaries take, knows the few names that they need, and refuses all else. It runs in Python, so that
Ctrl-C ends it, and what a file makes it keep is bounded by the size of the file. torch.load with weights_only=True would do as
well; but reading weights should not take a second deep-learning library, and all that can happen can be read here.

A file comes in one of two shapes. Since PyTorch 1.6 it is a zip archive: the pickle as NAME/data.pkl, every storage
(a flat piece of memory) as NAME/data/KEY. Before, it was five pickles (a magic number, a version, facts of the machine, the
object, the keys of the storages) and then the storages, each behind its length. Either way the pickle names storages by
key, and a tensor here knows where in the file its own lies: nothing is read until it is asked for.
"""

import io
import math
import os
import pathlib
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddim_jax.common.text import shown

_MAGIC = 0x1950A86A20F9469CFC6C  # opens every file from before PyTorch 1.6
_LONGEST = 2**21  # bytes of a pickle; that of a large network with its optimizer takes half a million

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
        reason = shown(str(error), 300)
        raise ValueError(f"{path} is damaged or not a PyTorch checkpoint ({type(error).__name__}: {reason})") from error


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int  # numbers, not bytes


_MARK = object()  # lies on the stack below the things that the next instruction takes together
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_TELLS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "INT", "FLOAT", "BINUNICODE", "SHORT_BINUNICODE", "STRING"}


class _Call(NamedTuple):
    """What a name in a pickle stands for: of this class alone can things be called."""

    function: Callable[..., Any]


class _Unpickler:
    """Builds dictionaries, lists, numbers and tensors; `offsets` says at which byte of `path` each storage begins."""

    def __init__(self, file: IO[bytes], path: pathlib.Path, offsets: dict[str, int]):
        self.file, self.path, self.offsets = file, path, offsets
        self.storages: dict[str, _Storage] = {}

    def load(self) -> Any:
        """Runs the pickle that the file is at: what it leaves."""
        stack: list[Any] = []
        memo: dict[int, Any] = {}

        def since_mark() -> list[Any]:
            place = next(i for i in reversed(range(len(stack))) if stack[i] is _MARK)
            taken = stack[place + 1 :]
            del stack[place:]
            return taken

        begin = self.file.tell()
        argument: Any
        for instruction, argument, place in pickletools.genops(self.file):
            name = instruction.name
            if (place or 0) - begin > _LONGEST:
                raise ValueError(f"its pickle has more than {_LONGEST} bytes")
            if name in _TELLS:
                stack.append(argument)
            elif name in _VALUES:
                stack.append(_VALUES[name])
            elif name in ("EMPTY_DICT", "EMPTY_LIST"):
                stack.append({} if name == "EMPTY_DICT" else [])
            elif name == "MARK":
                stack.append(_MARK)
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in _TUPLES:
                first = len(stack) - _TUPLES[name]
                stack[first:] = [tuple(stack[first:])]
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name in ("SETITEM", "SETITEMS"):
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                stack[-1].update(_keyed(zip(items[::2], items[1::2], strict=True)))
            elif name in ("APPEND", "APPENDS"):
                items = since_mark() if name == "APPENDS" else [stack.pop()]
                stack[-1].extend(items)
            elif name in ("GLOBAL", "INST"):
                stack.append(self._named(*argument.split(" ")))
            elif name == "STACK_GLOBAL":
                stack[-2:] = [self._named(*stack[-2:])]
            elif name == "REDUCE":
                called, arguments = stack.pop(-2), stack.pop()
                if not isinstance(called, _Call):
                    raise ValueError("it calls what cannot be called")
                stack.append(called.function(*arguments))
            elif name == "BINPERSID":
                stack.append(self._storage(*stack.pop()))
            elif name == "BUILD":  # of dictionaries and parameters, whose attributes are no weights
                stack.pop()
                if not isinstance(stack[-1], dict | Tensor):
                    raise ValueError("it sets attributes of what is no dictionary and no tensor")
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"it holds the instruction {name}, which tensors do not need")
        (content,) = stack
        return content

    def _named(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it asks for a name that is no text")
        if module == "torch" and name in _DTYPES:
            return name
        allowed: dict[str, Callable] = {
            "collections.OrderedDict": _keyed,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }
        asked = f"{module}.{name}"
        if asked not in allowed:
            raise RefusedPickle(
                f"{self.path} asks for {shown(asked)[1:-1]} when it is read. Tensors need nothing of the kind, and a pickle that "
                "may call what it likes can run any code: it was refused, and nothing of it was run. If you trust where it comes "
                "from, load it with torch and save its state_dict() alone"
            )
        return _Call(allowed[asked])

    def _storage(self, kind: Any, type_name: Any, key: Any, _: Any, size: Any, *view: Any) -> _Storage:
        if kind != "storage" or any(view) or not isinstance(type_name, str) or not isinstance(key, str):
            raise ValueError("it names a storage of an unknown kind")
        (size,) = _sizes((size,))
        return self.storages.setdefault(key, _Storage(key, np.dtype(_DTYPES[type_name]), size))

    def _tensor(self, storage: _Storage, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
        """A strided view of a storage. Raises ValueError where it would reach outside."""
        (offset,), shape, stride = _sizes((offset,)), _sizes(shape), _sizes(stride)
        span = 0 if 0 in shape else 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if math.prod(shape) > storage.size or offset + span > storage.size:
            raise ValueError(f"a tensor of shape {shape} and strides {stride} at {offset} in {storage.size} numbers")

        def read() -> np.ndarray:
            size = storage.dtype.itemsize
            values = np.fromfile(self.path, storage.dtype, span, offset=self.offsets[storage.key] + offset * size)
            if len(values) != span:
                raise ValueError(f"{self.path} became shorter while it was read")
            return np.lib.stride_tricks.as_strided(values, shape, [step * size for step in stride])

        return Tensor(shape, storage.dtype, read)


def _keyed(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """A dictionary. Raises ValueError for keys that are no texts and no numbers: to look up a tuple of tuples can take years."""
    made = {}
    for key, value in pairs:
        if not isinstance(key, str | int | float | None):
            raise ValueError(f"it has a key of the kind {type(key).__name__}")
        made[key] = value
    return made


def _sizes(values: Any) -> tuple[int, ...]:
    """The values, once they are whole numbers from 0 that a file can have so many bytes of, and at most 8."""
    if not isinstance(values, tuple) or len(values) > 8 or not all(type(n) is int and 0 <= n < 2**60 for n in values):
        raise ValueError("a tensor's sizes, strides and offset must be whole numbers from 0")
    return values


def _load_zip(path: pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
            raise ValueError("it is compressed, as no PyTorch checkpoint is")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its parts are longer than the file")
        damaged = archive.testzip()  # every storage against its checksum
        if damaged:
            raise ValueError(f"the checksum of {damaged!a} is wrong")
        (index,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        offsets: dict[str, int] = {}
        unpickler = _Unpickler(io.BytesIO(archive.read(index)), path, offsets)  # as much memory as the file has bytes, at most
        content = unpickler.load()
        for storage in unpickler.storages.values():
            entry = archive.getinfo(f"{index.removesuffix('.pkl')}/{storage.key}")
            if entry.file_size != storage.size * storage.dtype.itemsize:
                raise ValueError(f"a storage has {entry.file_size} bytes; expected {storage.size} of {storage.dtype}")
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
        keys = _Unpickler(file, path, offsets).load()
        known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not known or sorted(keys) != sorted(unpickler.storages):
            raise ValueError("its storages are not those that its tensors name")
        for key in keys:
            storage = unpickler.storages[key]
            (size,) = struct.unpack("<q", file.read(8))
            offsets[key] = file.tell()
            end = offsets[key] + size * storage.dtype.itemsize
            if size != storage.size or end > path.stat().st_size:
                raise ValueError(f"{size} numbers up to byte {end} of {path.stat().st_size}; expected {storage.size} numbers")
            file.seek(end)
    return content
