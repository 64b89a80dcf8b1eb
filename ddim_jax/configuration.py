"""From a configuration to the objects that it names: the one file that reads the fields of one, see configs/.

A configuration is a `ml_collections.ConfigDict` of parts. `data`, `model` and `diffusion` say what a network is and what it
learns from, `training` and `sampling` how; nothing of these two is part of the weights.
"""

import dataclasses
import functools
import inspect
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict as Config

from ddim_jax.common.devices import check_memory
from ddim_jax.common.files import at, read_json, whole
from ddim_jax.common.text import shown
from ddim_jax.data import degrading, sources
from ddim_jax.diffusion import discrete, distillation, losses
from ddim_jax.diffusion import schedule as schedules
from ddim_jax.diffusion.schedule import Schedule
from ddim_jax.evaluation import measuring, reference
from ddim_jax.evaluation.extractors import classifier, efficientnet, inception
from ddim_jax.evaluation.features import Extractor, check_channels, describer
from ddim_jax.evaluation.measuring import Describe
from ddim_jax.evaluation.moments import frechet_distance
from ddim_jax.evaluation.reference import Reference
from ddim_jax.fields import LARGEST_SIDE, check_fields
from ddim_jax.inference import pictures, processes
from ddim_jax.inference.model import Defaults, Model
from ddim_jax.models.network import Network, from_linen
from ddim_jax.models.unet import UNet
from ddim_jax.training import hooks, preparing
from ddim_jax.training.loop import check_batch_size
from ddim_jax.training.step import learning_rates, make_optimizer
from ddim_jax.training.task import Hook, Task

FORMAT = 4  # of what `save` writes; 1 is of the first runs and weights, which name none


def _from_betas(num_steps: int, betas: Any) -> Schedule:
    if not isinstance(betas, list | tuple) or not all(type(beta) in (int, float) for beta in betas) or len(betas) != num_steps:
        raise ValueError(f"config.diffusion.betas must be a list of {num_steps} numbers, as config.diffusion.num_steps says")
    return schedules.from_betas(np.array(betas))


_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "cosine": schedules.cosine,
    "betas": _from_betas,
}
EXTRACTORS = ("classifier", "efficientnet", "inception")  # of features, that samples are judged by
_NUM_IMAGES = {  # to train on; of TFDS, its catalog says so
    "mnist_5k": 4_500,
    "fashion_mnist": 60_000,
    "cifar10": 50_000,
    "celeb_a": 162_770,
    "lsun/bedroom": 3_033_042,
    "lsun/church_outdoor": 126_227,
}
_FREE_TO_CHANGE = {  # when a run goes on
    *(f"training.{field}" for field in ("steps", "steps_per_call", "log_every", "sample_every", "checkpoint_every")),
    *(f"training.{field}" for field in ("held_out_every", "distance_every", "keep_every", "dtype", "remat", "mapping")),
    *("data.directory", "data.memory_limit_mb", "data.held_out_split", "data.corrupt"),
}


def check(config: Config, devices: int | None = None) -> None:
    """Raises ValueError where fields make no sense, alone or together; before anything is read or written.

    devices: of a run elsewhere, into whose memory `planning.plan` sees; None are those here, and theirs is looked at.
    """
    check_fields(config, ("data", "model", "diffusion", "sampling", "training"))
    if config.training.learning_rate_decay == "cosine" and config.training.warmup_steps >= config.training.steps:
        raise ValueError(
            f"config.training.warmup_steps is {config.training.warmup_steps} of {config.training.steps} steps, which leaves none "
            "for the cosine"
        )
    share = config.training.batch_size // (devices or jax.device_count())
    if share % config.training.accumulate:
        raise ValueError(
            f"config.training.accumulate is {config.training.accumulate}, which does not divide the {share} examples of a device"
        )
    if config.data.degrade and config.diffusion.categories:
        raise ValueError("config.data.degrade is of networks with Gaussian noise: set config.diffusion.categories to 0")
    if config.training.distance_every and (config.data.degrade or config.diffusion.categories):
        raise ValueError(
            "config.training.distance_every is of networks with Gaussian noise that draw freely, without an image that they are "
            "told: set it to 0"
        )
    if config.diffusion.categories and not 2 <= config.diffusion.categories <= 256:
        raise ValueError(
            f"config.diffusion.categories is {config.diffusion.categories}; expected 2 to 256, or 0 for Gaussian noise"
        )
    check_batch_size(config.training.batch_size, devices)
    make_loss(config)
    make_model(config, None).table()
    if devices is None:
        _check_memory(config)


