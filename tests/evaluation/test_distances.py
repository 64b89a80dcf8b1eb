import numpy as np
import pytest

from ddim_jax.evaluation.distances import sliced_wasserstein


@pytest.mark.parametrize("dimensions", [1, 3])
def test_the_distance_of_a_shifted_set_is_the_mean_length_of_the_shifts_projection(dimensions):
    """Along a direction u every quantile moves by u . v, so W1 there is |u . v|; its mean over directions is E|u_1| |v|: 1 in
    one dimension, 1/2 in three (u_1 is uniform on [-1, 1]). 4 standard errors of |u_1| over 4,096 directions: 1 / sqrt(12).
    """
    a = np.random.default_rng(1).standard_normal((500, dimensions))
    v = np.zeros(dimensions)
    v[0] = 2.0
    expected = 2.0 * {1: 1.0, 3: 0.5}[dimensions]
    found = sliced_wasserstein(a, a + v, directions=4096)
    assert abs(found - expected) <= (4 * 2 / np.sqrt(12 * 4096) if dimensions == 3 else 1e-12)


def test_equal_sets_are_at_zero_and_the_order_of_the_two_does_not_matter():
    a, b = (np.random.default_rng(seed).standard_normal((300, 2)) for seed in (0, 1))
    assert sliced_wasserstein(a, a[::-1]) < 1e-12
    assert sliced_wasserstein(a, b) == sliced_wasserstein(b, a) > 0
