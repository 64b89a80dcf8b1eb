"""Random numbers against those of `jax.random` and Flax: uniform ones bit by bit, normal ones but for their rounding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.common import draws
from ddim_jax.models import unet


def compiled_apart(ours, theirs, *arguments, maxulp=0):
    ours, theirs = jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments)
    assert ours.dtype == theirs.dtype
    if maxulp:
        np.testing.assert_array_max_ulp(ours, theirs, maxulp)
    else:
        np.testing.assert_array_equal(ours, theirs)


# The normal numbers are a polynomial of a logarithm of uniform ones. Each rounds by half a unit in the last place, or not, as a
# processor's compiler joins its products and sums: none apart on an AMD Zen 5, 2 units on an Intel with AVX-512.
ROUNDING = 4


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 2), (16, 32, 32, 3)])
@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_the_numbers_of_jax(shape, seed):
    key = jax.random.fold_in(jax.random.key(seed), 12345)
    compiled_apart(lambda key: draws.normal(key, shape), lambda key: jax.random.normal(key, shape), key, maxulp=ROUNDING)
    compiled_apart(lambda key: draws.uniform(key, shape), lambda key: jax.random.uniform(key, shape), key)


def test_each_key_by_itself():
    keys = jax.random.split(jax.random.key(3), 4)
    for ours, theirs, maxulp in [(draws.normal, jax.random.normal, ROUNDING), (draws.uniform, jax.random.uniform, 0)]:
        compiled_apart(*(jax.vmap(lambda key, draw=draw: draw(key, (8, 3))) for draw in (ours, theirs)), keys, maxulp=maxulp)


@pytest.mark.parametrize("kind, dtype", [("rbg", jnp.float32), ("threefry2x32", jnp.bfloat16)])
def test_other_generators_and_precisions_are_left_to_jax(kind, dtype):
    key = jax.random.key(5, impl=kind)
    compiled_apart(lambda key: draws.normal(key, (9,), dtype), lambda key: jax.random.normal(key, (9,), dtype), key)


def test_in_double_precision(x64):
    """`jax.random.normal` draws in it where it is on, and `uniform` of jax is asked for float32."""
    key = jax.random.key(7)
    compiled_apart(lambda key: draws.normal(key, (9,)), lambda key: jax.random.normal(key, (9,)), key)
    assert draws.normal(key, (9,)).dtype == jnp.float64
    compiled_apart(lambda key: draws.uniform(key, (9,)), lambda key: jax.random.uniform(key, (9,), jnp.float32), key)


def test_dropout_is_that_of_flax():
    """Both modules are called Dropout_0, by which Flax folds the key."""

    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.3, deterministic=False)(x)

    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x):
            return unet.Dropout(0.3)(x)

    x = jax.random.normal(jax.random.key(1), (4, 6, 6, 32))
    ours, theirs = (jax.jit(each.apply)({}, x, rngs={"dropout": jax.random.key(2)}) for each in (Ours(), Theirs()))
    np.testing.assert_array_equal(ours, theirs)
    assert 0.6 < np.mean(ours != 0) < 0.8
