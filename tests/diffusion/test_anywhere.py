"""Samplers exported with a symbolic batch and number of steps, inside shard_map, and with networks of other dtypes and shapes."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from ddim_jax.diffusion import discrete, sampling
from ddim_jax.diffusion.process import Prediction, from_eps, from_v, from_x0
from ddim_jax.diffusion.schedule import linear, subsequence
from ddim_jax.diffusion.solvers import ddim, dpmpp_2m

SCHEDULE = linear()
KEY = jax.random.key(4)


def single(table):
    return jax.tree.map(lambda column: np.asarray(column, np.int32 if column.dtype == int else np.float32), table)


def gaussian_table(num_steps):
    return single(ddim(SCHEDULE, subsequence(1000, num_steps, "trailing"), 0.7))


def categorical_table(num_steps):
    return single(discrete.table(SCHEDULE, subsequence(1000, num_steps, "trailing"), 0.3))


def shapes(table, num_steps):
    return jax.tree.map(lambda column: jax.ShapeDtypeStruct((num_steps, *column.shape[1:]), column.dtype), table)


def eps(x, t):
    return jnp.sin(x) * (t.reshape(-1, 1) / 1000)


def sample(table, x, key):
    return sampling.sample(from_eps(SCHEDULE, eps), table, x, key)


def keep_two(table, x, key):
    return sampling.run(from_eps(SCHEDULE, eps), table, x, key, lambda step: step.x0, np.array([0, 2]))


def over_categories(table, x, key):
    return discrete.sample(lambda x, t: jax.nn.softmax(x + t.reshape(-1, 1, 1) / 1000), table, x, key)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [(), ("b",)])
@pytest.mark.parametrize(
    "run, make, shape",
    [(sample, gaussian_table, (3,)), (keep_two, gaussian_table, (3,)), (over_categories, categorical_table, (2, 5))],
    ids=["sample", "records", "categories"],
)
def test_one_program_serves_any_batch_and_any_number_of_steps(run, make, shape, keys):
    """Exported once for three platforms; called on this one at two sizes of each."""
    b, s = export.symbolic_shape("b, s", constraints=["b >= 1", "s >= 3"])
    key = jax.ShapeDtypeStruct(tuple(b for _ in keys), KEY.dtype)
    exported = export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(
        shapes(make(3), s), jax.ShapeDtypeStruct((b, *shape), jnp.float32), key
    )
    for batch, steps in [(2, 3), (5, 4)]:
        x = jax.nn.softmax(jax.random.normal(KEY, (batch, *shape)))
        table, key = make(steps), jax.random.split(KEY, batch) if keys else KEY
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), exported.call(table, x, key), run(table, x, key)
        )


@pytest.mark.slow
def test_inside_shard_map_with_its_checks():
    """Two devices need a process of their own; what it compares is in in_shard_map.py."""
    root = pathlib.Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = env.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, pathlib.Path(__file__).with_name("in_shard_map.py")], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("split over") == 8


@pytest.mark.parametrize("make", [from_eps, from_x0, from_v])
def test_predictions_of_another_precision_are_taken_in_that_of_x(make, x64):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)), jnp.float32)
    weights = np.array([[0.3, -0.2, 0.5]])  # float64
    with jax.numpy_dtype_promotion("standard"):
        double = lambda x, t: x * weights
        single = lambda x, t: x * np.float32(weights)
        assert double(x, None).dtype == jnp.float64
        table = dpmpp_2m(SCHEDULE, subsequence(1000, 4, "trailing"))
        found, expected = (sampling.sample(make(SCHEDULE, network), table, x) for network in (double, single))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_categories_of_another_precision_are_taken_in_that_of_x(x64):
    x = jnp.eye(3, dtype=jnp.float32)[jnp.array([[0, 1], [2, 2]])]
    table = discrete.table(SCHEDULE, subsequence(1000, 4, "trailing"), 0.3)
    f = lambda dtype: lambda x, t: jnp.full(x.shape, 1 / 3, dtype)
    found = discrete.sample(f(jnp.float64), table, x, KEY)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, discrete.sample(f(jnp.float32), table, x, KEY))


@pytest.mark.parametrize("make", [from_eps, from_x0, from_v])
def test_a_network_of_another_shape_is_refused_with_both_shapes(make):
    x, table = jnp.ones((4, 3)), ddim(SCHEDULE, subsequence(1000, 3, "trailing"))
    with pytest.raises(
        ValueError, match=r"what the network predicts has shape \(4, 1\), for x of shape \(4, 3\); they must be the same"
    ):
        sampling.sample(make(SCHEDULE, lambda x, t: x[:, :1]), table, x)


def test_a_prediction_of_another_shape_is_refused_with_both_shapes():
    x, table = jnp.ones((4, 3)), ddim(SCHEDULE, subsequence(1000, 3, "trailing"))
    for name, predict in {
        "x_0": lambda x, t: Prediction(x[:, :1], x),
        "eps": lambda x, t: Prediction(x, x[..., None]),
    }.items():
        with pytest.raises(ValueError, match=rf"the predicted {name} has shape \(4, .*, for x of shape \(4, 3\)"):
            sampling.sample(predict, table, x)
    with pytest.raises(ValueError, match=r"the predicted f\(x\) has shape \(4, 1\), for x of shape \(4, 3\)"):
        discrete.sample(lambda x, t: x[:, :1], discrete.table(SCHEDULE, np.array([0, 5, 1000])), x, KEY)


def test_whole_numbers_stand_for_one_hot_x_too():
    """Weights of the table would be cut to whole numbers in its dtype."""
    x = np.eye(3, dtype=int)[np.array([[0, 1], [2, 2]])]
    table = discrete.table(SCHEDULE, subsequence(1000, 4, "trailing"), 0.3)
    f = lambda x, t: jax.nn.softmax(x)
    np.testing.assert_array_equal(discrete.sample(f, table, x, KEY), discrete.sample(f, table, jnp.asarray(x, jnp.float32), KEY))
