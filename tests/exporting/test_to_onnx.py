"""Networks as ONNX: onnxruntime beside JAX, and a sampler that knows the exported folder alone beside ours."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from configs import cifar10
from ddim_jax import interop, weights
from ddim_jax.common.files import digest
from ddim_jax.inference.adjusting import Adjustment
from ddim_jax.interop import described, onnx_graph, to_diffusers, to_onnx
from tests.exporting.networks import model_of, random_weights


class Folder:
    """What anybody can do with an exported folder, by NumPy and onnxruntime: the loop that docs/export.md describes."""

    def __init__(self, path):
        self.about = json.loads((path / "model.json").read_text())
        self.tables = json.loads((path / "tables.json").read_text())["tables"]
        assert digest(path / self.about["network"]) == self.about["sha256"]
        self.session = ort.InferenceSession(path / self.about["network"])
        self.inputs = {each.name: each.shape for each in self.session.get_inputs()}

    def table(self, solver, steps, **wanted):
        wanted |= {"solver": solver, "steps": steps}
        (found,) = [table for table in self.tables if all(table.get(name) == value for name, value in wanted.items())]
        return found

    def network(self, x, step, label=None):
        given = {"x": x, "step": np.full(len(x), step, np.int32)} | ({} if label is None else {"label": label})
        return self.session.run(None, given)[0]

    def sample(self, table, x, label=None, guidance=1.0, noise=None):
        x0s, epss = [], []
        for i, t in enumerate(table["t"]):
            said = self.network(x, max(t - 1, 0), label)
            if guidance != 1:
                null = np.full_like(label, self.about["null_label"])
                away = self.network(x, max(t - 1, 0), null)
                said = away + np.float32(guidance) * (said - away)
            signal, sigma = (np.float32(np.sqrt(a)) for a in (self.about["alpha_bar"][t], 1 - self.about["alpha_bar"][t]))
            x0, eps = {
                "eps": lambda: (x if t == 0 else (x - sigma * said) / signal, said),
                "x0": lambda: (said, (x - signal * said) / sigma),
                "v": lambda: (signal * x - sigma * said, sigma * x + signal * said),
            }[self.about["prediction"]]()
            if self.about["clip_x0"]:
                clipped = np.clip(x0, -1, 1)
                x0, eps = clipped, eps + signal * (x0 - clipped) / sigma
            x0s, epss = [x0, *x0s], [eps, *epss]
            x = sum(
                np.float32(w) * past for w, past in zip((*table["x0"][i], *table["eps"][i]), (*pad(x0s, table["x0"][i]), *epss))
            )
            if noise is not None:
                x = x + np.float32(table["noise"][i]) * noise(i)
        return x


def pad(history, weights):
    """As much history as there are weights, zeros before there was any."""
    return (history + [np.zeros_like(history[0])] * len(weights))[: len(weights)]


@pytest.fixture(scope="module")
def digits():
    return interop.read(weights.DIGITS)


@pytest.fixture(scope="module")
def exported(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("digits")
    to_onnx.save(path, model_of(digits), "eps", "digits")
    return Folder(path)


def beside_jax(folder, model, atol):
    rng, last, apply = np.random.default_rng(5), model.schedule.num_steps - 1, jax.jit(model.network.apply)
    for count in (1, 3):
        x = 2 * rng.standard_normal((count, *model.shape), np.float32)
        label = rng.integers(0, model.num_classes + 1, count).astype(np.int32) if model.num_classes else None
        for step in (0, last // 3, last):
            told = {} if label is None else {"label": label}
            expected = apply(model.params, x, np.full(count, step), told, None)
            np.testing.assert_allclose(folder.network(x, step, label), expected, rtol=0, atol=atol)


@pytest.mark.slow
def test_the_digits(exported, digits):
    assert exported.inputs == {"x": ["batch", 28, 28, 1], "step": ["batch"], "label": ["batch"]}
    about = exported.about
    assert (about["format"], about["name"], about["shape"], about["prediction"]) == (1, "digits", [28, 28, 1], "eps")
    assert (about["num_classes"], about["null_label"], about["clip_x0"]) == (10, 10, False)
    model = model_of(digits)
    np.testing.assert_array_equal(about["alpha_bar"], model.schedule.alpha_bar)  # all digits of float64
    beside_jax(exported, model, atol=2e-5)  # of outputs up to 10, in float32


SOLVERS = [("ddim", {"eta": 0.0}), ("ddim", {"eta": 0.5}), ("ddpm", {}), ("dpmpp_2m", {}), ("plms", {}), ("unipc", {})]
SOLVERS += [("ddpm", {"variance": "large"}), ("encode", {"ask": "departure"}), ("encode", {"ask": "arrival"})]


@pytest.mark.slow
@pytest.mark.parametrize("solver, arguments", SOLVERS, ids=str)
def test_twenty_steps_of_every_solver(solver, arguments, exported, digits):
    model, label = model_of(digits), np.array([3, 8], np.int32)
    generator = model.generator()
    x, keys = generator.latents(7, np.arange(2))
    if solver == "encode":
        from ddim_jax.diffusion import solvers

        table = solvers.encode(model.schedule, model.tau(20), **arguments)
        x = model.sample(2, steps=20, seed=7, label=[3, 8])  # images, to be encoded
    else:
        table = model.table(20, solver=solver, **arguments)
    expected = generator.sample(model.params, table, x, keys, {"label": label})
    wanted = {name: value for name, value in arguments.items() if name != "variance"}
    theirs = exported.table("ddpm large variance" if "variance" in arguments else solver, 20, **wanted)

    def noise(i):
        return np.stack([jax.random.normal(jax.random.fold_in(key, i), model.shape) for key in keys])

    got = exported.sample(theirs, np.asarray(x), label, noise=noise)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_guidance_by_two_calls(exported, digits):
    model, label = model_of(digits), np.array([3, 8], np.int32)
    generator = model.generator(Adjustment(weight=2.0))
    x, _ = generator.latents(7, np.arange(2))
    expected = generator.sample(model.params, model.table(10), x, condition={"label": label})
    got = exported.sample(exported.table("ddim", 10, eta=0.0), np.asarray(x), label, guidance=2.0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


OPTIONS = {
    "x0, grey, no square": {
        "colours": 1,
        "image_size": (8, 12),
        "attention_sides": (4, 6),
        "diffusion": {"prediction": "x0"},
    },
    "one level": {"multipliers": (2,), "attention_sides": ()},
    "three levels": {"image_size": (16, 16), "multipliers": (1, 3, 2), "num_blocks": 2},
    "no blocks": {"num_blocks": 0},
    "all": {
        "num_classes": 3,
        "input_skip": True,
        "patch_size": 2,
        "image_size": (16, 8),
        "attention_sides": (8, 4),
        "dropout": 0.1,
    },
    "v, clipped": {"diffusion": {"prediction": "v"}, "sampling": {"clip": True}},
    "pure noise": {"diffusion": {"prediction": "v", "zero_terminal_snr": True}, "sampling": {"spacing": "trailing"}},
}


QUICK = ("all", "v, clipped")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_the_unet(name, tmp_path):
    found = random_weights(**OPTIONS[name])
    model = model_of(found)
    checked = to_onnx.save(tmp_path / "out", model, found.config.diffusion.prediction, name)
    assert checked.error < 5e-5 and checked.largest > 0.1  # not a network at its zero initialisation
    folder = Folder(tmp_path / "out")
    # And the folder alone tells how to sample with it.
    generator = model.generator()
    label = np.zeros(2, np.int32) if model.num_classes else None
    x, _ = generator.latents(0, np.arange(2))
    expected = generator.sample(model.params, model.table(4), x, condition={} if label is None else {"label": label})
    got = folder.sample(folder.table("ddim", 4, eta=0.0), np.asarray(x), label)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    # UniPC cannot start from pure noise, and has no table there; all others have one.
    solvers = {table["solver"] for table in folder.tables}
    missing = {"unipc"} if name == "pure noise" else set()
    assert solvers == {"ddim", "ddpm", "ddpm large variance", "dpmpp_2m", "plms", "unipc", "encode"} - missing


@pytest.mark.slow
def test_a_network_of_diffusers(tmp_path):
    to_diffusers.save(tmp_path / "theirs", random_weights())
    found = interop.read(tmp_path / "theirs")
    to_onnx.save(tmp_path / "out", model_of(found), "eps", "theirs")
    beside_jax(Folder(tmp_path / "out"), model_of(found), atol=5e-5)


@pytest.mark.slow
def test_the_network_for_cifar10(tmp_path):
    config = cifar10.get_config()
    found = random_weights(
        (32, 32), **{name: config.model[name] for name in ("channels", "multipliers", "num_blocks", "attention_sides")}
    )
    model = model_of(found)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == 35_746_307  # DDPM, appendix B: 35.7 million
    checked = to_onnx.save(tmp_path / "out", model, "eps", "cifar10")
    assert checked.error < 1e-4 * max(1, checked.largest)
    assert (tmp_path / "out" / "network.onnx").stat().st_size < 4 * 35_746_307 + 1e6  # the weights, once


@pytest.mark.slow
def test_float16_weights(tmp_path):
    found = random_weights(num_classes=4)
    checked = to_onnx.save(tmp_path / "out", model_of(found), "eps", "half", "float16")
    folder = Folder(tmp_path / "out")
    assert folder.about["network"] == "network_float16.onnx"
    assert checked.error < 1e-5 * checked.largest  # what is stored is computed with exactly
    assert 0 < checked.rounding < 1e-2 * checked.largest  # 2^-11 in each weight
    model = onnx.load(tmp_path / "out" / "network_float16.onnx")
    dtypes = {each.name: each.data_type for each in model.graph.initializer if "." in each.name}
    half = {name for name, dtype in dtypes.items() if dtype == onnx.TensorProto.FLOAT16}
    assert {name.split(".")[-1].split("_")[0] for name in half} == {"kernel", "embedding"}  # kernel_1: another part of it
    others = {name.split(".")[-1].split("_")[0] for name in dtypes.keys() - half}  # bias_1: the same in another shape
    assert others == {"scale", "bias"}
    assert all(each.type.tensor_type.elem_type != onnx.TensorProto.FLOAT16 for each in (*model.graph.input, *model.graph.output))


def test_another_network(tmp_path):
    """Somebody's own function, with no class of ours behind it."""
    found = random_weights()
    model = model_of(found)

    def apply(params, x, step, condition, key):
        hidden = jax.nn.gelu(x.reshape(x.shape[0], -1) @ params["in"] + jnp.sin(step[:, None] * params["step"]))
        return (hidden @ params["out"]).reshape(x.shape)

    rng = np.random.default_rng(0)
    params = {"in": 0.1 * rng.normal(size=(192, 16)), "step": rng.normal(size=16), "out": rng.normal(size=(16, 192))}
    params = jax.tree.map(lambda a: a.astype(np.float32), params)
    network = model.network._replace(apply=apply)
    theirs = type(model)(network, params, model.schedule, model.shape, model.process, model.defaults)
    to_onnx.save(tmp_path / "out", theirs, "eps", "dense")
    beside_jax(Folder(tmp_path / "out"), theirs, atol=1e-4)