def check_stored(config: Config, source: str) -> None:
    """Raises ValueError, which calls the file `source`, where the configuration of weights is no network that can be built."""
    try:
        check_fields(config, ("data", "model", "diffusion", "sampling"))
        make_model(config, None).table()
    except ValueError as error:
        raise ValueError(f"{source} cannot be used: {error}") from error


def check_blocks(config: Config, arrays: int, source: str) -> None:
    """Raises ValueError where `source` holds too few arrays for the blocks of its network: to build thousands takes minutes."""
    blocks = len(config.model.multipliers) * (2 * config.model.num_blocks + 1) + 2
    if 8 * blocks > arrays:  # of the 10 that the smallest block has
        raise ValueError(f"{source} does not fit: it holds {arrays} arrays, too few for the {blocks} blocks of its configuration")


def _check_memory(config: Config) -> None:
    """Raises ValueError where the least that training keeps is more than there is: 5 numbers a parameter, and one batch."""
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameter_shapes(config)))
    check_memory(
        f"training these {parameters:,} parameters (with their average, gradient and the two moments of Adam)", 20 * parameters
    )
    values = math.prod(image_shape(config)) * (config.diffusion.categories or 1)
    batch = config.training.batch_size // jax.device_count()
    check_memory(f"config.training.batch_size={config.training.batch_size}", 20 * parameters + 8 * batch * values)
    count = config.sampling.count
    check_memory(f"config.sampling.count={count}", 8 * values * count // jax.device_count())


def make_schedule(config: Config) -> Schedule:
    """The noise schedule of config.diffusion: `schedule` names it, the fields that it takes are its arguments.

    Fields of other schedules are left alone, so that --config.diffusion.schedule=cosine is enough.
    """
    check_fields(config, ("diffusion",))
    fields = config.diffusion.to_dict()
    name, moved = fields.pop("schedule", None), fields.pop("zero_terminal_snr")
    if name not in tuple(_SCHEDULES):  # whatever a file has there
        raise ValueError(f"config.diffusion.schedule is {shown(name)}; expected one of {', '.join(_SCHEDULES)}")
    prediction, categories = fields.pop("prediction"), fields.pop("categories")
    if categories and prediction != "x0":
        raise ValueError(f"config.diffusion.prediction is {prediction!r}; over categories a network predicts 'x0'")
    takes = {each: inspect.signature(make).parameters for each, make in _SCHEDULES.items()}
    unknown = set(fields).difference(*takes.values())
    if unknown:
        raise ValueError(f"config.diffusion has fields that no schedule takes: {shown(sorted(unknown))}")
    needs = [field for field, of in takes[name].items() if of.default is of.empty and field not in fields]
    if needs:
        raise ValueError(f"config.diffusion.{needs[0]} is missing, which the schedule {name!r} takes")
    made = _SCHEDULES[name](**{field: value for field, value in fields.items() if field in takes[name]})
    made = schedules.zero_terminal_snr(made) if moved else made
    if made.alpha_bar[-1] == 0 and prediction == "eps":
        raise ValueError("config.diffusion ends in pure noise (zero terminal SNR), from which eps tells nothing: predict 'v'")
    return made


def image_shape(config: Config) -> tuple[int, int, int]:
    """(H, W, C) of the images that config.data gives; its image_size is (H, W), or one number for a square."""
    size = config.data.image_size
    sides = tuple(size) if isinstance(size, list | tuple) else (size,)
    if len(sides) not in (1, 2) or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
        raise ValueError(
            f"config.data.image_size is {shown(size)}; expected (H, W) in pixels, up to {LARGEST_SIDE}, or one "
            "number for a square"
        )
    return (sides[0], sides[-1], config.data.channels)


def make_unet(config: Config, dtype: str = "float32", remat: bool = False) -> UNet:
    """The network of config.model. Raises ValueError where it makes no sense, or the images of config.data do not fit it.

    dtype, remat: how it computes; see `models.unet.UNet`.
    """
    check_fields(config, ("data", "model"))
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list | tuple) else v for name, v in config.model.items()}
    unknown = fields.keys() - {field.name for field in dataclasses.fields(UNet)}
    if unknown:
        raise ValueError(f"config.model has fields that the network does not take: {shown(sorted(unknown))}")
    height, width, channels = image_shape(config)
    name, channels = config.data.degrade, channels * (config.diffusion.categories or 1)
    told = degrading.channels(name, channels) if name else 0
    unet = UNet(**fields, image_channels=told, dtype=jnp.dtype(dtype), remat=remat)
    unet.check((height, width, channels))
    return unet


