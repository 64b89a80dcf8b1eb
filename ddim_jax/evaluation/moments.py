"""Mean and covariance of features, in float64, added up batch by batch; and the Fréchet distance between two of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.experimental import multihost_utils


class Moments(NamedTuple):
    """What is kept of N rows of features [N, D] that are not kept themselves."""

    n: int
    mean: np.ndarray  # float64 [D]
    scatter: np.ndarray  # float64 [D, D]: the sum of (x - mean) (x - mean)^T

    @property
    def covariance(self) -> np.ndarray:
        """float64 [D, D], unbiased. Raises ValueError for fewer than two rows."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples; there are {self.n}")
        return self.scatter / (self.n - 1)


def of(features: np.ndarray) -> Moments:
    """The moments of features [N, D], N >= 1."""
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of the rows of both (Chan et al., 1979), right to rounding however far from 0 the means lie."""
    n, shift = a.n + b.n, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(shift, shift) * (a.n * b.n / n)
    return Moments(n, a.mean + shift * (b.n / n), scatter)


def over_hosts(mine: Moments) -> Moments:
    """The moments of the rows of all hosts, of which each has at least one."""
    gathered = [gather(np.asarray(part, np.float64)) for part in mine]
    each = [Moments(int(n), mean, scatter) for n, mean, scatter in zip(*gathered)]
    total = each[0]
    for other in each[1:]:
        total = merge(total, other)
    return total


def gather(array: np.ndarray) -> np.ndarray:
    """An array of each host, stacked in their order: [hosts, ...], float64 where it was, which JAX alone would cut short."""
    array = np.array(array, order="C")
    gathered = multihost_utils.process_allgather(array.reshape(-1).view(np.uint32))
    return np.asarray(gathered).reshape(-1).view(array.dtype).reshape(-1, *array.shape)


def root(moments: Moments) -> np.ndarray:
    """A root R [D, r] of the covariance, R R^T, without the directions in which there is nothing but rounding."""
    values, vectors = np.linalg.eigh(moments.covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet_distance(a: Moments, b: Moments, root_b: np.ndarray | None = None) -> float:
    """The Fréchet distance of two normals, |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Dowson & Landau, 1982).

    The trace of the root is the sum of the singular values of R_a^T R_b, R a root of each covariance: no root of a product
    that rounding has made indefinite, so that it holds for fewer samples than features, too.

    a, b:   moments of features of one extractor.
    root_b: `root(b)` where it is at hand, for several distances to one b.

    Raises ValueError for features of different lengths, and for fewer than two samples.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the features have {len(a.mean)} and {len(b.mean)} numbers: they are of different extractors, take one for both"
        )
    root_b = root(b) if root_b is None else root_b
    cross = np.linalg.svd(root(a).T @ root_b, compute_uv=False).sum()
    square = np.sum(np.square(a.mean - b.mean))
    return float(square + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


class Curve(NamedTuple):
    """How a Fréchet distance depends on the number of samples n, and where that leads."""

    counts: Sequence[int]  # n, rising to N
    values: Sequence[float]  # the mean over disjoint subsets of n
    errors: Sequence[float]  # the standard error of that mean; NaN of the one subset that is all of them
    limit: float  # at 1/n = 0, on the line through the values


def curve(features: np.ndarray, reference: Moments, target: np.ndarray) -> Curve:
    """The Fréchet distance of n samples for n = N/4, N/2 and N, each over all disjoint subsets, and its limit in 1/n.

    It falls with n though nothing gets better, by about as much each time that 1/n does (Chong & Forsyth, arXiv 1911.07023):
    figures of different n cannot be compared, their limits can.

    features:  [N, D].
    reference: the moments of what they are compared with, whose own number of samples stays as it is.
    target:    `root(reference)`.

    Raises ValueError for fewer than 2 samples in the smallest subset.
    """
    counts, values, errors = [], [], []
    for parts in (4, 2, 1):
        n = len(features) // parts
        found = [frechet_distance(of(features[i * n : (i + 1) * n]), reference, target) for i in range(parts)]
        counts.append(n)
        values.append(float(np.mean(found)))
        errors.append(float(np.std(found, ddof=1) / np.sqrt(parts)) if parts > 1 else float("nan"))
    _, limit = np.polyfit(1 / np.array(counts), values, 1)
    return Curve(counts, values, errors, float(limit))
