"""Examples as rows on the devices."""

import jax
import jax.numpy as jnp
import numpy as np

from ddim_jax.training import rows


def test_examples_come_back_as_they_were():
    """By compiled code, of arrays of one to four axes; the rows are the same memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 4, 5, 3), np.uint8)
    examples = {"image": images, "label": np.arange(7), "vector": rng.normal(size=(7, 6)).astype(np.float32)}
    dataset = rows.from_arrays(examples)
    assert dataset["image"].flat.shape == (7, 60) and np.shares_memory(dataset["image"].flat, images)
    index = np.array([6, 0, 6])
    found = jax.jit(rows.take)(jax.tree.map(jnp.asarray, dataset), index)
    jax.tree.map(np.testing.assert_array_equal, found, {name: array[index] for name, array in examples.items()})


def test_one_array_without_names():
    images = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(rows.take(rows.from_arrays(images), np.array([1])), images[1:])
