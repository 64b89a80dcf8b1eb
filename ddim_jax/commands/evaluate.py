"""The tables and figures of the paper for any network: figures, pictures, and a report of them.

    python -m experiments.evaluate --workdir=runs/digits --table=1 --num_samples=2000
    python -m experiments.evaluate --checkpoint=FILE.safetensors --table=all --output=evaluation/
    python -m experiments.evaluate --workdir=runs/cifar10 --table=1,solvers --extractor=inception \\
        --extractor_weights=pt_inception-2015-12-05-6726825d.pth

Tables:
    1           distance of samples from the training images over η, σ̂ and S (--rows, --steps)
    2           error of real images that are encoded and decoded again
    3           Table 1 for η = 0 and 1 alone
    solvers     Table 1 for every solver
    likelihood  bits per dimension, by the bound and by the ODE
    extractor   what the extractor sees of real images made worse
    figure3 .. figure6   samples over η; seconds against S; the same latents at several S; lines between latents
    all         all of these but 3 that there is what they need for
Figures that are in --output already are kept: a command that was stopped goes on when it is given again.
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
from absl import flags

from ddim_jax import configuration, interop, weights
from ddim_jax.commands import command
from ddim_jax.common.devices import check_memory
from ddim_jax.common.files import check_writable
from ddim_jax.common.seeds import check_seed
from ddim_jax.evaluation import evaluate, features, report, subject
from ddim_jax.inference.model import SPACINGS

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, whose newest averaged weights are used.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A file or folder of weights, ours or published, in place of --workdir.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write; the default is the folder evaluation/ of --workdir.")
_TABLE = flags.DEFINE_list("table", ["1"], f"What to find, of {', '.join(evaluate.TABLES)}; or all.")
_SAMPLES = flags.DEFINE_integer("num_samples", 50_000, "How many samples a figure takes.", lower_bound=8)
_STEPS = flags.DEFINE_list("steps", ["10", "20", "50", "100"], "S, the columns of the tables.")
_SPACING = flags.DEFINE_enum("spacing", None, SPACINGS, "How steps are spread over the schedule. Default: the model's own.")
_ROWS = flags.DEFINE_list("rows", list(subject.ROWS), "Of Table 1: values of η, hat, and hat_clipped, as the paper's code has σ̂.")
_HELD_OUT = flags.DEFINE_integer(
    "num_held_out", 1000, "How many real images table 2 and likelihood take, at most.", lower_bound=2
)
_IMAGES = flags.DEFINE_string("images", None, "Folder of those images. Default: --split of the data set.")
_SPLIT = flags.DEFINE_string("split", "test", "Of the data set, of those images.")
_EXTRACTOR = flags.DEFINE_enum(
    "extractor", None, configuration.EXTRACTORS, "Default: the classifier that ships for this data set, else efficientnet."
)
_EXTRACTOR_WEIGHTS = flags.DEFINE_string("extractor_weights", None, "Of inception: the file that users of pytorch-fid have.")
_REFERENCE = flags.DEFINE_string("reference", None, "An .npz file of statistics. Default: those of the training images.")
_REFERENCES = flags.DEFINE_string(
    "references", str(pathlib.Path.home() / ".cache" / "ddim_jax"), "Folder where statistics of training images are kept."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "How many images are drawn at once.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Image i of a seed has the same latent in every figure.")
command.define_multihost()
_DTYPE = flags.DEFINE_enum("dtype", None, ("float32", "bfloat16"), "What layers compute in. Default: the model's own.")


def _steps() -> tuple[int, ...]:
    return tuple(sorted(set(command.whole_numbers("steps", "above 0"))))


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)


def main(_: list[str]) -> None:
    """The command, once its flags are parsed."""
    source, output = command.source_and_output("evaluation")
    evaluate.check_names(_TABLE.value)
    check_seed(_SEED.value)
    report.check_matplotlib()
    check_writable(output, folder=True)
    check_writable(_REFERENCES.value, folder=True)
    command.join()
    found = weights.from_workdir(source) if _WORKDIR.value else interop.read(source)
    config, model = found.config, configuration.make_model(*found, _DTYPE.value)
    if _SPACING.value:
        model = dataclasses.replace(model, defaults=dataclasses.replace(model.defaults, spacing=_SPACING.value))
    subject.check(model, told_an_image=bool(config.data.degrade))
    for row in _ROWS.value:
        subject.way(row)
    for steps in _steps():
        model.tau(steps)
    least = 8 * _SAMPLES.value + 4 * min(_BATCH_SIZE.value, _SAMPLES.value) * int(np.prod(model.shape))  # numbers, and one batch
    check_memory(f"--num_samples={_SAMPLES.value} with --batch_size={_BATCH_SIZE.value}", least)
    extractor = configuration.make_extractor(config, _EXTRACTOR.value, _EXTRACTOR_WEIGHTS.value)
    if features.check_channels(extractor, model.shape[-1]):
        _say(f"grey images: {extractor.name} sees them three times, as red, green and blue")
    describe = features.describer(extractor)
    held_out = None
    if _IMAGES.value or config.data.name != "folder":
        held_out = configuration.held_out_examples(config, _HELD_OUT.value, _IMAGES.value, _SPLIT.value)
    judged = subject.Subject(
        model=model,
        data=config.data.name,
        extractor=extractor,
        describe=describe,
        reference=(
            configuration.read_reference(config, extractor, _REFERENCE.value)
            if _REFERENCE.value
            else configuration.make_reference(config, extractor, describe, _REFERENCES.value)
        ),
        num_samples=_SAMPLES.value,
        batch_size=min(_BATCH_SIZE.value, _SAMPLES.value),
        seed=_SEED.value,
        steps=_steps(),
        rows=tuple(_ROWS.value),
        held_out=held_out,
        training=functools.cache(lambda: configuration.some_examples(config, _SAMPLES.value)),
    )
    name = pathlib.PurePath(source).name
    settings = {
        "weights": name,
        "weights_digest": weights.digest(found.params),
        "dtype": _DTYPE.value or config.sampling.dtype,
        "held_out_from": _IMAGES.value or _SPLIT.value,
    }
    path = evaluate.evaluate(judged, _TABLE.value, output, f"Evaluation of {name}", settings, _say)
    _say(f"wrote {path}")


def run() -> None:
    """Runs the command line."""
    command.run(main)
