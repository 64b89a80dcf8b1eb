"""Scores of features besides the Fréchet distance, as torch-fidelity 0.4 defines them, its seeds and subsets included."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SEED = 2020  # of the subsets of both scores that draw some
SPLITS = 10  # of the Inception Score
NEIGHBOURS = 3  # of precision and recall


class Score(NamedTuple):
    """A figure and its spread: the standard deviation over subsets or splits."""

    mean: float
    std: float


def kernel_distance(features: np.ndarray, real: np.ndarray, subsets: int = 100, size: int | None = None) -> Score:
    """The squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased (KID; Bińkowski et al., 1801.01401).

    Its mean and standard deviation over random subsets of `size` rows of features [N, D] and of real [M, D]; by default 1000, or
    half of the rows where these are fewer. Raises ValueError for less than two rows a subset, or more than there are.
    """
    rows = min(len(features), len(real))
    size = min(1000, rows // 2) if size is None else size
    if not 2 <= size <= rows:
        raise ValueError(f"the kernel distance takes subsets of {size} of {len(features)} and {len(real)} samples: draw more")
    random = np.random.RandomState(SEED)
    distances = []
    for _ in range(subsets):
        x, y = (rows[random.choice(len(rows), size, replace=False)].astype(np.float64) for rows in (features, real))
        within = sum((k.sum() - np.trace(k)) / (size * (size - 1)) for k in (_kernel(x, x), _kernel(y, y)))
        distances.append(within - 2 * _kernel(x, y).mean())
    return Score(float(np.mean(distances)), float(np.std(distances)))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    k = x @ y.T / x.shape[1] + 1
    return k * k * k  # many times as fast as k ** 3


class InceptionScore:
    """exp of the mean KL(p(y | x) || p(y)) over samples (Salimans et al., 1606.03498), summed up batch by batch.

    The samples are shuffled and split into ten; the score is the mean over these and its standard deviation.
    """

    def __init__(self, total: int):
        """Of `total` samples. Raises ValueError for fewer samples than splits."""
        if total < SPLITS:
            raise ValueError(f"the Inception Score needs at least {SPLITS} samples, one for each of its splits; got {total}")
        ends = np.arange(1, SPLITS + 1) * total // SPLITS
        self._split_of = np.empty(total, int)  # which split a sample lies in
        self._split_of[np.random.RandomState(SEED).permutation(total)] = np.searchsorted(ends, np.arange(total), side="right")
        self.sums = np.zeros((SPLITS, 0))  # then float64 [SPLITS, K + 1]: of p, and of the sum of p log p

    def add(self, index: np.ndarray, logits: np.ndarray) -> None:
        """Adds the samples numbered `index` [B], with their logits [B, K]."""
        logits = logits.astype(np.float64)
        log_p = logits - logits.max(1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
        p = np.exp(log_p)
        if not self.sums.size:
            self.sums = np.zeros((SPLITS, logits.shape[1] + 1))
        np.add.at(self.sums, self._split_of[index], np.concatenate([p, (p * log_p).sum(1, keepdims=True)], axis=1))

    def score(self, sums: np.ndarray) -> Score:
        """The score from `sums`, those of all hosts added up."""
        counts = np.bincount(self._split_of)
        mean_p, mean_p_log_p = sums[:, :-1] / counts[:, None], sums[:, -1] / counts
        entropy = (mean_p * np.log(np.maximum(mean_p, np.finfo(float).tiny))).sum(1)
        scores = np.exp(mean_p_log_p - entropy)
        return Score(float(scores.mean()), float(scores.std()))


def precision_recall(features: np.ndarray, real: np.ndarray, real_radii: np.ndarray | None = None) -> tuple[float, float]:
    """The share of samples among the real ones, and of real ones among the samples (Kynkäänniemi et al., 1904.06991).

    "Among" means: within the ball of one of them, which reaches to its third nearest neighbour.

    features, real: [N, D] and [M, D].
    real_radii:     `radii` of the real ones, where they are known already.
    Raises ValueError where there are not more rows than neighbours.
    """
    if min(len(features), len(real)) <= NEIGHBOURS:
        raise ValueError(
            f"precision and recall by {NEIGHBOURS} neighbours need at least {NEIGHBOURS + 1} samples on either side; there are "
            f"{len(features)} and {len(real)}: draw more"
        )
    real_radii = radii(real) if real_radii is None else real_radii
    return _share_within(features, real, real_radii), _share_within(real, features, radii(features))


def radii(rows: np.ndarray) -> np.ndarray:
    """Squared distance float64 [N] of each of rows [N, D] to its third nearest neighbour. Raises ValueError for N < 4."""
    found = [np.partition(d, NEIGHBOURS, axis=1)[:, NEIGHBOURS].copy() for d in _squared_distances(rows, rows)]  # no views of all
    return np.concatenate(found)


def _share_within(rows: np.ndarray, balls: np.ndarray, radius: np.ndarray) -> float:
    """The share of rows that lie within at least one of the balls around `balls`."""
    return float(np.mean(np.concatenate([(d <= radius).any(1) for d in _squared_distances(rows, balls)])))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """|a_i - b_j|^2 in float64, a chunk of a at a time: [chunk, M] of 32 MB."""
    b = b.astype(np.float64)
    square = (b * b).sum(1)
    chunk = max(1, 2**22 // len(b))
    for first in range(0, len(a), chunk):
        part = a[first : first + chunk].astype(np.float64)
        yield np.maximum((part * part).sum(1)[:, None] + square - 2 * part @ b.T, 0)
