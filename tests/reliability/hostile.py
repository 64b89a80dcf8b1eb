"""Files that ask for what no file of weights should: small ones, each made by a function of the folder to write into.

`CASES` names them all, with a part of the message that each must end in. They are written by hand, byte by byte: no library
would write them. None needs torch.
"""

import io
import json
import math
import pathlib
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ddim_jax import configuration, weights
from ddim_jax.interop import to_diffusers
from tests import tiny

CODE = "left_behind"  # the name of a file that one would leave behind which runs what it holds


class Case(NamedTuple):
    """A file to try."""

    write: Callable[[pathlib.Path], pathlib.Path]  # of an empty folder: the path to read
    message: str


# PyTorch's checkpoints.


def op(value: Any) -> bytes:
    """The instructions of a pickle that leave a value; bytes are instructions themselves."""
    match value:
        case bytes():
            return value
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return (
                b"J" + struct.pack("<i", value) if abs(value) < 2**31 else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
            )
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        case tuple():
            return b"(" + b"".join(map(op, value)) + b"t"
        case list():
            return b"](" + b"".join(map(op, value)) + b"e"
        case dict():
            return b"}(" + b"".join(op(key) + op(item) for key, item in value.items()) + b"u"
    raise TypeError(value)


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def called(name: str, *arguments: Any) -> bytes:
    return named(name) + op(arguments) + b"R"


def tensor(shape=(4,), stride=(1,), offset: Any = 0, key: Any = "0", size: Any = 4, kind: Any = None) -> bytes:
    storage = op(("storage", named("torch.FloatStorage") if kind is None else kind, key, "cpu", size)) + b"Q"
    return called("torch._utils._rebuild_tensor_v2", storage, offset, shape, stride, False, called("collections.OrderedDict"))


def whole(content: Any) -> bytes:
    return b"\x80\x02" + op(content) + b"."


