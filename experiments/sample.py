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
_NUM_IMAGES = flags.DEFINE_integer("num_images", 64, "How many images (for chain, interpolate and reconstruct: rows).", lower_bound=1)
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


def main(_):
    logging.set_verbosity(logging.ERROR)  # Orbax tells a great deal
    unknown = set(_MODES.value) - set(MODES)
    if unknown:
        raise app.UsageError(f"unknown modes {', '.join(sorted(unknown))}; expected some of {', '.join(MODES)}")
    model = load_model()
    if _OUTPUT.value is None and _WORKDIR.value is None:
        raise app.UsageError("give --output, the folder to write to")
    output = pathlib.Path(_OUTPUT.value or pathlib.Path(_WORKDIR.value) / "samples")
    generator = Generator(model.config, clip=_CLIP.value)
    tau = schedule.subsequence(generator.schedule.num_steps, _STEPS.value, _SPACING.value)
    table = make_table(generator.schedule, tau)
    run = dict(generator=generator, params=model.params)
    count, batch_size = _NUM_IMAGES.value, min(_BATCH_SIZE.value, _NUM_IMAGES.value)

    def drawn():
        done = 0
        for batch in generator.batches(model.params, table, _SEED.value, count, batch_size):
            yield batch
            done += len(batch)
            print(f"\r{done} of {count} images", end="" if done < count else "\n", flush=True)

    for mode in _MODES.value:
        if mode == "grid":
            images.save_png(output / "samples.png", images.grid(np.concatenate(list(drawn()))))
        elif mode == "npz":
            images.save_npz(output / "samples.npz", "samples", drawn(), (count, *generator.image_shape))
        elif mode == "files":
            numbered = (image for batch in drawn() for image in batch)
            for i, image in enumerate(numbered):
                images.save_png(output / "samples" / f"{i:06d}.png", image)
        elif mode == "chain":
            stages = pictures.chain(**run, table=table, seed=_SEED.value, count=count, stages=10)
            images.save_png(output / "chain.png", images.grid(stages))
        elif mode == "interpolate":
            lines = pictures.interpolation(**run, table=table, seed=_SEED.value, num=11, rows=count)
            images.save_png(output / "interpolation.png", images.grid(lines))
            square = pictures.interpolation_grid(**run, table=table, seed=_SEED.value, num=11)
            images.save_png(output / "interpolation_grid.png", images.grid(square))
        elif mode == "reconstruct":
            real = to_reconstruct(model.config, count)
            images.save_png(output / "reconstruction.png", images.grid(np.stack([real, pictures.reconstruction(**run, tau=tau, images=real)])))
    print(f"wrote {', '.join(_MODES.value)} into {output}")


if __name__ == "__main__":
    app.run(main)
