"""Files of tensors, one tensor in memory at a time."""

import functools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from ddim_jax.common import pickles
from ddim_jax.common.files import at, check_digest, whole, write_digest
from ddim_jax.common.pickles import Tensor
from ddim_jax.common.text import is_plain, shown

_DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
_DTYPES |= {"I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}  # no weights, nor is any other


def tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a safetensors file or a PyTorch checkpoint, by name; of a training checkpoint, the averaged ones.

    Raises ValueError for a file that is damaged, is not the one that PATH.sha256 was written for, or holds something else.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        return safetensors_of(path)
    check_digest(path)
    found = _state_dict(pickles.load(path), path)
    asked = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in found.values())
    if asked > path.stat().st_size:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, but its tensors take {asked}: several lie in the same place")
    return _named_plainly(found, path)


def _state_dict(content, path: pathlib.Path) -> dict[str, Tensor]:
    """The paper's training checkpoints are [model, optimizer, epoch, step, average], the last only where one was kept."""
    if isinstance(content, list) and len(content) in (4, 5):
        content = content[0] if len(content) == 4 else content[4]
    named = isinstance(content, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    if not named or not content:
        raise ValueError(
            f"{path} holds something else than a dictionary of tensors, or the paper's [model, optimizer, epoch, step, average]"
        )
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}  # which DataParallel puts in front


def safetensors_of(path: pathlib.Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name. Raises ValueError as `tensors` does."""
    check_digest(path)

    def read(name: str) -> np.ndarray:  # opened anew for each, since pages once read count as ours until it is closed
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            found = {
                name: Tensor(tuple(s.get_shape()), np.dtype(_DTYPES.get(s.get_dtype(), np.int64)), functools.partial(read, name))
                for name, s in slices.items()
            }
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({shown(str(error), 300)})") from error
    return _named_plainly(found, path)


def _named_plainly(found: dict[str, Tensor], path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors. Raises ValueError for names that no terminal should show."""
    strange = [name for name in found if not is_plain(name)]
    if strange:
        raise ValueError(f"{path} holds a tensor with the name {shown(strange[0])}; expected plain letters, fewer than 200")
    return found


def save(path: str | os.PathLike, arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes arrays, each in its dtype, as a safetensors file with metadata, and its SHA-256 into a file beside it."""
    path = at(path)
    with whole(path) as part:
        safetensors.flax.save_file(dict(arrays), part, metadata=dict(metadata))
        part.chmod(0o644)  # which the library grants to nobody else
    write_digest(path)


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, as float32, as a safetensors file: whole or not at all.

    The arrays may be transposed views: each is laid out by itself, where the library's own writer wants all of them so at
    once. The format is the length of a header in 8 bytes, the header in JSON, and the arrays, row by row.
    """
    entries: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # which diffusers looks for
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + 4 * array.size
        entries[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with whole(path) as part, open(part, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4").data)
