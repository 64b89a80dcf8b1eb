"""What holds for every test."""

import os
import tempfile

# Compiling is most of the time: less optimisation halves it, and one cache serves all tests and the processes they start.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has that of the process that started it
    _CACHE = tempfile.TemporaryDirectory(prefix="ddim_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import jax
import pytest


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that where files run side by side no long one is left to the end alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def x64():
    """float64 for one test; a module of them says `pytestmark = pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Those of one module serve no other, and all together take gigabytes."""
    yield
    jax.clear_caches()
