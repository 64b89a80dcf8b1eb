"""Every shape in which the formats are published is recognised and read."""

import diffusers
import jax
import numpy as np
import pytest
import torch
from flax import traverse_util

from configs import cifar10
from ddim_jax import configuration, interop, weights
from tests.interop import published

SHAPE = published.TWICE
SIZE = SHAPE["size"]


def same(a, b):
    a, b = (traverse_util.flatten_dict(model.params, sep=".") for model in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def average(state):
    return {name: 0.5 * tensor for name, tensor in state.items()}


@pytest.mark.parametrize("legacy", [False, True])
def test_forms_of_the_papers_checkpoints(original, legacy, tmp_path):
    """A state dict, DataParallel's, and the training checkpoints of its code, whose average is what is wanted."""
    state = original.state_dict()
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    optimizer = torch.optim.Adam(original.parameters())
    forms = {
        "plain": state,
        "parallel": parallel,
        "without average": [parallel, optimizer.state_dict(), 3, 1000],
        "halved": average(state),
        "training": [parallel, optimizer.state_dict(), 3, 1000, average(state)],
    }
    read = {}
    for name, content in forms.items():
        torch.save(content, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
        read[name] = interop.read(tmp_path / f"{name}.pth", image_size=SIZE)
    same(read["plain"], read["parallel"])
    same(read["plain"], read["without average"])
    same(read["halved"], read["training"])
    kernel = original.down[0].block[0].conv1.weight.detach().numpy()
    np.testing.assert_array_equal(
        read["training"].params["down_0_block_0"]["conv1"]["kernel"].transpose(3, 2, 0, 1), 0.5 * kernel
    )


def test_the_state_of_an_optimizer_does_no_harm(original, tmp_path):
    optimizer = torch.optim.Adam(original.parameters(), amsgrad=True)
    sum(parameter.square().sum() for parameter in original.parameters()).backward()
    optimizer.step()
    state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    torch.save([state, optimizer.state_dict(), 3, 1000, state], tmp_path / "ckpt.pth")
    torch.save(state, tmp_path / "state.pth")
    same(interop.read(tmp_path / "ckpt.pth", image_size=SIZE), interop.read(tmp_path / "state.pth", image_size=SIZE))
    published.perturb(original)


@pytest.mark.parametrize("name, size", [("CIFAR10", 32), ("CELEBA", 64), ("LSUN", 256)])
def test_what_the_papers_tensors_tell(name, size, tmp_path):
    """The whole of config.model follows from shapes, the image size from attention at a side of 16: as in PAPER's table."""
    shape = published.ALL[name] | dict(size=size, attention_sides=(16,))
    torch.save(published.Original(**shape).state_dict(), tmp_path / "model.ckpt")
    config = interop.read(tmp_path / "model.ckpt").config
    assert configuration.image_shape(config) == (size, size, 3)
    assert config.model.to_dict() == cifar10.get_config().model.to_dict() | dict(
        channels=32, multipliers=shape["multipliers"], dropout=0.0
    )
    expected = cifar10.get_config().diffusion  # section 3: linear, 1000 steps, 1e-4 to 0.02
    assert config.diffusion.to_dict() == expected.to_dict()


def test_places_of_diffusers_files(unet, tmp_path):
    """A pipeline's folder, its unet folder, a file in it, and google/ddpm-*'s repositories, which keep all in one folder."""
    scheduler = diffusers.DDIMScheduler(beta_end=0.01, clip_sample=False, timestep_spacing="trailing")
    pipeline, flat = tmp_path / "pipeline", tmp_path / "flat"
    diffusers.DDIMPipeline(unet, scheduler).save_pretrained(pipeline)
    unet.save_pretrained(flat, safe_serialization=False)
    scheduler.save_pretrained(flat)
    file = "diffusion_pytorch_model.safetensors"
    read = [interop.read(path) for path in (pipeline, pipeline / "unet", pipeline / "unet" / file, flat)]
    for model in read:
        same(model, read[0])
        assert model.config == read[0].config
        assert (model.config.diffusion.beta_end, model.config.sampling.spacing) == (0.01, "trailing")
    (flat / "scheduler_config.json").unlink()
    assert interop.read(flat).config.diffusion.beta_end == 0.02  # the paper's, where no schedule is given


def test_ours(unet, tmp_path):
    unet.save_pretrained(tmp_path / "unet")
    model = interop.read(tmp_path / "unet")
    weights.save(tmp_path / "ours.safetensors", model)
    for format in (None, "ours"):
        again = interop.read(tmp_path / "ours.safetensors", format)
        same(model, again)
        assert again.config.to_json() == model.config.to_json()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is not the folder of a training run"):
        interop.read(tmp_path / "empty")


def test_parameters_are_arrays_of_their_own(unet, tmp_path):
    """Nothing points into the file, which may go away."""
    unet.save_pretrained(tmp_path)
    model = interop.read(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert all(isinstance(leaf, jax.Array) and np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params))