def zipped(pickle: bytes, storages={"0": bytes(16)}, compression=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return file.getvalue()


def legacy(pickle: bytes, keys: Any = ["0"], sizes=(4,)) -> bytes:
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    return magic + whole(1001) + whole({}) + pickle + whole(keys) + b"".join(struct.pack("<q", n) + bytes(16) for n in sizes)


def bomb(depth: int = 60, leaf: Any = 0) -> bytes:
    """A tuple of twice the same tuple, again and again: 2**depth to look at, a few hundred bytes to write."""
    return op(leaf) + b"".join(b"q%c" % i + b"h%c" % i + b"\x86" for i in range(depth))


def in_dict(key: bytes, value: Any = 1) -> bytes:
    return b"}" + key + op(value) + b"s"


def many(piece: bytes, mebibytes: int) -> bytes:
    return b"\x80\x02(" + piece * (mebibytes * 2**20 // len(piece)) + b"l."


PICKLES = {
    "a key of nested tuples": (whole(in_dict(bomb())), "a key of the kind tuple"),
    "a key of nested tuples within": (whole({"state": in_dict(bomb(), 1)}), "a key of the kind tuple"),
    "a key of nested tuples made by DUP": (whole(in_dict(op(0) + b"2\x86" * 60)), "the instruction DUP"),
    "keys of an OrderedDict": (whole(called("collections.OrderedDict", [(bomb(), 1)])), "a key of the kind tuple"),
    "a set of nested tuples": (b"\x80\x04\x8f(" + bomb() + b"\x90.", "the instruction EMPTY_SET"),
    "a frozen set of nested tuples": (b"\x80\x04(" + bomb() + b"\x91.", "the instruction FROZENSET"),
    "a storage with nested tuples as its key": (whole({"a": tensor(key=bomb())}), "a storage of an unknown kind"),
    "a storage with nested tuples as its type": (whole({"a": tensor(kind=bomb())}), "a storage of an unknown kind"),
    "a storage of nested tuples": (whole({"a": op((bomb(), "x", "0", "cpu", 4)) + b"Q"}), "a storage of an unknown kind"),
    "nested tuples as a shape": (whole({"a": tensor(shape=bomb())}), "whole numbers from 0"),
    "nested tuples as an offset": (whole({"a": tensor(offset=bomb())}), "whole numbers from 0"),
    "nested tuples as a name": (b"\x80\x04" + bomb() + op("x") + b"\x93.", "a name that is no text"),
    "a place in the memo at 300 million": (
        b"\x80\x02" + op("a") + b"r" + struct.pack("<I", 300_000_000) + b".",
        "something else",
    ),
    "a place in the memo at 4 billion": (b"\x80\x02" + op("a") + b"r" + struct.pack("<I", 2**32 - 1) + b".", "something else"),
    "a place in the memo that is empty": (b"\x80\x02h\x07.", "damaged"),
    "8 MB of empty dictionaries": (many(b"}", 8), "more than"),
    "8 MB of marks": (b"\x80\x02" + b"(" * 2**23 + b".", "more than"),
    "a text of 4 GB that is not there": (b"\x80\x02X\xff\xff\xff\xff" + b"a.", "damaged"),
    "a text of 2**62 bytes": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.", "damaged"),
    "a number of 2 GB": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.", "damaged"),
    "a number of 10,000 digits": (b"I" + b"9" * 10_000 + b"\n.", "damaged"),
    "lists in lists, 100,000 deep": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "something else"),
    "a list that holds itself": (b"\x80\x02]q\x00h\x00a.", "something else"),
    "a dictionary that holds itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "something else"),
    "no end": (b"\x80\x02}", "damaged"),
    "an end of nothing": (b"\x80\x02.", "damaged"),
    "an empty stack": (b"\x80\x020.", "damaged"),
    "tuples without a mark": (b"\x80\x02t.", "damaged"),
    "a future protocol": (b"\x80\x63}.", "something else"),
    "calls of os.system": (whole(called("os.system", f"touch {CODE}")), "asks for os.system"),
    "calls of builtins.eval": (whole({"a": called("builtins.eval", f"open('{CODE}', 'w')")}), "asks for builtins.eval"),
    "calls of builtins.exec by INST": (b"(" + op(f"open('{CODE}', 'w')") + b"ibuiltins\nexec\n.", "asks for builtins.exec"),
    "calls of subprocess.Popen by STACK_GLOBAL": (
        b"\x80\x04" + op("subprocess") + op("Popen") + b"\x93" + op((["touch", CODE],)) + b"R.",
        "asks for subprocess.Popen",
    ),
    "a name with terminal escapes": (whole(named("os.\x1b[2J\x1b[31mclear")), r"asks for os.\x1b[2J"),
    "attributes of a name that is allowed": (
        whole(named("collections.OrderedDict") + op({"update": None}) + b"b"),
        "sets attributes",
    ),
    "a text that is called": (whole(op("a") + op((1,)) + b"R"), "what cannot be called"),
    "a storage that is called": (whole(named("torch.FloatStorage") + op((10**9,)) + b"R"), "what cannot be called"),
    "objects made by NEWOBJ": (whole(named("collections.OrderedDict") + op(()) + b"\x81"), "the instruction NEWOBJ"),
    "an extension": (b"\x80\x02\x82\x01.", "damaged"),
    "bytes outside": (b"\x80\x05\x97.", "damaged"),
    "a tensor of 2**62 numbers": (whole({"a": tensor((2**62,), (0,))}), "whole numbers from 0"),
    "a tensor that repeats one number": (whole({"a": tensor((10**9,), (0,))}), "in 4 numbers"),
    "a tensor of negative strides": (whole({"a": tensor((4,), (-1,), 3)}), "whole numbers from 0"),
    "a tensor of negative sizes": (whole({"a": tensor((-4,), (-1,))}), "whole numbers from 0"),
    "a tensor outside its storage": (whole({"a": tensor(offset=1)}), "in 4 numbers"),
    "a tensor of 1,000 dimensions": (whole({"a": tensor(1000 * (1,), 1000 * (1,))}), "whole numbers from 0"),
    "a tensor of halves of sizes": (whole({"a": tensor((1.5,))}), "whole numbers from 0"),
    "a storage of another size": (whole({"a": tensor(size=10**9)}), "damaged"),
    "a storage of -1 numbers": (whole({"a": tensor(size=-1)}), "whole numbers from 0"),
    "a storage that is not there": (whole({"a": tensor(key="../../../etc/passwd")}), "damaged"),
    "a name of a tensor with terminal escapes": (whole({"\x1b]0;mine\x07\x1b[2J": tensor()}), r"'\x1b]0;mine\x07\x1b[2J'"),
    "a name of a tensor that reads backwards": (whole({"\u202egnp.exe": tensor()}), r"'\u202egnp.exe'"),
    "a name of a tensor of a million letters": (whole({"a" * 10**6: tensor()}), "fewer than 200"),
    "numbers as names of tensors": (whole({1: tensor()}), "something else than a dictionary of tensors"),
    "no tensors": (whole({}), "something else"),
    "a text": (whole("weights"), "something else"),
}


def written(name: str, data: bytes) -> Callable[[pathlib.Path], pathlib.Path]:
    def write(folder: pathlib.Path) -> pathlib.Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def overlapping() -> bytes:
    """A zip archive of 1,000 entries in the place of one of a megabyte."""
    name, data = b"archive/data.pkl", bytes(2**20)
    facts = struct.pack("<HHHHHIII", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data))
    local = b"PK\3\4" + facts + struct.pack("<HH", len(name), 0) + name + data
    central = b"".join(
        b"PK\1\2\x14\0" + facts + struct.pack("<HHHHHII", len(each), 0, 0, 0, 0, 0, 0) + each
        for each in (name, *(b"archive/data/%03d" % i for i in range(999)))
    )
    return local + central + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1000, 1000, len(central), len(local), 0)


