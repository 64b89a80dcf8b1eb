"""Sets of images as features, batch by batch, and one set compared with another."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from ddim_jax.data import sources
from ddim_jax.data.images import to_uint8
from ddim_jax.evaluation import moments, scores
from ddim_jax.evaluation.moments import Moments
from ddim_jax.evaluation.scores import Score
from ddim_jax.inference.generate import Generator
from ddim_jax.models.network import Condition

Describe = Callable[[np.ndarray | jax.Array], dict[str, np.ndarray]]  # see `features.describer`
BATCH = 256  # images that are read and described at once
FEW = 10_000  # samples, below which figures of two sets say little about a third


class Measured(NamedTuple):
    """What is kept of a set of images. A part that its extractor or its file has not is None."""

    n: int | None  # images; None where a file does not say
    moments: Moments  # of the features
    spatial: Moments | None = None  # of what is seen at each place
    features: np.ndarray | None = None  # float32 [N, D]
    radii: np.ndarray | None = None  # float64 [N], `scores.radii` of the features; of references alone, which are compared often
    inception_score: Score | None = None


def share(total: int) -> np.ndarray:
    """The numbers [n] of the images that this host draws or reads, of `total` in all."""
    return np.array_split(np.arange(total), jax.process_count())[jax.process_index()]


def measure(describe: Describe, batches: Iterable[np.ndarray | jax.Array], total: int) -> Measured:
    """Measures `total` images over all hosts, of which each gives those of `share(total)`, in that order.

    describe: of the extractor.
    batches:  images uint8 [B, H, W, C], one batch at a time; of them nothing is kept but their features.

    Raises ValueError where there are fewer images than hosts, or other images than `total` promised.
    """
    if total < jax.process_count():
        raise ValueError(f"{total} images cannot be shared by {jax.process_count()} hosts: take more of them")
    index, done = share(total), 0
    sums: dict[str, Moments] = {}
    rows: np.ndarray | None = None
    score: scores.InceptionScore | None = None
    for images in batches:
        found = describe(images)
        for name in ("features", "spatial"):
            if name in found:
                new = moments.of(found[name])
                sums[name] = moments.merge(sums[name], new) if name in sums else new
        if rows is None:
            rows = np.empty((-(-total // jax.process_count()), found["features"].shape[1]), np.float32)
        if "logits" in found and total >= scores.SPLITS:
            score = score or scores.InceptionScore(total)
            score.add(index[done : done + len(images)], found["logits"])
        rows[done : done + len(images)] = found["features"]
        done += len(images)
    if rows is None or done != len(index):
        raise ValueError(f"this host was to give {len(index)} images, and gave {done}")
    shares = np.array_split(np.arange(total), jax.process_count())
    gathered = np.concatenate([rows[: len(each)] for each, rows in zip(shares, moments.gather(rows))])
    return Measured(
        n=total,
        moments=moments.over_hosts(sums["features"]),
        spatial=moments.over_hosts(sums["spatial"]) if "spatial" in sums else None,
        features=gathered,
        inception_score=None if score is None else score.score(moments.gather(score.sums).sum(0)),
    )


def measure_images(describe: Describe, images: Any) -> Measured:
    """Measures all of an array uint8 [N, H, W, C] or a `sources.Source` of images, of which each host reads its share."""
    total = sources.num_examples(images)
    mine = share(total)
    parts = np.split(mine, np.arange(BATCH, len(mine), BATCH))
    return measure(describe, (np.asarray(sources.take(images, part)) for part in parts), total)


def measure_samples(
    generator: Generator,
    params: Any,
    table: Any,
    describe: Describe,
    seed: int,
    batch_size: int,
    told: Condition,
    count: int,
) -> Measured:
    """Draws `count` samples, of which each host its share, and measures them: no image is kept.

    generator, params, table, seed: as of `Generator.batches`.
    describe:                       of the extractor.
    batch_size:                     how many are drawn at once.
    told:                           what the network is told of them, arrays [count, ...]; {} for nothing.
    count:                          how many there are in all.
    """
    index = share(count)
    mine = {name: np.asarray(values)[index] for name, values in told.items()}
    batches = generator.batches(params, table, seed, index, batch_size, mine)
    return measure(describe, map(to_uint8, batches), count)


def compare(measured: Measured, reference: Measured) -> dict[str, Any]:
    """All figures of a set of images against a reference, as JSON has them; None where one of the two lacks what it needs.

    "n", "reference_n"  how many images there are
    "distance"          the Fréchet distance of the features, "limit" and "curve" ({"n", "values", "errors"}) as `moments.curve`
    "spatial_distance"  the same of what is seen at each place (sFID)
    "kernel_distance", "inception_score"  [mean, standard deviation]
    "precision", "recall"  by the third nearest neighbour

    Raises ValueError for features of different lengths, and for fewer images than neighbours.
    """
    ours, real = measured.features, reference.features
    target = moments.root(reference.moments)
    figures: dict[str, Any] = {
        "n": measured.n,
        "reference_n": reference.n,
        "distance": moments.frechet_distance(measured.moments, reference.moments, target),
        "limit": None,
        "curve": None,
        "spatial_distance": None,
        "kernel_distance": None,
        "inception_score": None if measured.inception_score is None else list(measured.inception_score),
        "precision": None,
        "recall": None,
    }
    if measured.spatial is not None and reference.spatial is not None:
        figures["spatial_distance"] = moments.frechet_distance(measured.spatial, reference.spatial)
    if ours is not None and len(ours) >= 8:
        found = moments.curve(ours, reference.moments, target)
        errors = [None if np.isnan(error) else error for error in found.errors]
        figures |= {"limit": found.limit, "curve": {"n": found.counts, "values": found.values, "errors": errors}}
    if ours is not None and real is not None:
        figures["kernel_distance"] = list(scores.kernel_distance(ours, real))
        figures["precision"], figures["recall"] = scores.precision_recall(ours, real, reference.radii)
    return figures


def warnings(figures: dict[str, Any], num_features: int, distance: str) -> list[str]:
    """What a reader must know before believing the figures of `compare`, a sentence each."""
    said = []
    n, reference_n = figures["n"], figures["reference_n"]
    if n < FEW:
        said.append(
            f"{n:,} samples are few: the {distance} is too high, by about as much again for each halving of n. Compare it with "
            f"figures of {n:,} samples alone; the limit in 1/n is nearer to that of many."
        )
    for count, what in ((n, "samples"), (reference_n, "reference images")):
        if count is not None and count <= num_features:
            said.append(
                f"{count:,} {what} for {num_features:,} features do not determine a covariance; the {distance} is defined, but "
                f"says less than with more than {num_features:,}."
            )
    return said
