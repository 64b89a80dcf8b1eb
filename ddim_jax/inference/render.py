"""A plan carried out: pictures and arrays in a folder."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from ddim_jax.common.files import check_writable
from ddim_jax.data import images as files
from ddim_jax.data.images import to_float, to_uint8
from ddim_jax.inference import pictures
from ddim_jax.inference.request import DRAWN, LINE, STAGES, Plan
from ddim_jax.models.network import Condition


def render(plan: Plan, output: pathlib.Path, images: np.ndarray | None, condition: Condition, say: Callable[[str], None]) -> None:
    """Makes what a plan asks for.

    plan:      of `request.plan`.
    output:    the folder to write to, which is made where it is not there.
    images:    real images uint8 [N, H, W, C] where plan.needs_images, at most request.num_images.
    condition: what the network is told of these images besides their class, arrays [N, ...].
    say:       called with a line of progress, now and then.

    Raises ValueError before anything is drawn, where the folder cannot be written to, or holds samples of another run;
    FloatingPointError where what is drawn is not finite.
    """
    request, model = plan.request, plan.model
    batch_size = request.batch_size
    # Where a network is told an image, what is drawn is drawn for real images, as many as there are.
    count = len(images) if condition and images is not None else request.num_images

    def save(name: str, pictures_of: np.ndarray) -> None:
        files.save_png(output / name, files.grid(np.asarray(to_uint8(pictures_of))))

    def told(number: int, label: np.ndarray | None) -> tuple[Condition, Condition]:
        """(condition, extra) of that many examples."""
        rows = {name: values[:number] for name, values in condition.items()}
        labels = {} if label is None else {"label": np.resize(label.astype(np.int32), number)}
        return rows | (labels if model.num_classes else {}), (labels if request.classifier else {})

    _check_output(plan, output, count)
    table, sampler = plan.table, (plan.generator, model.params)
    rows, extra = told(count, plan.label)
    if set(DRAWN) & set(plan.modes):
        _draw(plan, output, count, rows, extra, say)
    if "chain" in plan.modes:
        save("chain.png", pictures.chain(*sampler, table, request.seed, count, STAGES, rows, extra, batch_size))
    if "interpolate" in plan.modes:
        latents, _ = plan.generator.latents(request.seed, np.arange(2 * max(2, count)))
        pairs = latents.reshape(-1, 2, *model.shape)
        save("interpolation.png", pictures.interpolation(*sampler, table, pairs[:count], LINE, rows, extra, batch_size))
        save("interpolation_grid.png", pictures.interpolation_grid(*sampler, table, pairs[:2], LINE, rows, extra, batch_size))
    if images is None:
        return
    x0 = np.asarray(to_float(images))
    rows, extra = told(len(images), None if request.label is None else plan.label)
    if "reconstruct" in plan.modes:
        tau = model.tau(request.steps, request.spacing)
        save("reconstruction.png", np.stack([x0, pictures.reconstruction(*sampler, tau, x0, rows, extra, batch_size)]))
    if "inpaint" in plan.modes and request.mask is not None:
        painted = pictures.inpainting(*sampler, plan.painting_table, request.seed, x0, request.mask, rows, extra, batch_size)
        kept = np.where(request.mask, x0, -1)
        save("inpainting.png", np.stack([x0, kept, painted]))
    if "restore" in plan.modes:
        index = np.arange(len(images))
        batches = plan.generator.batches(model.params, table, request.seed, index, batch_size, rows, extra)
        shown = np.broadcast_to(condition["image"], x0.shape)  # one of grey has a channel for all three
        save("restoration.png", np.stack([shown, np.concatenate(list(batches)), x0]))


def _check_output(plan: Plan, output: pathlib.Path, count: int) -> None:
    """Makes the folder. Raises ValueError where it cannot be written to, or files of more samples lie there than `count`."""
    check_writable(output, folder=True)
    output.mkdir(parents=True, exist_ok=True)
    if "files" in plan.modes:
        check_writable(output / "samples", folder=True)
    in_the_way = [path.name for path in output.glob("*") if path.suffix in (".png", ".npz") and path.is_dir()]
    if in_the_way:
        raise ValueError(f"{output / in_the_way[0]} is a folder, where a file is to be written: give another output")
    more = [path.name for path in (output / "samples").glob("*.png") if path.stem >= f"{count:06d}"]
    if "files" in plan.modes and more:
        raise ValueError(f"{output / 'samples'} holds {min(more)} and more of another run: empty it, or give another output")


def _draw(plan: Plan, output: pathlib.Path, count: int, rows: Condition, extra: Mapping, say: Callable[[str], None]) -> None:
    """Draws once, batch by batch, into all of the files that are asked for."""
    request, generator, done, kept = plan.request, plan.generator, 0, []
    with contextlib.ExitStack() as open_files:
        if "npz" in plan.modes:
            writer = files.npz_writer(output / "samples.npz", "samples", (count, *generator.shape))
            append = open_files.enter_context(writer)
        batches = generator.batches(
            plan.model.params, plan.table, request.seed, np.arange(count), request.batch_size, rows, extra
        )
        for drawn in batches:
            batch = np.asarray(to_uint8(drawn))
            if "npz" in plan.modes:
                append(batch)
            if "files" in plan.modes:
                for i, image in enumerate(batch, start=done):
                    files.save_png(output / "samples" / f"{i:06d}.png", image)
            if "grid" in plan.modes:
                kept.append(batch)
            done += len(batch)
            say(f"{done} of {count} images")
    if "grid" in plan.modes:
        files.save_png(output / "samples.png", files.grid(np.concatenate(kept)))
