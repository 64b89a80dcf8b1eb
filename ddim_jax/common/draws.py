"""Random numbers as `jax.random` gives them; on CPUs they take a fraction of the time.

Uniform numbers are the same to the bit. Normal ones are the same function of them, whose last two bits may differ where the
compiler joins its products and sums in another way.

For CPUs JAX compiles Threefry (Salmon et al., 2011) as a loop that keeps its state in memory, and into one piece with what
follows, of which the compiler then vectorises nothing. Here its rounds are written out, and the numbers stand by themselves.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
    """Standard normal numbers, what `jax.random.normal(key, shape, dtype)` gives, but for rounding; the key is a typed one."""
    dtype = jnp.result_type(dtype)  # of `float`, float64 where JAX has it
    if not _is_written_out(key, shape, dtype):
        return jax.random.normal(key, shape, dtype)

    def on_cpu(key):
        least = np.nextafter(np.float32(-1), np.float32(0))
        return np.float32(np.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(least, _uniform(key, shape) * (1 - least) + least))

    return jax.lax.platform_dependent(key, cpu=on_cpu, default=lambda key: jax.random.normal(key, shape, dtype))


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers in [0, 1), to the bit what `jax.random.uniform(key, shape, jnp.float32)` gives; the key is a typed one."""
    if not _is_written_out(key, shape, jnp.float32):
        return jax.random.uniform(key, shape, jnp.float32)
    return jax.lax.platform_dependent(
        key, cpu=lambda key: _uniform(key, shape), default=lambda key: jax.random.uniform(key, shape, jnp.float32)
    )


def _is_written_out(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> bool:
    threefry = jax.random.key_impl(key) == "threefry2x32" and jax.config.jax_threefry_partitionable
    known = all(isinstance(size, int) for size in shape)  # and no symbol of what is exported
    return threefry and dtype == jnp.float32 and known and math.prod(shape) < 2**32


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    counts = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    key0, key1 = jax.random.key_data(key)
    first, second = _threefry(key0, key1, jnp.zeros_like(counts), counts)
    mantissa = (first ^ second) >> 9 | np.float32(1).view(np.uint32)  # of a number in [1, 2)
    return jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1)


def _threefry(key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 of 20 rounds: two words for each count (x0, x1), all uint32."""
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(_PARITY))
    x0, x1 = x0 + key0, x1 + key1
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ (x1 << rotation | x1 >> 32 - rotation)
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1