def refused(model, path, error, message, dtype="float32"):
    with pytest.raises(error, match=message):
        to_onnx.save(path, model, "eps", "refused", dtype)
    assert not path.exists() or [each.name for each in path.iterdir()] == ["mine"]
    assert not [each for each in path.parent.iterdir() if each.name.endswith(".part")]


@pytest.mark.slow
def test_what_cannot_be_exported(tmp_path, monkeypatch):
    model = model_of(random_weights())
    discrete = model_of(random_weights(colours=1, diffusion={"categories": 4, "prediction": "x0"}))
    refused(discrete, tmp_path / "out", ValueError, "of discrete values")
    told = model_of(random_weights(degrade="grey"))
    refused(told, tmp_path / "out", ValueError, "is told image")

    def sorts(params, x, step, condition, key):
        return jnp.sort(x, axis=1)

    other = type(model)(model.network._replace(apply=sorts), {}, model.schedule, model.shape, model.process)
    refused(other, tmp_path / "out", ValueError, "does not know: sort")
    large = jax.tree.map(lambda a: 1e9 * a, model.params)
    wide = type(model)(model.network, large, model.schedule, model.shape, model.process)
    refused(wide, tmp_path / "out", ValueError, "which float16 cannot hold: export float32", "float16")

    monkeypatch.setattr(onnx_graph, "LARGEST", 1000)
    refused(model, tmp_path / "out", ValueError, "a file of ONNX holds less than 2")
    monkeypatch.undo()

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    refused(model, tmp_path / "full", FileExistsError, "already holds something")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    refused(model, tmp_path / "out", ModuleNotFoundError, "it comes with the extra 'export'")


