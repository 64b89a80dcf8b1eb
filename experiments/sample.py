"""Samples from a trained network, encodes images with it, or interpolates between its latents.

    python -m experiments.sample --workdir=runs/cifar10 --num_images=50000 --modes=npz --output=samples/
    python -m experiments.sample --weights=FILE.safetensors --steps=20 --eta=0.5 --modes=grid,chain
    python -m experiments.sample --workdir=runs/cifar10 --modes=reconstruct --images=FOLDER

Modes, each of which writes one thing into --output:
    grid         samples.png
    files        samples/000000.png, ...
    npz          samples.npz, key "samples", uint8 [N, H, W, C]
    chain        chain.png: the predicted x_0 on the way, an image a row
    interpolate  interpolation.png, a line a row, and interpolation_grid.png, a square between four images
    reconstruct  reconstruction.png: images above, their reconstructions below
"""

import contextlib
import pathlib

import numpy as np
from absl import app, flags, logging

from ddim_jax.data import images, sources
from ddim_jax.diffusion import schedule, solvers
from ddim_jax.inference import pictures, weights
from ddim_jax.inference.generate import Generator

MODES = ("grid", "files", "npz", "chain", "interpolate", "reconstruct")

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, whose newest averaged weights are used.")
_WEIGHTS = flags.DEFINE_string("weights", None, "A safetensors file of weights, in place of --workdir.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write; the default is the folder samples/ of --workdir.")
_MODES = flags.DEFINE_list("modes", ["grid"], f"What to make, of {', '.join(MODES)}.")
_STEPS = flags.DEFINE_integer("steps", 50, "S, the number of sampling steps.", lower_bound=1)
_SPACING = flags.DEFINE_enum("spacing", "quadratic", schedule.SPACINGS, "How the steps are spread over the schedule.")
_SOLVER = flags.DEFINE_enum("solver", "ddim", ("ddim", "ddpm"), "The sampler.")
_ETA = flags.DEFINE_float("eta", 0.0, "Of ddim: 0 is deterministic, 1 as random as DDPM.")
_VARIANCE = flags.DEFINE_enum("variance", "small", ("small", "large"), "Of ddpm: its posterior's, or the paper's sigma-hat.")
_CLIP = flags.DEFINE_bool("clip", False, "Whether to clip each predicted x_0 to [-1, 1].")
_SEED = flags.DEFINE_integer("seed", 0, "Image i of a seed has the same latent at any setting and batch size.")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 64, "How many images (for chain, interpolate and reconstruct: rows).", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "How many images are drawn at once.", lower_bound=1)
_IMAGES = flags.DEFINE_string("images", None, "Folder of images to reconstruct; the default is the data set itself.")
_SPLIT = flags.DEFINE_string("split", "test", "Without --images: which part of the data set to reconstruct.")


def load_model() -> weights.Model:
    """The weights that the flags name."""
    if (_WORKDIR.value is None) == (_WEIGHTS.value is None):
        raise app.UsageError("give either --workdir, the folder of a training run, or --weights, a safetensors file")
    return weights.from_workdir(_WORKDIR.value) if _WORKDIR.value else weights.load(_WEIGHTS.value)


def make_table(noise_schedule: schedule.Schedule, tau: np.ndarray) -> solvers.StepTable:
    """The step table that the flags ask for."""
    if _SOLVER.value == "ddpm":
        return solvers.ddpm(noise_schedule, tau, _VARIANCE.value)
    return solvers.ddim(noise_schedule, tau, _ETA.value)


def to_reconstruct(config, count: int) -> np.ndarray:
    """The first `count` images of --images, or of the part of the configured data set that --split names."""
    data = config.data.copy_and_resolve_references()
    data.update(split=_SPLIT.value, memory_limit_mb=0)
    if _IMAGES.value:
        data.update(name="folder", split="train", directory=_IMAGES.value, crop="center")
    source = sources.load(data)
    return np.stack([source[i] for i in range(min(count, len(source)))])


def draw(generator: Generator, params, table: solvers.StepTable, output: pathlib.Path) -> None:
    """Draws --num_images once, batch by batch, into all of the files that --modes asks for."""
    count, done, kept = _NUM_IMAGES.value, 0, []
    batch_size = min(_BATCH_SIZE.value, count)
    with contextlib.ExitStack() as open_files:
        if "npz" in _MODES.value:
            writer = images.npz_writer(output / "samples.npz", "samples", (count, *generator.image_shape))
            append = open_files.enter_context(writer)
        for batch in generator.batches(params, table, _SEED.value, count, batch_size):
            if "npz" in _MODES.value:
                append(batch)
            if "files" in _MODES.value:
                for i, image in enumerate(batch, start=done):
                    images.save_png(output / "samples" / f"{i:06d}.png", image)
            if "grid" in _MODES.value:
                kept.append(batch)
            done += len(batch)
            print(f"\r{done} of {count} images", end="" if done < count else "\n", flush=True)
    if "grid" in _MODES.value:
        images.save_png(output / "samples.png", images.grid(np.concatenate(kept)))


def main(_):
    logging.set_verbosity(logging.ERROR)  # Orbax tells a great deal
    modes, count = _MODES.value, _NUM_IMAGES.value
    unknown = set(modes) - set(MODES)
    if unknown:
        raise app.UsageError(f"unknown modes {', '.join(sorted(unknown))}; expected some of {', '.join(MODES)}")
    model = load_model()
    if _OUTPUT.value is None and _WORKDIR.value is None:
        raise app.UsageError("give --output, the folder to write to")
    output = pathlib.Path(_OUTPUT.value or pathlib.Path(_WORKDIR.value) / "samples")
    generator = Generator(model.config, clip=_CLIP.value)
    tau = schedule.subsequence(generator.schedule.num_steps, _STEPS.value, _SPACING.value)
    table = make_table(generator.schedule, tau)

    def save(name, pictures_of):
        images.save_png(output / name, images.grid(pictures_of))

    if {"grid", "files", "npz"} & set(modes):
        draw(generator, model.params, table, output)
    if "chain" in modes:
        save("chain.png", pictures.chain(generator, model.params, table, _SEED.value, count, stages=10))
    if "interpolate" in modes:
        save("interpolation.png", pictures.interpolation(generator, model.params, table, _SEED.value, num=11, rows=count))
        save("interpolation_grid.png", pictures.interpolation_grid(generator, model.params, table, _SEED.value, num=11))
    if "reconstruct" in modes:
        real = to_reconstruct(model.config, count)
        save("reconstruction.png", [real, pictures.reconstruction(generator, model.params, tau, real)])
    print(f"wrote {', '.join(modes)} into {output}")


if __name__ == "__main__":
    app.run(main)