def checkpoints() -> dict[str, Case]:
    made = {}
    for name, (pickle, message) in PICKLES.items():
        made[f"zip: {name}"] = Case(written("x.pt", zipped(pickle)), message)
        keys, sizes = (["0"], [4]) if b"FloatStorage" in pickle else ([], [])  # of storages, which the old form lists itself
        old = legacy(pickle, keys, [2**60] if "another size" in name else sizes)
        made[f"old: {name}"] = Case(written("x.pt", old), message)
    whole_one = whole({"a": tensor()})
    packed = {
        "a storage, packed": (zipped(whole_one, compression=zipfile.ZIP_BZIP2), "it is compressed"),
        "entries in each other's place": (overlapping(), "longer than the file"),
        "4 tensors in the place of one": (
            zipped(whole({f"a{i}": tensor((2**14,), size=2**14) for i in range(4)}), {"0": bytes(2**16)}),
            "several lie in the same place",
        ),
        "a wrong checksum": (
            zipped(whole({"a": tensor()}), {"0": b"\1" * 16}).replace(b"\1" * 16, b"\1" * 15 + b"\2"),
            "checksum of",
        ),
        "no pickle": (zipped(whole_one).replace(b"data.pkl", b"data.pkx"), "damaged"),
        "nothing": (zipped(b""), "damaged"),
    }
    made |= {f"zip: {name}": Case(written("x.pt", data), message) for name, (data, message) in packed.items()}
    # Made where it is written, since packing it takes seconds.
    large = lambda folder: written("x.pt", zipped(b"\x80\x02" + bytes(2**30), compression=zipfile.ZIP_DEFLATED))(folder)
    made["zip: a pickle of 1 GB, packed"] = Case(large, "it is compressed")
    wrong_keys = {
        "nested tuples as keys of storages": [bomb(), bomb(59)],
        "no list of keys": 7,
        "keys that nothing names": ["0", "1"],
        "no keys": [],
    }
    for name, keys in wrong_keys.items():
        made[f"old: {name}"] = Case(written("x.pt", legacy(whole_one, keys)), "its storages are not those")
    made["old: a length of -1"] = Case(written("x.pt", legacy(whole_one, sizes=(-1,))), "expected 4 numbers")
    made["old: a length of 2**62"] = Case(written("x.pt", legacy(whole_one, sizes=(2**62,))), "damaged")
    return made


