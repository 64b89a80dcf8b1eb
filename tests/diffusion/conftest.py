"""What holds for every test of the functional core."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    """Adding arrays of two ranks or two dtypes without saying so is an error, since it is mostly a mistake."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
