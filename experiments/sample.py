"""Samples from a trained network, encodes images with it, or interpolates between its latents.

    python -m experiments.sample --workdir=runs/cifar10 --num_images=50000 --modes=npz --output=samples/
    python -m experiments.sample --checkpoint=FILE.safetensors --steps=20 --solver=dpmpp_2m --spacing=logsnr --output=samples/
    python -m experiments.sample --workdir=runs/digits --label=3,4 --guidance=2
    python -m experiments.sample --workdir=runs/cifar10 --modes=reconstruct --images=FOLDER
    python -m experiments.sample --workdir=runs/cifar10 --modes=inpaint --images=FOLDER --mask=MASK.png --repeats=5 --eta=1

Modes, each of which writes one thing into --output:
    grid         samples.png
    files        samples/000000.png, ...
    npz          samples.npz, key "samples", uint8 [N, H, W, C]
    chain        chain.png: the predicted x_0 on the way, an image a row
    interpolate  interpolation.png, a line a row, and interpolation_grid.png, a square between four images
    reconstruct  reconstruction.png: images above, their reconstructions by DDIM at eta = 0 below
    inpaint      inpainting.png: images, what is kept of them, and what was painted in, an image a column
"""

import contextlib
import importlib
import pathlib

import numpy as np
from absl import app, flags, logging

from ddim_jax import interop
from ddim_jax.data import images, sources
from ddim_jax.diffusion import discrete, schedule, solvers
from ddim_jax.inference import pictures, weights
from ddim_jax.inference.generate import CategoricalGenerator, Generator
from ddim_jax.inference.guided import guided

DRAWN = ("grid", "files", "npz")
MODES = (*DRAWN, "chain", "interpolate", "reconstruct", "inpaint")
SOLVERS = {"ddim": ("eta",), "ddpm": ("variance",), "dpmpp_2m": (), "plms": ("order",), "unipc": ("order",)}  # and their flags
NOT_DISCRETE = ("solver", "variance", "order", "clip", "threshold", "guidance", "classifier", "repeats")

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, whose newest averaged weights are used.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A file or folder of weights, ours or published, in place of --workdir.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write; the default is the folder samples/ of --workdir.")
_MODES = flags.DEFINE_list("modes", ["grid"], f"What to make, of {', '.join(MODES)}.")
_STEPS = flags.DEFINE_integer("steps", None, "S, the number of sampling steps. Default: the model's own.", lower_bound=1)
_SPACING = flags.DEFINE_enum(
    "spacing", None, (*schedule.SPACINGS, "logsnr"), "How the steps are spread over the schedule. Default: the model's own."
)
_SOLVER = flags.DEFINE_enum("solver", None, list(SOLVERS), "The sampler. Default: ddim if --eta is given, else the model's own.")
_ETA = flags.DEFINE_float("eta", None, "Of ddim: 0 is deterministic, 1 as random as DDPM. Default: the model's own.")
_ORDER = flags.DEFINE_integer("order", None, "Of plms (1 to 4; default 4) and unipc (1 to 3; default 2).")
_VARIANCE = flags.DEFINE_enum(
    "variance", None, ("small", "large"), "Of ddpm: its posterior's, or sigma-hat. Default: the model's own, or small."
)
_CLIP = flags.DEFINE_bool("clip", None, "Whether to clip each predicted x_0 to [-1, 1]. Default: the model's own.")
_THRESHOLD = flags.DEFINE_float("threshold", None, "Dynamic thresholding of x_0 at this percentile, such as 99.5.")
_LABEL = flags.DEFINE_list(
    "label", None, "Classes to draw, in turn. Default: all, where the network knows classes; none for reconstruct and inpaint."
)
_GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Classifier-free guidance: 1 is the plain conditional network.")
_CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "MODULE:FUNCTION, log p(label | x_t) from (x_t, t, label), to guide with; needs --label."
)
_CLASSIFIER_WEIGHT = flags.DEFINE_float("classifier_weight", 1.0, "How much its gradient counts.")
_MASK = flags.DEFINE_string("mask", None, "Of inpaint: a picture of the images' size, white where they are kept.")
_REPEATS = flags.DEFINE_integer("repeats", 1, "Of inpaint: how often each step is taken (RePaint), with ddim.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Image i of a seed has the same latent at any setting and batch size.")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 64, "How many images (for chain, interpolate, reconstruct, inpaint: rows or columns).", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "How many images are drawn at once.", lower_bound=1)
_IMAGES = flags.DEFINE_string("images", None, "Folder of images to reconstruct or inpaint. Default: the data set itself.")
_SPLIT = flags.DEFINE_string("split", "test", "Without --images: which part of the data set that is.")


