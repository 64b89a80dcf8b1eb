"""The arrows of import, and what holds for every configuration."""

import ast
import importlib
import json
import pathlib

import pytest
from ml_collections import ConfigDict

from configs import cifar10, demo, demo_distilled
from ddim_jax import configuration

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))

# What each part of the package may import of the rest of it. Up to `inference` all take objects; `configuration` and what stands
# above it know what a configuration is; `commands` read flags, and nothing imports them.
ALLOWED = {
    "common": set(),
    "diffusion": {"common"},
    "models": {"common"},
    "evaluation": {"common", "data", "diffusion", "inference", "models"},
    "data": {"common"},
    "training": {"common", "data", "diffusion", "models"},
    "inference": {"common", "data", "diffusion", "models"},
    "page": {"common"},
    "fields": {"common", "data", "diffusion", "inference", "training"},
    "configuration": {"common", "fields", "data", "diffusion", "evaluation", "models", "training", "inference"},
    "weights": {"common", "configuration", "training"},
    "runs": {"common", "configuration", "data", "training", "weights"},
    "interop": {"common", "configuration", "diffusion", "inference", "weights"},
    "commands": {"common", "configuration", "data", "evaluation", "inference", "interop", "page", "runs", "training", "weights"},
    "__init__": {"diffusion", "interop", "training"},  # names, imported when they are asked for
}


def imports(path: pathlib.Path) -> set[str]:
    """Full names of all that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "ddim_jax").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_of_import(path):
    part = path.relative_to(ROOT / "ddim_jax").with_suffix("").parts[0]
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("ddim_jax.")}
    assert ours - {part} <= ALLOWED.get(part, set())
    assert not any(name.split(".")[0] in ("configs", "experiments", "tests") for name in imports(path))
    if part not in ("fields", "configuration", "weights", "runs", "interop", "commands"):
        assert not any(name.split(".")[0] == "ml_collections" for name in imports(path))
    if part != "commands":
        assert not any(name.split(".")[0] == "absl" for name in imports(path))
    if part == "diffusion":
        outside = {name.split(".")[0] for name in imports(path)} - {"ddim_jax"}
        assert outside <= {"collections", "jax", "math", "numpy", "typing"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_describes_a_run(name, tmp_path):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    assert configuration.make_schedule(config).num_steps == 1000
    configuration.make_unet(config)
    for line in ("Source:", "Data:", "Command:", "Sample:", "Cost:", "Expect:"):
        assert line in module.__doc__, f"configs/{name}.py should open with its {line}"
    assert f"--config=configs/{name}.py" in module.__doc__
    configuration.check(config)
    # What a run saves is what it was.
    configuration.save(config, tmp_path / "config.json")
    again = configuration.load(tmp_path / "config.json")
    assert configuration.make_unet(again) == configuration.make_unet(config)
    assert again == configuration.Config(json.loads(config.to_json()))  # tuples are lists in JSON


def test_hyper_parameters_of_the_paper():
    # DDPM appendix B for CIFAR-10, which the paper uses unchanged.
    c = cifar10.get_config()
    run = c.training
    assert (run.learning_rate, run.batch_size, run.warmup_steps, run.grad_clip, run.ema_decay) == (2e-4, 128, 5000, 1.0, 0.9999)
    assert (c.model.dropout, c.data.flip, c.diffusion.beta_start, c.diffusion.beta_end) == (0.1, True, 1e-4, 0.02)


@pytest.mark.parametrize(
    "part, field, value, message",
    [
        (
            "diffusion",
            "schedule",
            "sigmoid",
            "config.diffusion.schedule is 'sigmoid'; expected one of linear, scaled_linear, cosine",
        ),
        ("data", "image_size", (30, 28), "divisible by 4"),
        ("data", "image_size", (28, 28, 1), r"config.data.image_size is \(28, 28, 1\); expected \(H, W\)"),
        ("data", "degrade", "blurred", "config.data.degrade is 'blurred'; expected one of half_size, grey"),
        ("model", "attention_sides", (7.5,), r"config.model.attention_sides is \(7.5,\); expected whole numbers above 0"),
        ("diffusion", "num_steps", 0, "config.diffusion.num_steps is 0; it must lie between 1"),
        ("sampling", "dtype", "float17", "config.sampling.dtype is 'float17'; expected one of float32, bfloat16"),
        ("model", "channels", 100, "multiple of 32"),
        ("model", "channels", 65536, "takes at least .* GB of memory, but .* has .* GB"),
        ("training", "batch_size", 10**9, "config.training.batch_size=1000000000 takes at least .* GB of memory"),
        ("sampling", "count", 0, "config.sampling.count is 0; it must lie between 1 and any finite number"),
        ("sampling", "steps", 1001, "cannot choose 1001 sampling steps out of 1000"),
        ("sampling", "eta", float("nan"), "config.sampling.eta is nan"),
        ("training", "learning_rate", float("inf"), "config.training.learning_rate is inf"),
        ("model", "num_blocks", -1, "config.model.num_blocks is -1; it must lie between 0 and 64"),
        ("model", "patch_size", -4, "config.model.patch_size is -4"),
        ("model", "multipliers", (), r"multipliers is \(\); expected whole numbers above 0"),
        ("data", "image_size", (2**20, 2**20), r"config.data.image_size is \(1048576, 1048576\); expected"),
    ],
)
def test_a_configuration_that_cannot_work(part, field, value, message):
    config = demo.get_config()
    config[part][field] = value
    with pytest.raises(ValueError, match=message):
        configuration.check(config)


@pytest.mark.parametrize("stages", [(), (16, 16), (16, 8, 5), (4, 8), (0,), (1.5,), 8, None])
def test_stages_that_halve_nothing(stages):
    config = demo_distilled.get_config()
    configuration.check_stages(config)
    config.distillation = ConfigDict({} if stages is None else dict(student_steps=stages))
    with pytest.raises(ValueError, match="student_steps"):
        configuration.check_stages(config)


def test_an_unknown_field_is_refused():
    config = ConfigDict(demo.get_config()).lock()
    with pytest.raises(AttributeError, match="Did you mean.*batch_size"):
        config.training.batchsize = 3
