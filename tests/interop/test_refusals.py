"""What cannot be read is refused, saying what does not fit; never half understood."""

import json

import diffusers
import pytest
import safetensors.torch
import torch

from ddim_jax import interop
from ddim_jax.interop import unets
from tests.interop import published

SIZE = published.TWICE["size"]


def refuse(path, *lines, **options):
    with pytest.raises(ValueError) as caught:
        interop.read(path, **options)
    for line in lines:
        assert line in str(caught.value)


def test_tensors_that_do_not_fit_are_all_named_with_both_shapes(original, unet, tmp_path):
    """In the file's own names and layouts: this is what its owner can look for."""
    state = dict(original.state_dict())
    state["down.0.block.0.conv2.weight"] = state["down.0.block.0.conv2.weight"][:, :, 0, 0]
    # Swapped: of the right sizes, but in each other's place.
    state["up.1.block.0.conv1.weight"], state["mid.attn_1.q.weight"] = (
        state["mid.attn_1.q.weight"],
        state["up.1.block.0.conv1.weight"],
    )
    state["logvar"] = torch.zeros(1000)
    state["conv_out.bias"] = state["conv_out.bias"].long()
    del state["mid.block_1.norm1.bias"]
    torch.save(state, tmp_path / "bad.pt")
    refuse(
        tmp_path / "bad.pt",
        "bad.pt does not fit",
        "down.0.block.0.conv2.weight: float32[32, 32], expected float32[32, 32, 3, 3]",
        "up.1.block.0.conv1.weight: float32[64, 64, 1, 1], expected float32[64, 128, 3, 3]",
        "mid.attn_1.q.weight: float32[64, 128, 3, 3], expected float32[64, 64, 1, 1]",
        "logvar: float32[1000], expected nothing of this name",
        "conv_out.bias: int64[3], expected float32[3]",
        "mid.block_1.norm1.bias: missing, expected float32[64]",
        image_size=SIZE,
    )

    unet.save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["mid_block.attentions.0.to_q.weight"] = tensors["mid_block.attentions.0.to_q.weight"][:, :5].contiguous()
    tensors["class_embedding.weight"] = torch.zeros(10, 128)
    safetensors.torch.save_file(tensors, file)
    refuse(
        tmp_path / "unet",
        "mid_block.attentions.0.to_q.weight: float32[64, 5], expected float32[64, 64]",
        "class_embedding.weight: float32[10, 128], expected nothing of this name",
    )


def test_weights_that_are_not_finite(original, tmp_path):
    state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    state["conv_out.bias"][1] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    refuse(tmp_path / "nan.pt", "nan.pt holds NaN or infinite numbers in conv_out.bias", image_size=SIZE)


def test_swapped_shapes_of_an_inferred_width(original, tmp_path):
    state = dict(original.state_dict())
    state["conv_in.weight"] = state["conv_in.weight"].transpose(0, 1).contiguous()
    torch.save(state, tmp_path / "bad.pt")
    refuse(tmp_path / "bad.pt", "its levels have [32, 64] channels, expected multiples of conv_in's 3", image_size=SIZE)
    state["conv_in.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "bad.pt")
    refuse(tmp_path / "bad.pt", "conv_in.weight has shape (3,), expected 4 dimensions", image_size=SIZE)


def test_an_image_size_that_the_tensors_do_not_tell(original, tmp_path):
    torch.save(original.state_dict(), tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", "attends on 2 levels", "give image_size")


@pytest.mark.parametrize(
    "option, named",
    [
        (dict(norm_eps=1e-5), "norm_eps=1e-05, expected 1e-06"),
        (dict(downsample_padding=1), "downsample_padding=1, expected 0"),
        (dict(flip_sin_to_cos=True, freq_shift=0), "freq_shift=0, expected 1"),
        (dict(attention_head_dim=8), "attention_head_dim=8, expected None, for one head"),
        (dict(resnet_time_scale_shift="scale_shift"), "resnet_time_scale_shift='scale_shift', expected 'default'"),
        (dict(num_class_embeds=10), "num_class_embeds=10, expected None"),
        (dict(out_channels=6), "in_channels=3, out_channels=6, expected the same"),
        (dict(down_block_types=["DownBlock2D", "ResnetDownsampleBlock2D"]), "'ResnetDownsampleBlock2D'"),
        (dict(up_block_types=["UpBlock2D", "AttnUpBlock2D"]), "the same way up as down"),
        (dict(block_out_channels=[32, 48]), "block_out_channels=[32, 48], expected multiples of the first"),
        (dict(sample_size=[8, 16]), "sample_size=[8, 16], expected one number"),
        (dict(new_trick=True), "new_trick=True, an option unknown here"),
        (dict(_class_name="UNet2DConditionModel"), "describes a 'UNet2DConditionModel'; expected a UNet2DModel"),
    ],
)
def test_networks_of_diffusers_that_are_not_ours(unet, option, named, tmp_path):
    unet.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | option))
    refuse(tmp_path, "config.json describes", named)


