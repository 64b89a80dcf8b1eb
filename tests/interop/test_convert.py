"""Our weights out, and back: bit for bit, with the same images from diffusers' own pipeline, and never half a file."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import diffusers
import jax
import numpy as np
import pytest
import torch
from flax import traverse_util

from configs import cifar10
from ddim_jax import configuration, interop, weights
from ddim_jax.common import tensor_files
from ddim_jax.interop import to_diffusers
from ddim_jax.training.checkpoints import Checkpoints, copied
from tests.interop import published

ROOT = pathlib.Path(__file__).parents[2]


def make_model(**changes):
    """A small network of ours with random parameters, none of which is 0; changes are of config.model or config.diffusion."""
    config = cifar10.get_config()
    config.data.update(image_size=(8, 8))
    config.model.update(channels=32, multipliers=(1, 2), num_blocks=1, attention_sides=(4,))
    for section in (config.model, config.diffusion, config.sampling):
        section.update({name: value for name, value in changes.items() if name in section})
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 0.3 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jax.numpy.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)

    return weights.Weights(config, jax.tree.map(draw, configuration.parameter_shapes(config)))


@pytest.fixture(scope="module")
def model():
    return make_model()


def bits(model):
    flat = traverse_util.flatten_dict(model.params, sep=".")
    return {name: np.asarray(array).view(np.uint32) for name, array in flat.items()}


def test_ours_to_diffusers_to_ours_is_the_same_bit_for_bit(model, tmp_path):
    to_diffusers.save(tmp_path / "out", model)
    again = interop.read(tmp_path / "out")
    assert bits(again).keys() == bits(model).keys()
    for name, array in bits(model).items():
        np.testing.assert_array_equal(bits(again)[name], array, err_msg=name)
    assert configuration.make_unet(again.config) == configuration.make_unet(model.config)
    assert again.config.diffusion == model.config.diffusion
    assert configuration.image_shape(again.config) == configuration.image_shape(model.config)


class Saved(NamedTuple):  # as much of a training state as its readers ask for
    step: int
    ema: Any


def test_from_a_run_and_through_every_format(model, tmp_path):
    """A run's folder, diffusers, a file of ours, diffusers again: the same bits at the end."""
    (tmp_path / "run").mkdir()
    configuration.save(model.config, tmp_path / "run" / "config.json")
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(copied(Saved(8, model.params)))
    to_diffusers.save(tmp_path / "a", interop.read(tmp_path / "run"))
    weights.save(tmp_path / "b.safetensors", interop.read(tmp_path / "a"))
    to_diffusers.save(tmp_path / "c", interop.read(tmp_path / "b.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, bits(interop.read(tmp_path / "c")), bits(model))
    a, c = (folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in (tmp_path / "a", tmp_path / "c"))
    assert a.read_bytes() == c.read_bytes()


@pytest.mark.parametrize("name", ["UNEVEN", "TWICE"])
def test_diffusers_reads_back_what_it_wrote(name, tmp_path):
    """The other way round: every tensor of its file, by its own name, is again what it was."""
    unet = published.perturb(diffusers.UNet2DModel(**published.diffusers_config(published.ALL[name])))
    unet.save_pretrained(tmp_path / "in")
    to_diffusers.save(tmp_path / "out", interop.read(tmp_path / "in"))
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    assert again.state_dict().keys() == unet.state_dict().keys()
    for key, tensor in unet.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    plain = lambda config: {name: value for name, value in config.items() if not name.startswith("_")}
    assert plain(again.config) == plain(unet.config)


@pytest.mark.parametrize(
    "changes",
    [
        # Under the paper's schedule an untrained network's images grow beyond all pixels; this one ends at alpha_bar = 0.6.
        dict(prediction="eps", beta_end=0.001, spacing="leading"),
        dict(prediction="eps", beta_end=0.001, spacing="leading", clip=True),
        dict(prediction="v", zero_terminal_snr=True, spacing="trailing"),
        dict(prediction="x0", spacing="leading"),
    ],
    ids=str,
)
@pytest.mark.slow
def test_diffusers_pipeline_draws_our_images(changes, tmp_path):
    """`DDIMPipeline.from_pretrained` on our folder, from the same latents: within one level of 255."""
    ours = make_model(**changes)
    to_diffusers.save(tmp_path / "out", ours)
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    draw = dict(batch_size=3, num_inference_steps=20, output_type="np", use_clipped_model_output=True)
    expected = pipeline(generator=torch.Generator().manual_seed(4), **draw).images
    assert np.mean((expected > 0) & (expected < 1)) > 0.25  # not all black and white

    x = torch.randn((3, 3, 8, 8), generator=torch.Generator().manual_seed(4)).numpy().transpose(0, 2, 3, 1)
    got = np.clip(configuration.make_model(*ours).decode(x, steps=20) / 2 + 0.5, 0, 1)
    assert np.abs(got - expected).max() < 1 / 255


def test_quadratic_spacing_becomes_leading(model, tmp_path):
    assert model.config.sampling.spacing == "quadratic"
    to_diffusers.save(tmp_path / "out", model)
    assert json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())["timestep_spacing"] == "leading"


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(patch_size=2), "config.model.patch_size=2"),
        (dict(input_skip=True), "config.model.input_skip=True"),
        (dict(num_classes=10), "config.model.num_classes=10"),
        (dict(multipliers=(2, 2)), "config.model.multipliers=[2, 2], whose first is not 1"),
        (dict(categories=4, prediction="x0"), "config.diffusion.categories=4"),
    ],
)
def test_what_diffusers_cannot_hold_is_refused(changes, named, tmp_path):
    with pytest.raises(ValueError) as caught:
        to_diffusers.save(tmp_path / "out", make_model(**changes))
    assert f"no counterpart of {named}" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_written_whole_or_not_at_all(model, tmp_path, monkeypatch):
    def fails_in_the_middle(path, arrays):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(tensor_files, "write", fails_in_the_middle)
        with pytest.raises(OSError, match="disk full"):
            to_diffusers.save(tmp_path / "out", model)
    assert not list(tmp_path.iterdir())

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds something"):
        to_diffusers.save(tmp_path / "out", model)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious"]


def command(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command(tmp_path):
    module = published.perturb(published.Original(**published.TWICE))
    torch.save(module.state_dict(), tmp_path / "model.ckpt")
    ours, theirs = tmp_path / "model.safetensors", tmp_path / "theirs"
    for arguments in [(tmp_path / "model.ckpt", ours, "--image_size=8", "--format=ermongroup"), (ours, theirs)]:
        done = command("experiments.convert", *arguments)
        assert done.returncode == 0 and f"wrote {arguments[1]}" in done.stdout, done.stderr
    assert (tmp_path / "model.safetensors.sha256").exists()
    jax.tree.map(np.testing.assert_array_equal, interop.read(theirs).params, weights.load(ours).params)
    sampled = command("experiments.sample", f"--checkpoint={theirs}", f"--output={tmp_path}/out", "--num_images=2", "--steps=2")
    assert sampled.returncode == 0, sampled.stderr
    assert (tmp_path / "out" / "samples.png").exists()
    done = command("experiments.convert", tmp_path / "model.ckpt", tmp_path / "bad.safetensors")
    assert done.returncode != 0 and "give image_size" in done.stderr
    assert not list(tmp_path.glob("*bad*"))