def load_model() -> weights.Model:
    """The weights that the flags name, with the flags' defaults taken from its configuration.

    A flag that would do nothing is refused.
    """
    if (_WORKDIR.value is None) == (_CHECKPOINT.value is None):
        raise app.UsageError("give either --workdir, the folder of a training run, or --checkpoint, a file or folder of weights")
    model = weights.from_workdir(_WORKDIR.value) if _WORKDIR.value else interop.read(_CHECKPOINT.value)
    given = {name for name in flags.FLAGS if flags.FLAGS[name].present}
    if model.config.diffusion.categories and given.intersection(NOT_DISCRETE):
        raise app.UsageError(f"a network of discrete values takes none of --{', --'.join(NOT_DISCRETE)}")
    own = {"solver": "ddim", "variance": "small", **model.config.sampling}  # those two only published weights ask for
    solver = _SOLVER.value or ("ddim" if "eta" in given else own["solver"])
    for name in given & {"eta", "order", "variance"}.difference(SOLVERS[solver]):
        takers = [each for each, takes in SOLVERS.items() if name in takes]
        raise app.UsageError(f"--{name} is of {' and '.join(takers)}, but the solver is {solver}: set --solver, or leave it out")
    if _REPEATS.value > 1 and solver != "ddim":
        raise app.UsageError(f"--repeats is of ddim, but the solver is {solver}: set --solver=ddim")
    flags.FLAGS.solver = solver
    for flag in (_STEPS, _SPACING, _ETA, _VARIANCE, _CLIP):
        if flag.value is None:
            setattr(flags.FLAGS, flag.name, own[flag.name])
    return model


def make_table(noise_schedule: schedule.Schedule, tau: np.ndarray):
    """The step table that the flags ask for."""
    order = {} if _ORDER.value is None else {"order": _ORDER.value}
    if _SOLVER.value == "ddpm":
        return solvers.ddpm(noise_schedule, tau, _VARIANCE.value)
    if _SOLVER.value == "dpmpp_2m":
        return solvers.dpmpp_2m(noise_schedule, tau)
    if _SOLVER.value == "plms":
        return solvers.plms(noise_schedule, tau, **order)
    if _SOLVER.value == "unipc":
        return solvers.unipc(noise_schedule, tau, **order)
    return solvers.ddim(noise_schedule, tau, _ETA.value)


def make_generator(config) -> Generator:
    """The generator with the guidance and limits that the flags ask for."""
    if config.diffusion.categories:
        return CategoricalGenerator(config)
    if _GUIDANCE.value != 1 and not config.model.num_classes:
        raise app.UsageError("--guidance needs a network that was trained on classes (config.model.num_classes)")
    log_prob = None
    if _CLASSIFIER.value:
        if not _LABEL.value:
            raise app.UsageError("--classifier needs --label, the classes to guide towards")
        module, _, function = _CLASSIFIER.value.partition(":")
        log_prob = getattr(importlib.import_module(module), function)
    limits = dict(clip=_CLIP.value, percentile=_THRESHOLD.value)
    classifier = dict(log_prob=log_prob, log_prob_weight=_CLASSIFIER_WEIGHT.value)
    return Generator(config, guided(Generator(config).schedule, weight=_GUIDANCE.value, **classifier, **limits))


def make_labels(config, count: int) -> dict:
    """{"label": [count]} of --label, or of all classes in turn; {} where neither network nor classifier knows classes."""
    known = config.model.num_classes
    if _LABEL.value and not (known or _CLASSIFIER.value):
        raise app.UsageError("--label needs a network that was trained on classes (config.model.num_classes), or --classifier")
    classes = _LABEL.value or [str(label) for label in range(known)]
    if not all(label.isdecimal() and (not known or int(label) < known) for label in classes):
        raise app.UsageError(
            f"--label is {','.join(classes)}; the classes are " + (f"0 to {known - 1}" if known else "whole numbers from 0")
        )
    return {"label": np.resize(np.array(classes, np.int32), count)} if classes else {}