def make_network(config: Config, dtype: str = "float32", remat: bool = False) -> Network:
    """The same as `models.network.Network`."""
    unet = make_unet(config, dtype, remat)
    return from_linen(unet, unet.null)


def parameter_shapes(config: Config) -> Any:
    """The network's parameters as shapes and dtypes alone: a nested dict of jax.ShapeDtypeStruct."""
    height, width, channels = image_shape(config)
    x = jax.ShapeDtypeStruct((1, height, width, channels * (config.diffusion.categories or 1)), jnp.float32)
    step = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(make_unet(config).init, jax.random.key(0), x, step)["params"]


def make_loss(config: Config) -> Callable:
    """The objective of config.diffusion, as `training.step.LossFn` has it."""
    schedule, gamma = make_schedule(config), config.training.min_snr_gamma
    if config.diffusion.categories:
        if gamma:
            raise ValueError(
                f"config.training.min_snr_gamma is {gamma}; the loss over categories has no such weight: set it to 0"
            )
        return functools.partial(discrete.drawn_loss, categories=config.diffusion.categories)
    if gamma and schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "config.training.min_snr_gamma gives the last step of a schedule with zero terminal SNR no weight at all, so that "
            "sampling would begin at a step which was never trained: set it to 0, or zero_terminal_snr to False"
        )
    return functools.partial(losses.drawn_loss, prediction=config.diffusion.prediction, min_snr_gamma=gamma)


def check_stages(config: Config) -> None:
    """Raises ValueError unless each stage of config.distillation halves the steps of the one before."""
    stages = config.get("distillation", {}).get("student_steps")
    if stages is None:
        raise ValueError("the configuration has no distillation.student_steps; see configs/demo_distilled.py")
    fits = isinstance(stages, list | tuple) and stages and all(type(steps) is int and steps > 0 for steps in stages)
    if not fits or any(before != 2 * steps for before, steps in zip(stages, stages[1:])):
        raise ValueError(
            f"config.distillation.student_steps is {shown(stages)}; expected whole numbers above 0, each half of the one before, "
            "such as (16, 8, 4)"
        )


def make_distillation_loss(config: Config, student_steps: int) -> Callable:
    """The objective of one stage of config.distillation, which asks a teacher. Raises ValueError where there can be none."""
    if config.diffusion.categories:
        raise ValueError("config.diffusion.categories is set: distillation is of networks with Gaussian noise")
    if config.training.min_snr_gamma:
        raise ValueError("config.training.min_snr_gamma is set: distillation has weights of its own, max(SNR, 1); set it to 0")
    tau = schedules.subsequence(config.diffusion.num_steps, 2 * student_steps, "trailing")
    return functools.partial(distillation.drawn_loss, tau=tau, prediction=config.diffusion.prediction)


def _load(config: Config, **changes: Any) -> Any:
    """The images of config.data, or what `sources.load` makes with other arguments."""
    data = {name: config.data[name] for name in ("name", "split", "directory", "crop", "memory_limit_mb", "corrupt")}
    height, width, channels = image_shape(config)
    return sources.load(**data | changes, image_size=(height, width), channels=channels)


def make_source(config: Config, split: str | None = None) -> Any:
    """The examples that a network learns from, or those of another split: images, with their labels where it is told them.

    Raises ValueError where there are other classes than config.model.num_classes, and as `sources.load` does.
    """
    return _load(config, split=split or config.data.split, num_classes=config.model.num_classes)