@pytest.mark.slow
def test_a_network_that_comes_out_wrong_is_not_written(tmp_path, monkeypatch):
    model, convert = model_of(random_weights()), onnx_graph.convert

    def spoilt(function, params, *rest):
        return convert(function, jax.tree.map(lambda a: 1.01 * a, params), *rest)

    monkeypatch.setattr(onnx_graph, "convert", spoilt)
    refused(model, tmp_path / "out", ArithmeticError, "onnxruntime differs from JAX")


def test_tables_are_those_of_the_solvers(digits):
    model = model_of(digits)
    tables = described.tables(model)
    assert {table["steps"] for table in tables} == {4, 10, 20, 50, 100}
    assert [table["eta"] for table in tables if table["solver"] == "ddim" and table["steps"] == 4] == [i / 10 for i in range(11)]
    for table in tables:
        assert json.loads(json.dumps(table, allow_nan=False)) == table
    (plms,) = [table for table in tables if table["solver"] == "plms" and table["steps"] == 50]
    ours = model.table(50, solver="plms")
    for column in ("t", "s"):
        np.testing.assert_array_equal(plms[column], getattr(ours, column))
    for column in ("x0", "eps", "noise"):
        np.testing.assert_allclose(plms[column], getattr(ours, column), rtol=1e-8, atol=0)