def test_every_option_that_diffusers_writes_is_known(unet):
    """With a new option in diffusers this fails, so that somebody decides what it means here."""
    fields = json.loads(unet.to_json_string())
    assert {name for name in fields if not name.startswith("_")} == unets._FIXED.keys() | unets._READ.keys()
    default = json.loads(diffusers.UNet2DModel().to_json_string())
    ours = {name: value for name, (value, _) in unets._FIXED.items()} | unets._READ
    assert json.loads(json.dumps(ours)) == {name: value for name, value in default.items() if not name.startswith("_")}


def test_openais_networks_are_refused_with_the_reason(tmp_path):
    torch.save({"time_embed.0.weight": torch.zeros(2), "input_blocks.0.0.weight": torch.zeros(2)}, tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "improved-diffusion or guided-diffusion", "scale-shift normalisation")


def test_what_is_no_format_at_all(tmp_path):
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "holds encoder.weight, ..., which belong to no format known here", "ermongroup: a state dict")
    torch.save({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "y.pt")
    refuse(tmp_path / "y.pt", "y.pt holds something else than a dictionary of tensors")
    torch.save({0: torch.zeros(2)}, tmp_path / "y.pt")
    refuse(tmp_path / "y.pt", "y.pt holds something else than a dictionary of tensors")
    (tmp_path / "z.txt").write_text("hello")
    refuse(tmp_path / "z.txt", "z.txt is damaged or not a PyTorch checkpoint")
    refuse(tmp_path / "z.txt", "unknown format 'keras'; expected one of ours, ermongroup, diffusers", format="keras")
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        interop.read(tmp_path / "nowhere")


def test_a_format_that_was_asked_for_is_not_guessed(original, tmp_path):
    torch.save(original.state_dict(), tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "no config.json beside it", format="diffusers")
    refuse(tmp_path / "x.pt", "x.pt is damaged or not a safetensors file", format="ours")


@pytest.mark.parametrize("cut", [1, 1000, 200_000])
def test_a_truncated_safetensors_file(unet, cut, tmp_path):
    unet.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    refuse(tmp_path, "diffusion_pytorch_model.safetensors is damaged or not a safetensors file")


def test_a_wrong_hash(original, tmp_path):
    file, digest = tmp_path / "x.pt", tmp_path / "x.pt.sha256"
    torch.save(original.state_dict(), file)
    digest.write_text(f"{'0' * 64}  x.pt\n")
    refuse(file, "x.pt is not the file that x.pt.sha256 was written for", image_size=SIZE)


def test_a_scheduler_that_cannot_work_is_refused_with_its_network(unet, tmp_path):
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(steps_offset=1)).save_pretrained(tmp_path / "offset")
    refuse(tmp_path / "offset", "scheduler_config.json asks for what has no counterpart here: steps_offset=1")
    # Pure noise tells nothing of x_0, so eps cannot be predicted from it.
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(rescale_betas_zero_snr=True)).save_pretrained(tmp_path / "zero")
    refuse(tmp_path / "zero", "zero terminal SNR")


@pytest.mark.parametrize("text", ["{", "[1]", "7"])
def test_a_damaged_configuration(unet, text, tmp_path):
    unet.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    refuse(tmp_path, "config.json is damaged or not a configuration in JSON")