def real_images(config, count: int) -> np.ndarray:
    """The first `count` images of --images, or of the part of the configured data set that --split names."""
    data = config.data.copy_and_resolve_references()
    if data.name == "folder" and not _IMAGES.value:
        raise app.UsageError("give --images, a folder of images: this network's data set has no part that is held out")
    data.update(split=_SPLIT.value, memory_limit_mb=0)
    if _IMAGES.value:
        data.update(name="folder", split="train", directory=_IMAGES.value, crop="center")
    source = sources.load(data)
    return np.stack([source[i] for i in range(min(count, len(source)))])


def draw(generator: Generator, params, table, given: dict, output: pathlib.Path) -> None:
    """Draws --num_images once, batch by batch, into all of the files that --modes asks for."""
    count, done, kept = _NUM_IMAGES.value, 0, []
    batch_size = min(_BATCH_SIZE.value, count)
    more = [path.name for path in (output / "samples").glob("*.png") if path.stem >= f"{count:06d}"]
    if "files" in _MODES.value and more:
        raise app.UsageError(
            f"{output / 'samples'} holds {min(more)} and more of another run: empty it, or give another --output"
        )
    with contextlib.ExitStack() as open_files:
        if "npz" in _MODES.value:
            writer = images.npz_writer(output / "samples.npz", "samples", (count, *generator.image_shape))
            append = open_files.enter_context(writer)
        for batch in generator.batches(params, table, _SEED.value, count, batch_size, given):
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
    modes, count, seed = _MODES.value, _NUM_IMAGES.value, _SEED.value
    unknown = set(modes) - set(MODES)
    if unknown or not modes:
        raise app.UsageError(f"unknown modes {', '.join(sorted(unknown))}; expected some of {', '.join(MODES)}")
    if "inpaint" in modes and _MASK.value is None:
        raise app.UsageError("inpaint needs --mask, a picture that is white where the images are kept")
    config, params = load_model()
    if _OUTPUT.value is None and _WORKDIR.value is None:
        raise app.UsageError("give --output, the folder to write to")
    output = pathlib.Path(_OUTPUT.value or pathlib.Path(_WORKDIR.value) / "samples")
    generator = make_generator(config)
    tau = generator.tau(_STEPS.value, _SPACING.value)
    if config.diffusion.categories:
        if set(modes) - set(DRAWN):
            raise app.UsageError(f"a network of discrete values makes {', '.join(DRAWN)} alone: it has no latents to encode to")
        table = discrete.table(generator.schedule, tau, _ETA.value)
    else:
        table = make_table(generator.schedule, tau)
    given, batch_size = make_labels(config, count), _BATCH_SIZE.value
    if {"reconstruct", "inpaint"} & set(modes):
        real = real_images(config, count)
        of_real = make_labels(config, len(real)) if _LABEL.value else {}  # else their classes are not known

    def save(name, pictures_of):
        images.save_png(output / name, images.grid(pictures_of))

    if set(DRAWN) & set(modes):
        draw(generator, params, table, given, output)
    if "chain" in modes:
        save("chain.png", pictures.chain(generator, params, table, seed, count, stages=10, given=given, batch_size=batch_size))
    if "interpolate" in modes:
        model = (generator, params, table, seed)
        save("interpolation.png", pictures.interpolation(*model, num=11, rows=count, given=given, batch_size=batch_size))
        save("interpolation_grid.png", pictures.interpolation_grid(*model, num=11, given=given, batch_size=batch_size))
    if "reconstruct" in modes:
        save("reconstruction.png", [real, pictures.reconstruction(generator, params, tau, real, of_real, batch_size)])
    if "inpaint" in modes:
        mask = images.load_mask(_MASK.value, generator.image_shape)
        table = solvers.repaint(generator.schedule, tau, _ETA.value, _REPEATS.value) if _REPEATS.value > 1 else table
        painted = pictures.inpainting(generator, params, table, seed, real, mask, of_real, batch_size)
        save("inpainting.png", [real, (real * mask).astype(np.uint8), painted])
    print(f"wrote {', '.join(modes)} into {output}")


if __name__ == "__main__":
    app.run(main)
