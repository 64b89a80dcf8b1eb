"""What somebody asks of a model, checked as a whole before anything is drawn: a `Request`, and the `Plan` that it becomes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ddim_jax.common.devices import check_memory
from ddim_jax.common.seeds import check_seed
from ddim_jax.diffusion import solvers
from ddim_jax.inference.adjusting import Adjustment
from ddim_jax.inference.generate import Generator
from ddim_jax.inference.model import Model

DRAWN = ("grid", "files", "npz")  # one set of samples, written in three ways
OF_IMAGES = ("reconstruct", "inpaint", "restore")  # modes that begin with real images
MODES = (*DRAWN, "chain", "interpolate", *OF_IMAGES)
STAGES, LINE = 10, 11  # predictions shown of each image of a chain; images of a line, and of a side of a square


@dataclasses.dataclass(frozen=True)
class Request:
    """What to make and how; None leaves a choice to the model. `Model` says what steps, spacing, solver, label mean."""

    modes: tuple[str, ...] = ("grid",)  # of MODES, or ("all",): each that this model and request have what it needs for
    num_images: int = 64  # how many; rows or columns of chain, interpolate, and of modes that begin with real images
    batch_size: int = 256
    seed: int = 0
    steps: int | None = None
    spacing: str | None = None
    solver: str | None = None
    eta: float | None = None
    order: int | None = None
    variance: str | None = None
    clip: bool | None = None
    threshold: float | None = None  # percentile of dynamic thresholding
    label: tuple[int, ...] | None = None
    guidance: float | None = None  # weight of classifier-free guidance
    classifier: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None  # log p(label | x_t), (x_t, t, label) -> [B]
    classifier_weight: float | None = None
    mask: np.ndarray | None = None  # of inpaint: bool [H, W, 1], where pixels are kept
    repeats: int | None = None  # of inpaint: how often each step is taken
    images: str | None = None  # a folder of real images, in place of the data set's
    split: str | None = None  # of the data set


class Plan(NamedTuple):
    """A request that can be carried out."""

    request: Request
    model: Model
    modes: tuple[str, ...]
    table: Any
    painting_table: Any  # of inpaint
    generator: Generator
    label: np.ndarray | None  # the classes to draw, in turn
    needs_images: bool


def plan(request: Request, model: Model, restores: bool, has_images: bool = True) -> Plan:
    """The plan of a request.

    restores:   whether the model is told an image, which real images must then provide.
    has_images: whether there are real images, of request.images or of the data set.

    Raises ValueError for what does not go together, is out of range, takes more memory than there is, or would do nothing.
    """
    check_seed(request.seed)
    _check_numbers(request)
    arguments = {name: getattr(request, name) for name in ("eta", "order", "variance") if getattr(request, name) is not None}
    table = model.table(request.steps, request.spacing, request.solver, **arguments)
    modes = _modes(request, model, restores, has_images, draws_noise=bool(np.any(table.noise != 0)))
    needs_images = restores or bool(set(OF_IMAGES) & set(modes))
    _check_used(request, model, modes, restores, needs_images)
    if request.mask is not None and request.mask.shape != (*model.shape[:2], 1):
        raise ValueError(f"mask has shape {request.mask.shape}; the images' is {model.shape}: expected {(*model.shape[:2], 1)}")
    label = _label(request, model)
    _check_memory(request, model, modes)
    return Plan(
        request=request,
        model=model,
        modes=modes,
        table=table,
        painting_table=table if request.repeats is None else _repaint(request, model, request.repeats),
        generator=model.generator(_adjustment(request, model)),
        label=label,
        needs_images=needs_images,
    )


def _check_numbers(request: Request) -> None:
    for name in ("num_images", "batch_size", "steps", "repeats"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected a whole number of at least 1")
    for name in ("eta", "guidance", "classifier_weight", "threshold"):
        value = getattr(request, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} is {value}; expected a finite number")
    if request.threshold is not None and not 0 <= request.threshold <= 100:
        raise ValueError(f"threshold is {request.threshold}; it is a percentile, from 0 to 100")


def _check_memory(request: Request, model: Model, modes: tuple[str, ...]) -> None:
    """Raises ValueError where one batch, or the images that a picture keeps of all, are more than memory holds."""
    count, values = request.num_images, math.prod(model.shape)
    batch = min(request.batch_size, count)
    check_memory(f"batch_size={request.batch_size}", 4 * values * batch // jax.local_device_count())
    kept = {"grid": values, "chain": 4 * values * STAGES, "interpolate": 4 * values * LINE}  # bytes of each of the images
    for mode in modes:
        check_memory(f"{mode} of num_images={count}", on_host=count * (kept.get(mode, 0) + 8))  # and its number, and its class


def _modes(request: Request, model: Model, restores: bool, has_images: bool, draws_noise: bool) -> tuple[str, ...]:
    unknown = set(request.modes) - {*MODES, "all"}
    if unknown or not request.modes:
        raise ValueError(f"unknown modes {', '.join(sorted(unknown)) or '(none)'}; expected some of {', '.join(MODES)}, or all")
    missing: dict[str, str] = {}
    if not has_images:
        missing |= dict.fromkeys(OF_IMAGES, "images, a folder of real images: this network's own data set, a folder, is not here")
    if draws_noise:
        missing["interpolate"] = "a solver without noise (eta = 0): with noise, a latent does not tell its image"
    if request.mask is None:
        missing["inpaint"] = "mask, a picture that is white where the images are kept"
    if not restores:
        missing["restore"] = "a network that is told an image (config.data.degrade)"
    if not model.process.has_latents:
        none = "latents, which a network of discrete values has not"
        missing |= {"interpolate": none, "reconstruct": none, "inpaint": none}
    if "all" in request.modes:
        return tuple(mode for mode in MODES if mode not in missing)
    for mode in request.modes:
        if mode in missing:
            raise ValueError(f"{mode} needs {missing[mode]}")
    return request.modes


def _check_used(request: Request, model: Model, modes: tuple[str, ...], restores: bool, needs_images: bool) -> None:
    """Raises ValueError for what is given and nothing would read."""
    told = restores or request.label is not None or bool(set(modes) - set(OF_IMAGES))
    readers = [  # fields, what reads them, and whether that is asked for
        (("mask", "repeats"), "the mode inpaint", "inpaint" in modes),
        (("images", "split"), f"modes that begin with real images ({', '.join(OF_IMAGES)})", needs_images),
        (
            ("solver", "eta", "order", "variance"),
            "other modes than reconstruct, which is DDIM at eta = 0",
            modes != ("reconstruct",),
        ),
        (("guidance",), "images that are drawn, or whose label is given", told),
        (("classifier_weight",), "classifier", request.classifier is not None),
    ]
    for names, reader, asked in readers:
        for name in names:
            if getattr(request, name) is not None and not asked:
                raise ValueError(f"{name} is of {reader}; nothing here reads it: leave it out")
    if request.images is not None and request.split is not None:
        raise ValueError("split is of the data set, but images names a folder: leave one of them out")
    if not model.process.has_latents:
        for name in ("clip", "threshold", "guidance", "classifier"):
            if getattr(request, name) is not None:
                raise ValueError(f"a network of discrete values takes no {name}: leave it out")


def _repaint(request: Request, model: Model, repeats: int) -> Any:
    if (request.solver or model.defaults.solver) != "ddim" and request.eta is None:
        raise ValueError("repeats is of the solver ddim: set solver to it")
    eta = model.defaults.arguments["eta"] if request.eta is None else request.eta
    return solvers.repaint(model.schedule, model.tau(request.steps, request.spacing), eta, repeats)


def _label(request: Request, model: Model) -> np.ndarray | None:
    known = model.num_classes
    if request.label is None:
        return np.arange(known) if known else None
    if not known and request.classifier is None:
        raise ValueError("label needs a network that was trained on classes, or a classifier")
    if not all(label >= 0 and (not known or label < known) for label in request.label) or not request.label:
        classes = f"0 to {known - 1}" if known else "whole numbers from 0"
        raise ValueError(f"label is {', '.join(map(str, request.label))}; the classes are {classes}")
    return np.array(request.label, np.int32)


def _adjustment(request: Request, model: Model) -> Adjustment:
    if request.guidance is not None and not model.network.null:
        raise ValueError("guidance needs a network that is told something it can do without, such as the class")
    if request.classifier is not None and request.label is None:
        raise ValueError("a classifier needs label, the classes to guide towards")
    if request.classifier is not None:
        _check_classifier(request.classifier, model)
    return Adjustment(
        weight=1.0 if request.guidance is None else request.guidance,
        log_prob=request.classifier,
        log_prob_weight=1.0 if request.classifier_weight is None else request.classifier_weight,
        clip=model.defaults.clip if request.clip is None else request.clip,
        percentile=request.threshold,
    )


def _check_classifier(classifier: Callable, model: Model) -> None:
    """Raises ValueError unless it gives one number an example."""
    shapes = [jax.ShapeDtypeStruct((2, *model.shape), np.float32), *[jax.ShapeDtypeStruct((2,), np.int32)] * 2]
    try:
        found = jax.eval_shape(classifier, *shapes).shape
    except Exception as error:  # whatever a user's function raises
        found = f"{type(error).__name__}: {error}"
    if found != (2,):
        raise ValueError(
            "the classifier must take (x_t [B, ...], t [B], label [B]) and give log p(label | x_t), [B]; "
            f"for B = 2 it gave {found}"
        )
