"""Runs that a configuration describes: which fields may change when a run goes on, and what is refused before it begins."""

import pytest

from ddim_jax import configuration, runs
from tests import tiny, tiny_distilled


@pytest.fixture
def begun(tmp_path):
    """A folder in which a run of each configuration has left a checkpoint."""

    def begin(config):
        (tmp_path / "checkpoints" / "4").mkdir(parents=True)
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
    with pytest.raises(ValueError, match=rf"config.{part}.{field} was .*, now .*initial_weights={workdir}"):
        configuration.check_same(config, configuration.load(workdir / "config.json"), workdir)
    config[part][field] = before
    configuration.check_same(config, configuration.load(workdir / "config.json"), workdir)


def test_what_may_change_when_a_run_goes_on(begun):
    """How it computes, how long it trains, what it shows: nothing that its weights or its data depend on."""
    config = tiny.get_config()
    workdir = begun(config)
    config.training.update(dtype="bfloat16", remat=True, steps=16, steps_per_call=5, log_every=3, held_out_every=7)
    config.sampling.update(dtype="bfloat16", steps=3, eta=1.0)
    config.data.update(memory_limit_mb=0, directory="/elsewhere", image_size=(28,))  # 28 x 28 written in another way
    configuration.check_same(config, configuration.load(workdir / "config.json"), workdir)


def test_distillation_needs_a_teacher(tmp_path):
    config = tiny_distilled.get_config()
    config.training.initial_weights = None
    with pytest.raises(ValueError, match="initial_weights names no teacher"):
        next(runs.distil(config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
