"""PyTorch's files read without PyTorch: the same numbers, and nothing run."""

import collections
import io
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from ddim_jax import interop
from ddim_jax.common import pickles

LEGACY = dict(_use_new_zipfile_serialization=False)


class Opens:
    """Pickles as a call of open(path, "w"), which leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("how", [{}, LEGACY], ids=["zip", "legacy"])
def test_tensors_are_those_that_torch_saved(how, tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    saved = {
        "plain": base,
        "transposed": base.T,  # these share a storage, at other strides and offsets
        "part": base[1:3, ::2],
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        **{
            str(dtype): torch.arange(5).to(dtype)
            for dtype in (torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool)
        },
        "bfloat16": base.bfloat16(),
    }
    content = [saved, {"state": {0: {"step": 3, "betas": (0.9, 0.999)}}}, 1, "text", None, collections.OrderedDict(a=base)]
    torch.save(content, tmp_path / "x.pt", **how)
    got = pickles.load(tmp_path / "x.pt")
    assert got[1:5] == content[1:5]
    np.testing.assert_array_equal(got[5]["a"].read(), base)
    for name, tensor in saved.items():
        expected = tensor.detach().float().numpy()
        assert got[0][name].shape == expected.shape
        np.testing.assert_array_equal(got[0][name].read().astype(np.float32), expected, err_msg=name)
    assert got[0]["bfloat16"].dtype.name == "bfloat16" and got[0]["plain"].dtype == np.float32


@pytest.mark.parametrize("how", [{}, LEGACY, None], ids=["zip", "legacy", "plain pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(how, tmp_path):
    left_behind = tmp_path / "left behind"
    content = {"conv_in.weight": torch.zeros(3), "evil": Opens(left_behind)}
    if how is None:
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(Opens(left_behind)))
    else:
        torch.save(content, tmp_path / "evil.pt", **how)
    with pytest.raises(pickles.RefusedPickle, match=r"evil.pt asks for _?io.open .* nothing of it was run"):
        interop.read(tmp_path / "evil.pt")
    assert not left_behind.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False) if how is not None else pickle.loads((tmp_path / "evil.pt").read_bytes())
    assert left_behind.exists()  # it would have


@pytest.mark.parametrize(
    "stream, asked",
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),  # INST instead of GLOBAL and REDUCE
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"ctorch\nload\n.", "torch.load"),
        (b"ctorch._utils\n_rebuild_tensor\n.", "torch._utils._rebuild_tensor"),
        (b"ccollections\nOrderedDict.__init__\n.", "collections.OrderedDict.__init__"),
    ],
)
def test_no_way_around(stream, asked, tmp_path):
    (tmp_path / "x.pt").write_bytes(stream)
    with pytest.raises(pickles.RefusedPickle, match=f"asks for {asked} "):
        pickles.load(tmp_path / "x.pt")


@pytest.mark.parametrize("state", [b"}S'x'\nI1\ns", b"(N}S'update'\nI1\nst"], ids=["__dict__", "attributes"])
def test_what_is_allowed_cannot_be_changed(state, tmp_path):
    """BUILD sets attributes of whatever it finds: here of the class OrderedDict itself, for all who use it later."""
    (tmp_path / "x.pt").write_bytes(b"ccollections\nOrderedDict\n" + state + b"b.")
    with pytest.raises(ValueError, match="x.pt is damaged or not a PyTorch checkpoint"):
        pickles.load(tmp_path / "x.pt")
    assert not hasattr(collections.OrderedDict, "x") and callable(collections.OrderedDict.update)


@pytest.mark.parametrize(
    "offset, shape, stride",
    [
        (0, (5,), (1,)),
        (2, (3,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (10**9,), (0,)),
        (0, (2, 2), (1,)),
    ],
)
def test_a_tensor_that_reaches_outside_its_storage(offset, shape, stride, tmp_path):
    """Strides come from the file; followed blindly they would read memory that is not the file's."""
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, bent(offset, shape, stride) if name.endswith("data.pkl") else data)
    with pytest.raises(
        ValueError, match="x.pt is damaged or not a PyTorch checkpoint .*(in 4 numbers|is shorter|must be whole numbers from 0)"
    ):
        pickles.load(path)


def bent(offset, shape, stride) -> bytes:
    """The pickle of {"a": a tensor of 4 float32 with this view of its storage}."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, stride, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(thing, Storage) else None

    file = io.BytesIO()
    Pickler(file, protocol=2).dump({"a": Tensor()})
    return file.getvalue()


def test_the_bent_pickle_is_well_formed(tmp_path):
    torch.save({"a": torch.arange(4.0)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, bent(1, (2,), (2,)) if name.endswith("data.pkl") else data)
    np.testing.assert_array_equal(pickles.load(tmp_path / "x.pt")["a"].read(), [1, 3])


@pytest.mark.parametrize("how", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("damage", ["cut in half", "cut by a byte", "one byte changed", "empty", "text"])
def test_damage(how, damage, tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(1000)}, path, **how)
    data = bytearray(path.read_bytes())
    if damage == "one byte changed":
        if how:
            pytest.skip("files from before PyTorch 1.6 hold no checksum")
        data[data.index(np.ones(9, np.float32).tobytes())] ^= 1
    changed = {"cut in half": data[: len(data) // 2], "cut by a byte": data[:-1], "empty": b"", "text": b"<!DOCTYPE html>"}
    path.write_bytes(changed.get(damage, data))
    with pytest.raises(ValueError, match="x.pt is damaged or not a PyTorch checkpoint"):
        pickles.load(path)


def test_torch_is_not_needed():
    """Neither torch nor diffusers is imported by what reads and writes their files."""
    source = "import sys; from ddim_jax.interop import formats, to_diffusers; print({'torch', 'diffusers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
