"""StableHLO: what is exported runs where this package cannot be imported, and draws what the model draws."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from ddim_jax import diffusion
from ddim_jax.diffusion import sampling, solvers
from ddim_jax.interop import to_stablehlo
from tests.exporting.networks import model_of, random_weights

ROOT = pathlib.Path(__file__).parents[2]
WITHOUT = """
import importlib.abc, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ddim_jax", "flax"):
            raise ModuleNotFoundError(f"{name} is not here")

sys.meta_path.insert(0, Without())
"""
ALONE = """
import json, pathlib
import numpy as np
from jax import export

folder = pathlib.Path(sys.argv[1])
network, sampler = (export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes())) for name in ("network", "sampler"))
tables = json.loads((folder / "tables.json").read_text())["tables"]
given = np.load(sys.argv[2])
made = {"network": network.call(given["x"], given["step"], given["label"])}
for solver, eta in (("ddim", 0.5), ("plms", None), ("unipc", None)):
    (found,) = [each for each in tables if (each["solver"], each["eta"], each["steps"]) == (solver, eta, 10)]
    table = {name: np.array(found[name], np.float32) for name in ("x0", "eps", "noise")} | {"t": np.array(found["t"], np.int32)}
    made[solver] = sampler.call(given["x"], table, np.uint32(3), given["label"])
assert not [name for name in sys.modules if name.split(".")[0] in ("ddim_jax", "flax")]
np.savez(sys.argv[3], **made)
print(network.platforms, sampler.platforms)
"""


@pytest.fixture(scope="module")
def model():
    return model_of(random_weights(num_classes=4, diffusion={"prediction": "v"}, sampling={"clip": True}))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "out"
    found = to_stablehlo.save(path, model, "v", "small")
    assert found.network < 1e-4 and found.sampler < 1e-4
    return path


def alone(code, cwd, *arguments):
    """What a process prints that can import neither this package nor Flax."""
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.slow
def test_it_runs_where_this_package_is_not(model, folder, tmp_path):
    generator = model.generator()
    x, keys = generator.latents(3, np.arange(5))  # neither a batch nor a number of steps that was traced or checked
    given = {"x": np.asarray(x), "step": np.array([0, 1, 500, 998, 999], np.int32), "label": np.array([0, 1, 2, 3, 4], np.int32)}
    np.savez(tmp_path / "given.npz", **given)
    out = alone(ALONE, tmp_path, folder, tmp_path / "given.npz", tmp_path / "made.npz")
    assert out == "('cpu', 'cuda', 'tpu') ('cpu', 'cuda', 'tpu')"
    made = np.load(tmp_path / "made.npz")
    told = {"label": given["label"]}
    expected = model.network.apply(model.params, x, given["step"], told, None)
    np.testing.assert_allclose(made["network"], expected, rtol=0, atol=1e-5)
    for solver, arguments in (("ddim", {"eta": 0.5}), ("plms", {}), ("unipc", {})):
        ours = generator.sample(model.params, model.table(10, solver=solver, **arguments), x, keys, told)
        np.testing.assert_allclose(made[solver], ours, rtol=0, atol=1e-4, err_msg=solver)


@pytest.mark.slow
def test_the_example_of_the_page(model, folder, tmp_path):
    """docs/export.md, as it is written there, beside the model."""
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "export.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "exported").symlink_to(folder)
    alone(block + "\nnp.save('images.npy', images)\n", tmp_path)
    latents = np.random.default_rng(0).standard_normal((4, *model.shape), np.float32)
    expected = model.decode(latents, steps=20, eta=0.0, label=np.arange(4))
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_same_examples_as_the_model_draws(model, folder):
    """With the latents of a seed, the noise of that seed follows: Model.sample's examples."""
    sampler = export.deserialize(bytearray((folder / "sampler.stablehlo").read_bytes()))
    x, _ = model.generator().latents(11, np.arange(3))
    label = np.array([1, 1, 2], np.int32)
    table = model.table(4, solver="ddim", eta=1.0)
    got = sampler.call(x, to_stablehlo.columns(table), np.uint32(11), label)
    np.testing.assert_allclose(got, model.sample(3, steps=4, eta=1.0, seed=11, label=label), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_what_lies_beside(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.json",
        "network.stablehlo",
        "sampler.stablehlo",
        "tables.json",
    ]
    tables = json.loads((folder / "tables.json").read_text())["tables"]
    assert {np.shape(table[column]) for table in tables for column in ("x0", "eps")} == {
        (steps, to_stablehlo.HISTORY) for steps in (4, 10, 20, 50, 100)
    }


def test_a_sampler_of_ones_own_can_be_exported():
    """StepTable is registered: an argument of what `jax.export` writes."""
    schedule = diffusion.schedule.linear()
    table = solvers.ddim(schedule, diffusion.schedule.subsequence(1000, 5, "trailing"))
    table = jax.tree.map(lambda a: np.asarray(a, np.float32 if a.dtype == np.float64 else np.int32), table)

    def draw(table, x, key):
        predict = diffusion.process.make_predictor(schedule, lambda x, t: 0.5 * x, "eps")
        return sampling.sample(predict, table, x, key)

    x, key = np.ones((2, 3), np.float32), jax.random.key(0)
    content = export.export(jax.jit(draw))(table, x, key).serialize()
    np.testing.assert_allclose(export.deserialize(content).call(table, x, key), draw(table, x, key), rtol=1e-6)


def test_what_cannot_be_exported(tmp_path, monkeypatch, model):
    discrete = model_of(random_weights(colours=1, diffusion={"categories": 4, "prediction": "x0"}))
    with pytest.raises(ValueError, match="of discrete values"):
        to_stablehlo.save(tmp_path / "out", discrete, "eps", "refused")
    monkeypatch.setattr(to_stablehlo, "_TOLERANCE", -1.0)
    with pytest.raises(ArithmeticError, match="it is not written"):
        to_stablehlo.save(tmp_path / "out", model, "v", "refused")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ModuleNotFoundError, match="it comes with the extra 'export'"):
        to_stablehlo.save(tmp_path / "out", model, "v", "refused")
    assert not list(tmp_path.iterdir())