def stand_in_source(config: Config) -> Any:
    """What `make_source` would give, as far as shapes go, where no data set need be there: black images, which take no memory.

    A data set whose number of images is not in _NUM_IMAGES counts as one that is streamed.
    """
    shape, labelled = image_shape(config), config.model.num_classes > 0
    count = _NUM_IMAGES.get(config.data.name) if config.data.split == "train" else None
    if count is None or count * math.prod(shape) > config.data.memory_limit_mb * 2**20:
        image = np.zeros(shape, np.uint8)
        return [{"image": image, "label": np.int32(0)} if labelled else image]
    images = np.broadcast_to(np.uint8(0), (count, *shape))
    return {"image": images, "label": np.zeros(count, np.int32)} if labelled else images


def held_out_examples(
    config: Config, count: int, folder: str | None = None, split: str = "test"
) -> tuple[np.ndarray, np.ndarray | None]:
    """At most `count` images uint8 [N, H, W, C] of a folder, cropped as in training, or of a split of the data set; classes [N].

    Classes are None for a folder, and where the network is told none. Images lie evenly spread over folder or split, since
    many a set has its classes one after the other. Those of a folder that have another size are cropped to a central part where
    the training took images whole.
    Raises ValueError where neither is to be had.
    """
    if folder is None and config.data.name == "folder":
        raise ValueError("give a folder of images: this network's own data set, a folder, has no part that is held out")
    crop = "center" if config.data.crop == "none" else config.data.crop
    chosen: dict[str, Any] = {"split": split, "num_classes": config.model.num_classes}
    if folder is not None:
        chosen = {"name": "folder", "split": "train", "directory": folder, "crop": crop}
    source = _load(config, memory_limit_mb=0, **chosen)
    return _images_and_classes(sources.take(source, _evenly(count, sources.num_examples(source))))


