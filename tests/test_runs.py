"""Runs that a configuration describes: which fields may change when a run goes on, and what is refused before it begins."""

import json
import re

import numpy as np
import pytest
from flax import traverse_util

from ddim_jax import configuration, runs, weights
from ddim_jax.data import sources
from ddim_jax.evaluation import features, measuring, moments
from ddim_jax.training.checkpoints import Checkpoints
from tests import tiny, tiny_distilled


@pytest.fixture
def begun(tmp_path):
    """A folder in which a run of each configuration has left a checkpoint."""

    def begin(config):
        configuration.save(config, tmp_path / "config.json")
        return tmp_path

    return begin


@pytest.mark.parametrize(
    "part, field, value",
    [
        ("distillation", "student_steps", (4, 2)),  # else the run would go on under another teacher
        ("training", "batch_size", 16),
        ("data", "degrade", "half_size"),
        ("model", "patch_size", 2),
        ("diffusion", "beta_end", 0.01),
    ],
)
def test_what_makes_it_another_run(begun, part, field, value):
    config = tiny_distilled.get_config()
    workdir = begun(config)
    before = config[part][field]
    config[part][field] = value
    (changed,) = configuration.changes(config, configuration.load(workdir / "config.json"))
    assert re.fullmatch(rf"config.{part}.{field} was .*, now .*", changed)
    config[part][field] = before
    assert configuration.changes(config, configuration.load(workdir / "config.json")) == []


def test_what_may_change_when_a_run_goes_on(begun):
    """How it computes, how long it trains, what it shows: nothing that its weights or its data depend on."""
    config = tiny.get_config()
    workdir = begun(config)
    config.training.update(dtype="bfloat16", remat=True, steps=16, steps_per_call=5, log_every=3, held_out_every=7)
    config.sampling.update(dtype="bfloat16", steps=3, eta=1.0)
    config.data.update(memory_limit_mb=0, directory="/elsewhere", corrupt="skip")
    config.data.image_size = (28,)  # 28 x 28 written in another way
    assert configuration.changes(config, configuration.load(workdir / "config.json")) == []


def test_distillation_needs_a_teacher(tmp_path):
    config = tiny_distilled.get_config()
    config.training.initial_weights = None
    with pytest.raises(ValueError, match="initial_weights names no teacher"):
        next(runs.distil(config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_best_weights_are_kept_beside_the_newest(tmp_path, monkeypatch):
    """By the distance of 40 samples after 2, 4 and 6 steps, of which the second is made the best; in a run that goes on, too."""
    config = tiny.get_config()
    config.training.update(steps=4, checkpoint_every=2, distance_every=2, distance_samples=40)
    found, make_judge = iter([5.0, 3.0, 4.0]), configuration.make_judge

    def judge(config, folder):
        run = make_judge(config, folder)
        return lambda params: {"real distance": run(params)["distance"], "distance": next(found)}

    monkeypatch.setattr(configuration, "make_judge", judge)
    state = runs.train_config(config, tmp_path)
    config.training.steps = 6
    runs.train_config(config, tmp_path)
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 4, "distance": 3.0, "file": "best_4.safetensors"}
    assert sorted(path.name for path in tmp_path.glob("best*")) == [
        "best.json",
        "best_4.safetensors",
        "best_4.safetensors.sha256",
    ]
    kept = weights.load(tmp_path / "best_4.safetensors")
    assert configuration.changes(config, kept.config) == []
    expected, params = (traverse_util.flatten_dict(each) for each in (state.ema, kept.params))
    for name, leaf in expected.items():
        np.testing.assert_array_equal(params[name], leaf)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 6
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    at_4 = next(line["real distance"] for line in logged if line["step"] == 4 and "real distance" in line)
    # The same figure without a hook: what the model draws, at once, against the training images.
    extractor = configuration.make_extractor(config)
    describe, model = features.describer(extractor), configuration.make_model(*kept)
    drawn = np.clip(np.round((model.sample(40, seed=config.training.seed) + 1) * 127.5), 0, 255).astype(np.uint8)
    rows, real = (measuring.measure(describe, [each], len(each)) for each in (drawn, sources.mnist_5k("train")))
    np.testing.assert_allclose(at_4, moments.frechet_distance(rows.moments, real.moments), rtol=1e-3)


def test_a_distance_of_what_is_not_drawn_freely_is_refused():
    config = tiny.get_config()
    config.training.distance_every = 2
    configuration.check(config)
    config.data.degrade = "half_size"
    with pytest.raises(ValueError, match="distance_every is of networks with Gaussian noise that draw freely"):
        configuration.check(config)


@pytest.mark.slow
def test_a_first_checkpoint_that_was_not_written_to_its_end_is_none(tmp_path):
    """Under this name Orbax writes what becomes the checkpoint of step 4."""
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(parents=True)
    assert runs.train_config(tiny.get_config(), tmp_path).step == 8
