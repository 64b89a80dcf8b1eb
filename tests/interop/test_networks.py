"""Imported networks say what the originals say: the paper's PyTorch module and diffusers' UNet2DModel, on random weights."""

import json

import diffusers
import numpy as np
import pytest
import torch

from configs import cifar10
from ddim_jax import configuration, interop
from ddim_jax.inference.adjusting import Adjustment
from tests.interop import published

SMALL = ("FLAT", "UNEVEN", "TWICE")
NAMES = [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in published.ALL]


def outputs(module, x, step):
    with torch.no_grad():
        out = module(torch.tensor(x), torch.tensor(step))
    return (out if torch.is_tensor(out) else out.sample).numpy()


@pytest.mark.parametrize(
    "size, multipliers, parameters",
    [(32, (1, 2, 2, 2), 35_746_307), (64, (1, 2, 2, 2, 4), 78_700_803), (256, (1, 1, 2, 2, 4, 4), 113_673_219)],
)
def test_the_fixture_is_the_published_network(size, multipliers, parameters):
    # The sizes of the published checkpoints; 35.7M and 114M also stand in DDPM's appendix B.
    with torch.device("meta"):
        module = published.Original(channels=128, multipliers=multipliers, num_blocks=2, attention_sides=(16,), size=size)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_network(name, tmp_path):
    shape = published.ALL[name]
    module = published.perturb(published.Original(**shape))
    torch.save(module.state_dict(), tmp_path / "model.ckpt")
    # The published ones attend at a side of 16, which tells their size; the others are not published.
    model = interop.read(tmp_path / "model.ckpt", image_size=None if name in ("CIFAR10", "CELEBA") else shape["size"])
    assert configuration.image_shape(model.config)[:2] == 2 * (shape["size"],)
    x, step = published.inputs(shape)
    expected = outputs(module, x, step)
    assert expected.std() > 0.3  # not a network at its zero initialisation
    np.testing.assert_allclose(published.ours(model, x, step), expected, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "FLAT"])
def test_diffusers_network(name, tmp_path):
    shape = published.ALL[name]
    module = published.perturb(diffusers.UNet2DModel(**published.diffusers_config(shape)), seed=2)
    module.save_pretrained(tmp_path)
    model = interop.read(tmp_path)
    x, step = published.inputs(shape)
    expected = outputs(module, x, step)
    assert expected.std() > 0.3
    np.testing.assert_allclose(published.ours(model, x, step), expected, atol=2e-5)


def test_a_step_that_is_off_by_one_would_show():
    shape = published.TWICE
    module = published.perturb(published.Original(**shape))
    x, step = published.inputs(shape)
    near, far = outputs(module, x, step), outputs(module, x, np.abs(step - 1))
    assert np.abs(near - far).max() > 1e-3  # so that 2e-5 above tells the two apart


def test_a_repository_of_2022(tmp_path):
    """google/ddpm-cifar10-32 as first published: few options, all in one folder, a pickle, old names of attention."""
    options = published.diffusers_config(published.TWICE)
    module = published.perturb(diffusers.UNet2DModel(**options))
    tensors = module.state_dict()
    for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    torch.save(tensors, tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4"} | options))
    scheduler = dict(beta_end=0.02, beta_schedule="linear", beta_start=0.0001, clip_sample=True, num_train_timesteps=1000)
    scheduler |= dict(trained_betas=None, variance_type="fixed_large", _class_name="DDPMScheduler", _diffusers_version="0.1.1")
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
    model = interop.read(tmp_path)
    x, step = published.inputs(published.TWICE)
    np.testing.assert_allclose(published.ours(model, x, step), outputs(module, x, step), atol=2e-5)
    assert model.config.diffusion == cifar10.get_config().diffusion  # DDPM's schedule is the paper's
    sampling = model.config.sampling
    assert (sampling.solver, sampling.variance, sampling.steps, sampling.clip) == ("ddpm", "large", 1000, True)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.slow
def test_a_trajectory_of_20_steps(clip, tmp_path):
    """Eq. 12 at eta = 0 with the original network and schedule, in PyTorch; x_0 clipped as Ho et al. do, or not."""
    module = published.perturb(published.Original(**published.TWICE))
    torch.save(module.state_dict(), tmp_path / "model.ckpt")
    model = interop.load(tmp_path / "model.ckpt", image_size=8)
    x, _ = published.inputs(published.TWICE)

    generator = model.generator(Adjustment(clip=clip))
    path = generator.trajectory(model.params, model.table(20), x.transpose(0, 2, 3, 1))
    got = np.asarray(path.x).transpose(0, 1, 4, 2, 3)

    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # section 3 of DDPM
    expected = [torch.tensor(x)]
    for step in range(950, -1, -50):  # the paper's code: seq = range(0, 1000, 1000 // 20)
        a, b = alpha_bar[step], alpha_bar[step - 50] if step else 1.0
        with torch.no_grad():
            eps = module(expected[-1], torch.full((len(x),), step))
        x0 = (expected[-1] - (1 - a) ** 0.5 * eps) / a**0.5
        if clip:
            x0 = x0.clamp(-1, 1)
            eps = (expected[-1] - a**0.5 * x0) / (1 - a) ** 0.5
        expected.append(b**0.5 * x0 + (1 - b) ** 0.5 * eps)
    expected = np.stack(expected)
    # A network that is not trained tells no noise from images, so that without clipping x grows by 1 / sqrt(a_951), to
    # some 300; the error is to be small beside that.
    assert clip or np.abs(expected).max() > 100
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * (1 if clip else np.abs(expected).max()))


def test_half_precision_is_read_exactly(tmp_path):
    module = published.perturb(diffusers.UNet2DModel(**published.diffusers_config(published.TWICE)))
    module.bfloat16().save_pretrained(tmp_path)
    module.half().save_pretrained(tmp_path / "half", safe_serialization=False)
    for folder, dtype in [(tmp_path, torch.bfloat16), (tmp_path / "half", torch.float16)]:
        assert json.loads((folder / "config.json").read_text())["_class_name"] == "UNet2DModel"
        got = interop.read(folder).params["conv_in"]["kernel"]
        expected = module.conv_in.weight.to(dtype).float().detach().numpy()  # bfloat16, then float16: the same twice
        assert got.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(got).transpose(3, 2, 0, 1), expected)