def some_examples(config: Config, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """At most `count` training images uint8 [N, H, W, C], evenly spread over the data set, and their classes if it has any."""
    data = config.data
    try:
        num_classes = sources.labels(data.name, split=data.split, directory=data.directory).max() + 1
    except ValueError:  # a data set without classes
        num_classes = 0
    source = _load(config, num_classes=num_classes)
    return _images_and_classes(sources.take(source, _evenly(count, sources.num_examples(source))))


def _images_and_classes(examples: Any) -> tuple[np.ndarray, np.ndarray | None]:
    return (examples["image"], examples["label"]) if isinstance(examples, dict) else (np.asarray(examples), None)


def _evenly(count: int, total: int) -> np.ndarray:
    """The numbers of at most `count` examples, evenly spread over `total`."""
    count = min(count, total)
    return np.arange(count) * total // count


def make_extractor(config: Config, name: str | None = None, path: str | os.PathLike | None = None) -> Extractor:
    """What samples of this data set are judged by: one of EXTRACTORS, by default its classifier where one ships, or efficientnet.

    path: the weights of inception.
    Raises ValueError where there is no such classifier, or a path for an extractor that needs none, or none for inception.
    """
    data = config.data.name
    name = name or ("classifier" if data in classifier.SHIPPED else "efficientnet")
    if name not in EXTRACTORS:
        raise ValueError(f"unknown extractor {name!r}; expected one of {', '.join(EXTRACTORS)}")
    if (path is None) == (name == "inception"):
        needs = (
            "needs the path of its weights, the file that users of pytorch-fid have" if path is None else "brings its own weights"
        )
        raise ValueError(f"the extractor {name} {needs}")
    if path is not None:
        return inception.load(path)
    if name == "efficientnet":
        return efficientnet.load()
    if data not in classifier.SHIPPED:
        raise ValueError(f"no classifier ships for {data!r}, only for {', '.join(classifier.SHIPPED)}: choose efficientnet")
    return classifier.load(classifier.SHIPPED[data])


def make_reference(config: Config, extractor: Extractor, describe: Describe, folder: str | os.PathLike) -> Reference:
    """The statistics of the training images: from the folder if they are there, or else made and kept there."""
    data, source = config.data, _load(config)
    name = f"{data.name} {data.split}" if data.name != "folder" else f"folder {pathlib.Path(data.directory).name}"
    directory = data.directory if data.name == "folder" else None
    told = {"data": data.name, "split": data.split, "directory": directory, "count": len(source)}
    made = told | _form(config) | reference.describing(extractor)
    return reference.cached(folder, name, made, lambda: reference.of_images(source, name, made, describe))


def read_reference(config: Config, extractor: Extractor, path: str | os.PathLike) -> Reference:
    """The statistics in a file. Raises ValueError where they were made by another extractor, or of images of another form."""
    found = reference.load(path)
    features = jax.eval_shape(
        extractor.apply, extractor.params, jax.ShapeDtypeStruct((1, *image_shape(config)[:2], extractor.channels), np.uint8)
    )["features"]
    reference.check(found, _form(config) | reference.describing(extractor), features.shape[-1])
    return found


def _form(config: Config) -> dict[str, Any]:
    """How the images of config.data are made of those on disk."""
    return {"shape": list(image_shape(config)), "crop": config.data.crop}


def make_prepare(config: Config) -> Callable:
    """From images to x_0 and conditions, as config.data says."""
    degrade = degrading.DEGRADATIONS[config.data.degrade] if config.data.degrade else None
    return functools.partial(preparing.images, flip=config.data.flip, degrade=degrade)


def image_condition(config: Config, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a network is told of images uint8 [B, H, W, C] as they are: {"image": [B, H, W, C']}, or {} where it is told none."""
    if not config.data.degrade:
        return {}
    return {"image": np.asarray(degrading.DEGRADATIONS[config.data.degrade](preparing.to_float(images)))}


def make_task(config: Config) -> Task:
    """What config.training trains, with its data loaded and its hooks; see `run_arguments` for the numbers of the run."""
    task = make_bare_task(config, make_source(config))
    return task._replace(hooks=make_hooks(config, task))


def make_bare_task(config: Config, source: Any) -> Task:
    """What config.training trains on these examples, without hooks."""
    how, data = config.training, config.data
    conditions = config.model.num_classes or data.degrade
    cosine = how.steps if how.learning_rate_decay == "cosine" else 0
    return Task(
        network=make_network(config, how.dtype, how.remat),
        schedule=make_schedule(config),
        source=source,
        optimizer=make_optimizer(how.learning_rate, how.warmup_steps, how.grad_clip, cosine, how.nonfinite == "skip"),
        loss=make_loss(config),
        prepare=make_prepare(config),
        condition_dropout=how.condition_dropout if conditions else 0.0,
        ema_decay=how.ema_decay,
        accumulate=how.accumulate,
        skips_nonfinite=how.nonfinite == "skip",
        learning_rate=learning_rates(how.learning_rate, how.warmup_steps, cosine),
    )


def make_hooks(config: Config, task: Task) -> list[Hook]:
    """A grid of samples every sample_every steps, and the loss on held-out examples where held_out_every is above 0."""
    how, model = config.sampling, make_model(config, None)
    condition: dict[str, np.ndarray] = {}
    if config.data.degrade:
        index = np.arange(how.count) % sources.num_examples(task.source)
        examples = sources.take(task.source, index)
        images, labels = (examples["image"], {"label": examples["label"]}) if isinstance(examples, dict) else (examples, {})
        condition = image_condition(config, images) | labels
    elif config.model.num_classes:
        condition = {"label": np.arange(how.count) % config.model.num_classes}
    draw = pictures.sample_grid(model.generator(), model.table(), config.training.seed, how.count, condition)
    made = [Hook(config.training.sample_every, draw)]
    if config.training.held_out_every:
        loss = hooks.held_out_loss(task, make_source(config, config.data.held_out_split))
        made.append(Hook(config.training.held_out_every, loss))
    return made


def make_judge(config: Config, folder: str | os.PathLike) -> Callable[[Any], dict[str, float]]:
    """The distance of samples from the training images: parameters -> {"distance": ...}, for a `Hook`.

    It is of config.training.distance_samples samples, drawn as config.sampling says, by the default extractor of the data set.
    folder: where the statistics of the training images are kept.
    """
    model, extractor = make_model(config, None), make_extractor(config)
    check_channels(extractor, config.data.channels)
    describe = describer(extractor)
    real = make_reference(config, extractor, describe, folder).measured.moments
    generator, table, count = model.generator(), model.table(), config.training.distance_samples
    told, seed = model.told(count, model.classes), config.training.seed

    def run(params: Any) -> dict[str, float]:
        measured = measuring.measure_samples(generator, params, table, describe, seed, 256, told, count)
        return {"distance": frechet_distance(measured.moments, real)}

    return run


def run_arguments(config: Config) -> dict[str, Any]:
    """The numbers of a run, as `training.loop.train` takes them."""
    fields = ("steps", "batch_size", "seed", "log_every", "checkpoint_every", "keep_every", "mapping")
    on_cpu = jax.default_backend() == "cpu"  # where a loop of steps is slower than they are alone
    return {field: config.training[field] for field in fields} | {
        "steps_per_call": 1 if on_cpu else config.training.steps_per_call
    }


def make_model(config: Config, params: Any, dtype: str | None = None) -> Model:
    """A network with its parameters, to sample from in a dtype, by default that of config.sampling."""
    how, schedule, categories = config.sampling, make_schedule(config), config.diffusion.categories
    own = {name: how[name] for name in ("eta", "variance") if name in how}  # variance only published weights ask for
    clip = how.clip and not categories
    return Model(
        network=make_network(config, dtype or how.dtype),
        params=params,
        schedule=schedule,
        shape=image_shape(config),
        process=processes.categorical(categories) if categories else processes.gaussian(schedule, config.diffusion.prediction),
        defaults=Defaults(how.steps, how.spacing, how.get("solver", "ddim"), own, clip),
        num_classes=config.model.num_classes,
    )


def changes(config: Config, before: Config) -> list[str]:
    """What is not as it was, of all that must not change while a run goes on, in words."""

    def settings(c: Config) -> dict[str, Any]:
        fields = {f"{part}.{name}": value for part in c if part != "sampling" for name, value in c[part].items()}
        fields["data.image_size"] = image_shape(c)[:2]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        free = _FREE_TO_CHANGE - ({"training.steps"} if fields.get("training.learning_rate_decay") == "cosine" else set())
        return {name: value for name, value in plain.items() if name not in free}

    now, then = settings(config), settings(before)
    names = sorted({*now, *then})
    return [f"config.{name} was {then.get(name)!r}, now {now.get(name)!r}" for name in names if now.get(name) != then.get(name)]


def save(config: Config, path: str | os.PathLike) -> None:
    """Writes a configuration as JSON, whole or not at all."""
    with whole(path) as part:
        part.write_text(to_json(config) + "\n")


def load(path: str | os.PathLike) -> Config:
    """Reads what `save` wrote."""
    return from_json(at(path).read_text(), str(path))


def to_json(config: Config) -> str:
    """A configuration as text, with the version of its format."""
    return json.dumps({"format": FORMAT, **json.loads(config.to_json())}, indent=1)


def from_json(text: str, source: str) -> Config:
    """A configuration from text, of this format or an older one. `source` is what errors call it.

    Raises ValueError for a format that is not known yet, and where it describes no network that can be built.
    """
    fields = read_json(text, source)
    written = fields.pop("format", 1)
    if not isinstance(written, int) or written < 1:
        raise ValueError(f"{source} has format {shown(written)}; expected a whole number from 1")
    if written > FORMAT:
        raise ValueError(f"{source} has format {written}, of a newer ddim_jax; this one reads up to {FORMAT}: upgrade it")
    try:
        for upgrade in (_from_1, _from_2, _from_3)[written - 1 :]:
            upgrade(fields)
        config = Config(fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source} is no configuration of ddim_jax ({type(error).__name__}: {shown(error)})") from error
    check_stored(config, source)
    return config


def _from_3(fields: dict) -> None:
    """Format 3 to 4: more ways to train and to read images, of which the ones that there were are named."""
    fields["data"].update(corrupt="stop")
    if "training" in fields:
        fields["training"].update(learning_rate_decay="none", nonfinite="stop", accumulate=1, mapping="pmap", keep_every=0)


def _from_2(fields: dict) -> None:
    """Format 2 to 3: the best weights are kept by the distance of samples."""
    if "training" in fields:
        fields["training"].update(distance_every=0, distance_samples=2000)


def _from_1(fields: dict) -> None:
    """Format 1 to 2: how a network computes left `model`, sides became pairs, and labels one condition of several."""
    data, dtype = fields["data"], fields["model"].pop("dtype")
    if isinstance(data["image_size"], int):
        data["image_size"] = 2 * [data["image_size"]]
    data.update(degrade="", held_out_split="test")
    fields["sampling"]["dtype"] = "float32"
    if "training" in fields:  # weights that were published elsewhere have none
        how = fields["training"]
        how.update(dtype=dtype, remat=False, held_out_every=0, condition_dropout=how.pop("label_dropout"))
