"""Moments of features, and the Fréchet distance between them."""

import numpy as np
import pytest

from ddim_jax.evaluation import moments
from ddim_jax.evaluation.moments import Moments
from tests.evaluation.samples import features


def normal(mean, covariance, n=1000) -> Moments:
    """Moments that are exactly these."""
    return Moments(n, np.asarray(mean, np.float64), np.asarray(covariance, np.float64) * (n - 1))


def rotation(dimension: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, dimension)))[0]


def test_the_distance_of_normals_whose_covariances_commute():
    """|m_a - m_b|^2 + sum (sqrt(a) - sqrt(b))^2 over the variances along common axes."""
    a, b, axes = np.array([0.1, 2.0, 30.0]), np.array([0.4, 2.0, 7.0]), rotation(3)
    found = moments.frechet_distance(normal([1, 2, 3], axes @ np.diag(a) @ axes.T), normal([1, 0, 3], axes @ np.diag(b) @ axes.T))
    np.testing.assert_allclose(found, 4 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rtol=1e-12)


def test_the_distance_of_two_by_two_covariances():
    """tr sqrt(A B) of two by two matrices is sqrt(tr(A B) + 2 sqrt(det(A B)))."""
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    found = moments.frechet_distance(normal([0, 0], a), normal([0, 3], b))
    np.testing.assert_allclose(found, 9 + np.trace(a + b) - 2 * root, rtol=1e-12)


def test_the_distance_holds_for_fewer_samples_than_features():
    """Features that lie in 6 of 300 dimensions, rotated, are as far apart as they are in those 6; and 0 from themselves."""
    a, b = features(20, 1, 6), features(25, 2, 6)
    wide = rotation(300)[:6]
    expected = moments.frechet_distance(moments.of(a), moments.of(b))
    found = moments.frechet_distance(moments.of(a @ wide), moments.of(b @ wide))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    few = moments.of(features(9, 3, 300))
    assert abs(moments.frechet_distance(few, few)) < 1e-10 * np.trace(few.covariance)


def test_batches_add_up_to_the_whole_however_they_are_split():
    rows = features(500, 1)
    whole = moments.of(rows)
    for ends in ([1, 499], [250], [3, 4, 5, 77]):
        parts = [moments.of(part) for part in np.split(rows, ends)]
        total = parts[0]
        for part in parts[1:]:
            total = moments.merge(total, part)
        assert total.n == 500
        np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(total.covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-11, atol=1e-13)


def test_nothing_is_lost_where_the_mean_is_far_from_zero():
    """Whole numbers, so that the exact covariance is that of the rows without the large mean."""
    rows = np.random.default_rng(0).integers(-50, 50, (400, 5)).astype(np.float64)
    parts = [moments.of(part + 1e9) for part in np.split(rows, 4)]
    total = moments.merge(moments.merge(parts[0], parts[1]), moments.merge(parts[2], parts[3]))
    np.testing.assert_allclose(total.covariance, np.cov(rows, rowvar=False), rtol=1e-6, atol=1e-5)


def test_gathering_keeps_float64():
    one = np.array([1 + 1e-15, np.pi])
    np.testing.assert_array_equal(moments.gather(one), one[None])
    assert moments.gather(np.float64(np.pi)).tolist() == [np.pi]


def test_the_limit_of_the_curve_is_free_of_the_bias():
    """Standard normal features against exactly a standard normal: 0, where the distance of n samples is above it by

    D / n for the mean and D (D + 1) / 4n for the covariance (the mean square of its error is D (D + 1) / n, the distance a
    fourth of it), to first order in 1/n. It varies by some 3%, so that three times as much is allowed.
    """
    dimension, n = 64, 8000
    exact = normal(np.zeros(dimension), np.eye(dimension))
    found = moments.curve(np.random.default_rng(0).standard_normal((n, dimension)), exact, moments.root(exact))
    assert list(found.counts) == [2000, 4000, 8000]
    bias = np.array([dimension / c + dimension * (dimension + 1) / (4 * c) for c in found.counts])
    np.testing.assert_allclose(found.values, bias, rtol=0.1)
    assert abs(found.limit) < 0.1 * bias[0]
    assert found.errors[0] > 0 and np.isnan(found.errors[-1])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="have 3 and 4 numbers: they are of different extractors"):
        moments.frechet_distance(moments.of(features(9, 1, 3)), moments.of(features(9, 1, 4)))
    with pytest.raises(ValueError, match="at least 2 samples; there are 1"):
        moments.frechet_distance(moments.of(features(1, 1)), moments.of(features(9, 1)))
