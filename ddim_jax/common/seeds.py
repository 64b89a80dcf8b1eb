"""Seeds, and the streams of random keys that come from one: what two parts of the package draw never coincides."""

import zlib

import jax

LARGEST_SEED = 2**31 - 1


def check_seed(seed: int) -> int:
    """The seed. Raises ValueError unless it is a whole number from 0 to 2**31 - 1, which no two of are the same key."""
    if seed != int(seed) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"the seed is {seed}; expected a whole number from 0 to {LARGEST_SEED}")
    return int(seed)


def stream(seed: int, name: str) -> jax.Array:
    """The random key of a seed for one purpose, named. Training's own keys are those of the bare seed."""
    return named(jax.random.key(check_seed(seed)), name)


def named(key: jax.Array, name: str) -> jax.Array:
    """The random key for one purpose, of a key made of a seed, as `stream` gives it; compiled code may have the seed."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
