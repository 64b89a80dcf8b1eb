"""What code before configurations had a format left behind is read, goes on and samples as it did.

recorded/run.zip is a run of that code, stopped at step 4: digits, flipped and told their class, a U-Net of one level, dropout,
withheld labels, Min-SNR weights. recorded/recorded.npz is what it did next (JAX 0.10.2, a processor with AVX-512):
    leaves          of the state at step 8, the values at `places` of each float32 leaf, in the order of their names
    loss, grad_norm of steps 6 and 8, as its log has them
    batch_indices   of steps 4, 5, 6, 7, and of 562 and 563, between which an epoch ends
    latents, keys   four x_T and the data of their random keys
    eta0, eta1      digits 0, 3, 6, 9 that the shipped weights made of them, in 10 trailing steps at eta = 0 and 1
"""

import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest
from flax import traverse_util

import ddim_jax
from ddim_jax import configuration, weights
from ddim_jax.data import batches
from ddim_jax.runs import train_config
from ddim_jax.training.checkpoints import Checkpoints
from tests import tiny

FOLDER = pathlib.Path(__file__).parent / "recorded"
RECORDED = np.load(FOLDER / "recorded.npz")
NEVER = 10**9


def config(**training):
    """That of the run, as it is written today."""
    made = tiny.get_config()
    made.model.update(num_blocks=0, num_classes=10, dropout=0.1)
    made.data.flip = True
    made.training.update(steps=8, condition_dropout=0.3, min_snr_gamma=5.0, sample_every=NEVER)
    made.training.update(training)
    return made


def places(size):
    return np.linspace(0, size - 1, min(size, 61)).round().astype(int)


@pytest.fixture
def workdir(tmp_path):
    with zipfile.ZipFile(FOLDER / "run.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def load(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.load().arrays


def recorded_leaves(like):
    """The recorded values by the names of float32 leaves, whose sizes say where one ends."""
    names = sorted(name for name, leaf in like.items() if leaf.dtype == np.float32)
    ends = np.cumsum([len(places(like[name].size)) for name in names])
    assert ends[-1] == len(RECORDED["leaves"])
    return dict(zip(names, np.split(RECORDED["leaves"], ends[:-1])))


@pytest.mark.slow
def test_an_old_run_goes_on_as_it_would_have(workdir):
    """Four steps: bit for bit in all that is not rounded, and in rounding alone else. On one machine it is all the same bits.

    Another processor or compiler adds in another order, which moves a gradient by some 1e-6 of the largest there is (float32,
    sums of thousands). Adam divides a gradient by the root of its second moment: where that is above 1e-4 of the largest, a
    step of the rate 1e-3 moves by at most 1e-6 / 1e-4 of itself, 1e-5, and four by 4e-5. Elsewhere a gradient may be rounding
    alone, as that of a bias in front of a normalisation is, and steps go as far as Adam ever does: each within the rate, so
    that four are within 8e-3 of each other.
    """
    before, lines = load(workdir), (workdir / "metrics.jsonl").read_text().splitlines()
    train_config(config(), workdir)
    after = load(workdir)
    described = lambda arrays: {name: (leaf.shape, leaf.dtype) for name, leaf in arrays.items()}
    assert described(after) == described(before)
    assert {name: int(leaf) for name, leaf in after.items() if leaf.dtype != np.float32} == {
        "step": 8, "seed": 0, "opt_state.1.0.count": 8, "opt_state.1.1.count": 8,
    }  # fmt: skip
    expected = recorded_leaves(after)
    found = {name: np.ravel(after[name])[places(after[name].size)] for name in expected}
    first, second = (max(np.abs(after[name]).max() for name in after if f".{each}." in name) for each in ("mu", "nu"))
    for name in (name.removeprefix("params.") for name in expected if name.startswith("params.")):
        mu, nu = f"opt_state.1.0.mu.{name}", f"opt_state.1.0.nu.{name}"
        np.testing.assert_allclose(found[mu], expected[mu], rtol=0, atol=1e-5 * first, err_msg=mu)
        np.testing.assert_allclose(found[nu], expected[nu], rtol=0, atol=1e-5 * second, err_msg=nu)
        within = np.where(expected[nu] > 1e-8 * second, 4e-5, 8e-3)
        for each in (f"params.{name}", f"ema.{name}"):
            assert np.all(np.abs(found[each] - expected[each]) <= within), each
    new = (workdir / "metrics.jsonl").read_text().splitlines()
    assert new[:2] == lines and len(new) == 4
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([json.loads(line)[name] for line in new[2:]], RECORDED[name], rtol=1e-4)


def test_batches_are_those_of_old_runs():
    found = [batches.batch_indices(4500, 8, 0, step) for step in (4, 5, 6, 7, 562, 563)]
    np.testing.assert_array_equal(found, RECORDED["batch_indices"])


def test_an_old_configuration_is_brought_up_to_date(workdir):
    """Format 1 had one number as the size, the dtype of computation in the model, and a dropout of labels alone."""
    old = json.loads((workdir / "config.json").read_text())
    assert "format" not in old and old["model"]["dtype"] == "float32" and old["training"]["label_dropout"] == 0.3
    found = configuration.load(workdir / "config.json")
    assert list(found.data.image_size) == [28, 28] and (found.data.degrade, found.data.held_out_split) == ("", "test")
    assert "dtype" not in found.model and "label_dropout" not in found.training
    how = found.training
    assert (how.dtype, how.remat, how.condition_dropout, how.held_out_every) == ("float32", False, 0.3, 0)
    assert (how.distance_every, how.distance_samples) == (0, 2000)
    assert found.data.corrupt == "stop"
    assert found.sampling.dtype == "float32"
    assert configuration.changes(config(), found) == []  # it is today's of the same run
    configuration.save(found, workdir / "config.json")
    assert json.loads((workdir / "config.json").read_text())["format"] == configuration.FORMAT
    assert configuration.load(workdir / "config.json") == found
    average = traverse_util.flatten_dict(weights.from_workdir(workdir).params, sep=".")
    for name, leaf in load(workdir).items():
        if name.startswith("ema."):
            np.testing.assert_array_equal(average.pop(name.removeprefix("ema.")), leaf)
    assert not average


def test_a_newer_configuration_is_refused(workdir):
    newest = configuration.FORMAT
    text = json.dumps({"format": newest + 1} | json.loads((workdir / "config.json").read_text()))
    message = f"config.json has format {newest + 1}, of a newer ddim_jax; this one reads up to {newest}: upgrade it"
    with pytest.raises(ValueError, match=message):
        configuration.from_json(text, "config.json")


def test_the_shipped_digits_are_drawn_as_before():
    """float32, 10 steps: another processor rounds otherwise, by less than an eighth of one of 255 levels of a pixel, 1e-3."""
    model = ddim_jax.load(weights.DIGITS)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {np.dtype("float32")}
    keys = jax.random.wrap_key_data(RECORDED["keys"])
    for eta in (0.0, 1.0):
        table = model.table(10, "trailing", "ddim", eta=eta)
        found = model.generator().sample(model.params, table, RECORDED["latents"], keys, {"label": np.array([0, 3, 6, 9])})
        np.testing.assert_allclose(found, RECORDED[f"eta{eta:.0f}"], rtol=0, atol=1e-3)