# Safetensors files of ours, and folders of diffusers, which carry a configuration.


def base(folder: pathlib.Path) -> pathlib.Path:
    """A file of ours, and a folder of diffusers beside it, that are as they should be; written once."""
    if not (folder / "base").exists():
        config = tiny.get_config()
        config.model.update(patch_size=1, attention_sides=(28,), input_skip=False)
        rng = np.random.default_rng(0)
        shapes = configuration.parameter_shapes(config)
        found = weights.Weights(config, jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes))
        weights.save(folder / "base" / "ours.safetensors", found)
        to_diffusers.save(folder / "base" / "theirs", found)
    return folder / "base"


def split(data: bytes) -> tuple[dict, bytes]:
    """(header, tensors) of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def joined(header: Any, tensors: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def ours(change: Callable[[dict, bytes], tuple[Any, bytes]]) -> Callable[[pathlib.Path], pathlib.Path]:
    """A file of ours whose header and tensors were changed; without a .sha256 beside, and with the checksum within."""

    def write(folder: pathlib.Path) -> pathlib.Path:
        path = folder / "x.safetensors"
        path.write_bytes(joined(*change(*split((base(folder.parent) / "ours.safetensors").read_bytes()))))
        return path

    return write


def with_config(change: Callable[[Any], Any]) -> Callable[[pathlib.Path], pathlib.Path]:
    def changed(header: dict, tensors: bytes) -> tuple[dict, bytes]:
        metadata = header["__metadata__"]
        config = change(json.loads(metadata["ddim_jax_config"]))
        metadata["ddim_jax_config"] = config if isinstance(config, str) else json.dumps(config)
        metadata.pop("ddim_jax_sha256", None)  # as files from before it, so that the configuration itself must be refused
        return header, tensors

    return ours(changed)


def field(name: str, value: Any) -> Callable[[pathlib.Path], pathlib.Path]:
    def change(config: dict) -> dict:
        part, _, inner = name.partition(".")
        (config[part] if inner else config)[inner or part] = value
        return config

    return with_config(change)


def theirs(file: str, **fields: Any) -> Callable[[pathlib.Path], pathlib.Path]:
    def write(folder: pathlib.Path) -> pathlib.Path:
        shutil.copytree(base(folder.parent) / "theirs", folder / "theirs")
        path = folder / "theirs" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder / "theirs"

    return write


def first(header: dict) -> dict:
    """The entry of the first tensor."""
    return header[next(name for name in header if name != "__metadata__")]


def retyped(dtype: str) -> Callable[[dict, bytes], tuple[dict, bytes]]:
    """All tensors as this type of four bytes, or of eight of half as many."""

    def change(header: dict, tensors: bytes) -> tuple[dict, bytes]:
        header["__metadata__"].pop("ddim_jax_sha256", None)
        for name, entry in header.items():
            if name != "__metadata__":
                entry["dtype"] = dtype
        return header, tensors

    return change


def flipped(place: int) -> Callable[[dict, bytes], tuple[dict, bytes]]:
    def change(header: dict, tensors: bytes) -> tuple[dict, bytes]:
        data = bytearray(tensors)
        data[place] ^= 1
        return header, bytes(data)

    return change


def with_number(value: float) -> Callable[[dict, bytes], tuple[dict, bytes]]:
    return lambda header, tensors: (header, struct.pack("<f", value) + tensors[4:])


def renamed(name: str) -> Callable[[dict, bytes], tuple[dict, bytes]]:
    def change(header: dict, tensors: bytes) -> tuple[dict, bytes]:
        old = next(each for each in header if each != "__metadata__")
        return {name if each == old else each: entry for each, entry in header.items()}, tensors

    return change


def reshaped(**entry: Any) -> Callable[[dict, bytes], tuple[dict, bytes]]:
    def change(header: dict, tensors: bytes) -> tuple[dict, bytes]:
        first(header).update(entry)
        return header, tensors

    return change


def without(config: dict, part: str, name: str | None = None) -> dict:
    config.pop(part) if name is None else config[part].pop(name)
    return config


def betas(values: Any) -> Callable[[pathlib.Path], pathlib.Path]:
    def change(config: dict) -> dict:
        config["diffusion"].update(schedule="betas", betas=values, num_steps=1000)
        return config

    return with_config(change)


DEEP = "[" * 100_000 + "]" * 100_000
FIELDS = [  # of our configuration, and what it must not be
    ("data.image_size", [10**9, 10**9]),
    ("data.image_size", 10**9),
    ("data.image_size", 0),
    ("data.image_size", [-28, -28]),
    ("data.image_size", "28"),
    ("data.image_size", [28.0, 28.0]),
    ("data.image_size", None),
    ("data.channels", 10**9),
    ("data.channels", "3"),
    ("data.degrade", "\x1b[2J"),
    ("data.degrade", []),
    ("data.name", 7),
    ("model.channels", 10**9),
    ("model.channels", 32.0),
    ("model.channels", True),
    ("model.multipliers", 100_000 * [1]),
    ("model.multipliers", [10**12]),
    ("model.multipliers", 1),
    ("model.num_blocks", 3000),
    ("model.num_blocks", 10**9),
    ("model.num_blocks", [1]),
    ("model.attention_sides", [0]),
    ("model.attention_sides", "28"),
    ("model.patch_size", 0),
    ("model.num_classes", 10**12),
    ("model.dropout", "0.1"),
    ("model.input_skip", "yes"),
    ("diffusion.num_steps", 10**10),
    ("diffusion.num_steps", 1e3),
    ("diffusion.beta_end", "0.02"),
    ("diffusion.beta_end", 10**400),
    ("diffusion.schedule", {"linear": 1}),
    ("diffusion.prediction", ["eps"]),
    ("diffusion.categories", -2),
    ("sampling.eta", "0"),
    ("sampling.spacing", 7),
    ("sampling.count", 0),
    ("sampling.solver", "heun"),
    ("sampling.dtype", "int32"),
]


def own() -> dict[str, Case]:
    made = {
        f"ours: {name} = {str(value)[:30]} ({type(value).__name__})": Case(field(name, value), f"config.{name}")
        for name, value in FIELDS
    }
    more = {
        "no levels": (field("model.multipliers", []), "the U-Net's multipliers is ()"),
        "an unknown field of the network": (field("model.\x1b[31m", 1), r"\x1b[31m"),
        "an unknown field of the diffusion": (field("diffusion.trick", 1), "no schedule takes: ['trick']"),
        "64 blocks of a small file": (field("model.num_blocks", 64), "too few for the 131 blocks"),
        "more steps than there are": (field("sampling.steps", 5000), "5000 sampling steps out of 1000"),
        "an eta of 50": (field("sampling.eta", 50.0), "eta is 50.0"),
        "a part that is a list": (field("model", []), "config.model"),
        "a part that is a number": (field("diffusion", 7), "config.diffusion"),
        "a format of the future": (field("format", 99), "has format 99, of a newer ddim_jax"),
        "a format of text": (field("format", "3"), "has format '3'"),
        "a format of 0": (field("format", 0), "has format 0"),
        "an old format without its fields": (field("format", 1), "no configuration of ddim_jax"),
        "no data": (with_config(lambda config: without(config, "data")), "config.data.channels is missing"),
        "no model": (with_config(lambda config: without(config, "model")), "config.model.channels is missing"),
        "no clip": (with_config(lambda config: without(config, "sampling", "clip")), "config.sampling.clip is missing"),
        "betas of NaN": (betas(1000 * [math.nan]), "not a configuration in JSON"),
        "infinite betas": (betas(1000 * [math.inf]), "not a configuration in JSON"),
        "betas of 2": (betas(1000 * [2.0]), "1000 of 1000 are not, the first of them beta 1, which is 2.0"),
        "betas of text": (betas(1000 * ["0.1"]), "a list of 1000 numbers"),
        "a number of betas": (betas(0.1), "a list of 1000 numbers"),
        "999 betas": (betas(999 * [0.01]), "a list of 1000 numbers"),
        "no JSON": (with_config(lambda config: "{"), "not a configuration in JSON"),
        "a list": (with_config(lambda config: []), "not a configuration in JSON"),
        "100,000 brackets": (with_config(lambda config: DEEP), "not a configuration in JSON"),
        "500 brackets in a field": (field("data.directory", json.loads("[" * 500 + "]" * 500)), "data.directory"),
        "a number of 5,000 digits": (with_config(lambda config: '{"format": ' + "9" * 5000 + "}"), "not a configuration in JSON"),
        "whole numbers": (ours(retyped("I32")), "holds whole numbers where floats belong, in"),
        "whole numbers without a sign": (ours(retyped("U32")), "holds whole numbers where floats belong, in"),
        "an unknown type": (ours(retyped("F12")), "damaged or not a safetensors file"),
        "NaN": (ours(with_number(math.nan)), "NaN or infinite numbers in"),
        "infinity": (ours(with_number(math.inf)), "NaN or infinite numbers in"),
        "a flipped bit in the first number": (ours(flipped(0)), "its numbers are not those that its checksum was made of"),
        "a flipped bit in the last number": (ours(flipped(-4)), "its numbers are not those that its checksum was made of"),
        "another beta": (
            ours(lambda header, tensors: (json.loads(json.dumps(header).replace("0.02", "0.03")), tensors)),
            "its numbers are not those that its checksum was made of",
        ),
        "a name with terminal escapes": (ours(renamed("\x1b[2J")), r"'\x1b[2J'"),
        "a name of 100,000 letters": (ours(renamed("a" * 100_000)), "fewer than 200"),
        "another name": (ours(renamed("kernel")), "does not fit this configuration"),
        "a shape of 2**60": (ours(reshaped(shape=[2**60])), "damaged or not a safetensors file"),
        "a shape of minus one": (ours(reshaped(shape=[-1])), "damaged or not a safetensors file"),
        "places outside": (ours(reshaped(data_offsets=[0, 2**40])), "damaged or not a safetensors file"),
        "a header of 100 GB": (written("x.safetensors", (100 * 10**9).to_bytes(8, "little") + b"{}"), "damaged"),
        "a header of 2**63": (written("x.safetensors", (2**63).to_bytes(8, "little") + b"{}"), "damaged"),
        "a header of brackets": (written("x.safetensors", joined(DEEP.encode(), b"")), "damaged"),
        "nothing": (written("x.safetensors", b""), "damaged"),
        "text": (written("x.safetensors", b"<!DOCTYPE html>"), "damaged"),
    }
    return made | {f"ours: {name}": Case(write, message) for name, (write, message) in more.items()}


NETWORK, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
OPTIONS: list[tuple[str, dict[str, Any], str]] = [  # of diffusers, and what they must not be
    (NETWORK, dict(sample_size=10**9), "config.model.attention_sides is (1000000000,)"),
    (NETWORK, dict(sample_size=-28), "config.model.attention_sides is (-28,)"),
    (NETWORK, dict(sample_size="28"), "sample_size='28'"),
    (NETWORK, dict(sample_size=[]), "sample_size=[]"),
    (NETWORK, dict(layers_per_block=10**9), "config.model.num_blocks is 1000000000"),
    (NETWORK, dict(layers_per_block=60), "too few for the"),
    (NETWORK, dict(layers_per_block="1"), "config.model.num_blocks is '1'"),
    (NETWORK, dict(layers_per_block=-1), "config.model.num_blocks is -1"),
    (NETWORK, dict(block_out_channels=[0]), "of another kind"),
    (NETWORK, dict(block_out_channels=[]), "of another kind"),
    (NETWORK, dict(block_out_channels=32), "of another kind"),
    (NETWORK, dict(block_out_channels=["32"]), "of another kind"),
    (NETWORK, dict(block_out_channels=[10**12]), "config.model.channels is 1000000000000"),
    (NETWORK, dict(in_channels=10**9, out_channels=10**9), "config.data.channels is 1000000000"),
    (NETWORK, dict(in_channels=None, out_channels=None), "config.data.channels is None"),
    (NETWORK, dict(dropout="a"), "config.model.dropout is 'a'"),
    (NETWORK, dict(dropout=7), "config.model.dropout is 7"),
    (NETWORK, dict(down_block_types=7), "of another kind"),
    (NETWORK, dict(down_block_types=[7]), "of another kind"),
    (
        NETWORK,
        dict(down_block_types=100_000 * ["DownBlock2D"], up_block_types=100_000 * ["UpBlock2D"]),
        "network that is not ours",
    ),
    (NETWORK, dict(attention_head_dim=[8]), "of another kind"),
    (NETWORK, {"\x1b[2J": 1}, r"\x1b[2J"),
    (NETWORK, dict(_class_name=["UNet2DModel"]), "describes a ['UNet2DModel']"),
    (NETWORK, dict(act_fn="\x1b[2J"), r"act_fn='\x1b[2J'"),
    (SCHEDULER, dict(num_train_timesteps=10**10), "config.diffusion.num_steps is 10000000000"),
    (SCHEDULER, dict(num_train_timesteps="1000"), "config.diffusion.num_steps is '1000'"),
    (SCHEDULER, dict(num_train_timesteps=0), "config.diffusion.num_steps is 0"),
    (SCHEDULER, dict(num_train_timesteps=10), "sampling steps out of 10"),
    (SCHEDULER, dict(beta_start="a"), "config.diffusion.beta_start is 'a'"),
    (SCHEDULER, dict(beta_end=7), "config.diffusion.beta_end is 7"),
    (SCHEDULER, dict(beta_end=math.nan), "not a configuration in JSON"),
    (SCHEDULER, dict(beta_schedule=["linear"]), "beta_schedule=['linear']"),
    (SCHEDULER, dict(trained_betas=7), "of another kind"),
    (SCHEDULER, dict(trained_betas=1000 * ["a"]), "a list of 1000 numbers"),
    (SCHEDULER, dict(trained_betas=1000 * [2]), "1000 of 1000 are not"),
    (SCHEDULER, dict(prediction_type=["epsilon"]), "of another kind"),
    (SCHEDULER, dict(clip_sample="yes"), "config.sampling.clip is 'yes'"),
    (SCHEDULER, dict(_class_name={}), "of another kind"),
    (SCHEDULER, dict(rescale_betas_zero_snr=7), "config.diffusion.zero_terminal_snr is 7"),
]


def published() -> dict[str, Case]:
    return {
        f"diffusers: {', '.join(f'{name!a} = {str(value)[:30]!a}' for name, value in fields.items())}": Case(
            theirs(file, **fields), message
        )
        for file, fields, message in OPTIONS
    }


CASES = checkpoints() | own() | published()
