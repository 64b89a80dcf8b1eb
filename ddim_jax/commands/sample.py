"""Samples from a trained network, encodes images with it, or interpolates between its latents.

    python -m experiments.sample --workdir=runs/cifar10 --num_images=50000 --modes=npz --output=samples/
    python -m experiments.sample --checkpoint=FILE.safetensors --steps=20 --solver=dpmpp_2m --spacing=logsnr --output=samples/
    python -m experiments.sample --workdir=runs/digits --label=3,4 --guidance=2
    python -m experiments.sample --workdir=runs/cifar10 --modes=reconstruct --images=FOLDER
    python -m experiments.sample --workdir=runs/cifar10 --modes=inpaint --images=FOLDER --mask=MASK.png --repeats=5 --eta=1
    python -m experiments.sample --workdir=runs/upscale --modes=restore

Modes, each of which writes one thing into --output; "all" is each that this network and these flags have what it needs for:
    grid         samples.png
    files        samples/000000.png, ...
    npz          samples.npz, key "samples", uint8 [N, H, W, C]
    chain        chain.png: the predicted x_0 on the way, an image a row
    interpolate  interpolation.png, a line a row, and interpolation_grid.png, a square between four images
    reconstruct  reconstruction.png: images above, their reconstructions by DDIM at eta = 0 below
    inpaint      inpainting.png: images, what is kept of them, and what was painted in, an image a column
    restore      restoration.png: what the network is told, what it drew, and the images themselves, an image a column
A network that is told an image draws for images of --images, or of --split of its data set, in every mode. These are
evenly spread over the folder or split.
"""

import dataclasses
import importlib
from typing import Any

from absl import app, flags

from ddim_jax import configuration, interop, weights
from ddim_jax.commands import command
from ddim_jax.common.files import check_writable
from ddim_jax.data import images
from ddim_jax.inference import model, render, request
from ddim_jax.inference.processes import SOLVERS

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, whose newest averaged weights are used.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A file or folder of weights, ours or published, in place of --workdir.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write; the default is the folder samples/ of --workdir.")
_DTYPE = flags.DEFINE_enum("dtype", None, ("float32", "bfloat16"), "What layers compute in. Default: the model's own.")
flags.DEFINE_list("modes", ["grid"], f"What to make, of {', '.join(request.MODES)}; or all.")
flags.DEFINE_integer("steps", None, "S, the number of sampling steps. Default: the model's own.")
flags.DEFINE_enum("spacing", None, model.SPACINGS, "How the steps are spread over the schedule. Default: the model's own.")
flags.DEFINE_enum("solver", None, list(SOLVERS), "The sampler. Default: ddim if --eta is given, else the model's own.")
flags.DEFINE_float("eta", None, "Of ddim: 0 is deterministic, 1 as random as DDPM. Default: the model's own.")
flags.DEFINE_integer("order", None, "Of plms (1 to 4; default 4) and unipc (1 to 3; default 2).")
flags.DEFINE_enum("variance", None, ("small", "large"), "Of ddpm: its posterior's, or sigma-hat. Default: the model's own.")
flags.DEFINE_bool("clip", None, "Whether to clip each predicted x_0 to [-1, 1]. Default: the model's own.")
flags.DEFINE_float("threshold", None, "Dynamic thresholding of x_0 at this percentile, such as 99.5.")
flags.DEFINE_list("label", None, "Classes to draw, in turn. Default: all; for modes that begin with images: not told.")
flags.DEFINE_float("guidance", None, "Weight of classifier-free guidance; 1 is the plain conditional network.")
flags.DEFINE_string("classifier", None, "MODULE:FUNCTION, log p(label | x_t) from (x_t, t, label), to guide with; needs --label.")
flags.DEFINE_float("classifier_weight", None, "How much its gradient counts; default 1.")
flags.DEFINE_string("mask", None, "Of inpaint: a picture of the images' size, white where they are kept.")
flags.DEFINE_integer("repeats", None, "Of inpaint: how often each step is taken (RePaint), with ddim; default 1.")
flags.DEFINE_integer("seed", 0, "Image i of a seed has the same latent at any setting and batch size.")
flags.DEFINE_integer("num_images", 64, "How many images (for the other modes: rows or columns).")
flags.DEFINE_integer("batch_size", 256, "How many images are drawn at once.")
flags.DEFINE_string("images", None, "Folder of images for reconstruct, inpaint, restore. Default: the data set itself.")
flags.DEFINE_string("split", None, "Without --images: which part of the data set that is; default test.")


def make_request(shape: tuple[int, int, int]) -> request.Request:
    """The request that the flags make; `shape` is that of the images, which a mask must have."""
    value: dict[str, Any] = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(request.Request)}
    value["modes"] = tuple(value["modes"])
    if value["label"] is not None:
        value["label"] = command.whole_numbers("label", "from 0")
    if value["classifier"] is not None:
        value["classifier"] = find(value["classifier"])
    if value["mask"] is not None:
        value["mask"] = images.load_mask(value["mask"], shape)
    return request.Request(**value)


def find(name: str):
    """The function MODULE:FUNCTION."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, ValueError, AttributeError) as error:
        raise app.UsageError(f"--classifier is {name}; expected MODULE:FUNCTION, as Python imports them ({error})") from error


def main(_: list[str]) -> None:
    """The command, once its flags are parsed."""
    source, output = command.source_and_output("samples")
    check_writable(output, folder=True)
    found = weights.from_workdir(source) if _WORKDIR.value else interop.read(source)
    config, asked = found.config, make_request(configuration.image_shape(found.config))
    has_images = asked.images is not None or config.data.name != "folder"
    made = configuration.make_model(*found, _DTYPE.value)
    plan = request.plan(asked, made, restores=bool(config.data.degrade), has_images=has_images)
    real, condition = None, {}
    if plan.needs_images:
        real = configuration.held_out_examples(config, asked.num_images, asked.images, asked.split or "test")[0]
        condition = configuration.image_condition(config, real)
    render.render(plan, output, real, condition, say=lambda line: print(line, flush=True))
    print(f"wrote {', '.join(plan.modes)} into {output}")


def run() -> None:
    """Runs the command line."""
    command.run(main)
