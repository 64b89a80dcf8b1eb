"""The wheel, installed into an environment of its own: all of the package works there, with no checkout beside it."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import numpy as np
import pytest

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]

IMPORT = """
import importlib, pathlib, pkgutil, sys
import ddim_jax

assert pathlib.Path(ddim_jax.__file__).is_relative_to(sys.prefix), f"{ddim_jax.__file__} is not in {sys.prefix}"
for module in pkgutil.walk_packages(ddim_jax.__path__, "ddim_jax."):
    print(importlib.import_module(module.name).__name__)
"""

SAMPLE = """
import numpy as np
import ddim_jax
from ddim_jax import weights

np.save("digits.npy", ddim_jax.load(weights.DIGITS).sample(2, steps=5, spacing="quadratic", label=[3, 8]))
"""

TYPES = """
from ddim_jax.diffusion import schedule

reveal_type(schedule.linear())
schedule.linear(num_steps="many")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The file, built from a copy: setuptools would leave its folder `build` in the checkout, and read it the next time."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", ".*", "build", "runs", "*.egg-info")
    shutil.copytree(ROOT, folder / "source", ignore=skip)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run(build, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs Python, away from the checkout, where the wheel is installed, and gives what it printed.

    That environment sees the packages that this one has, except ddim_jax: a line of a .pth file adds a folder to Python's
    path, but the .pth files in that folder, among them that of an editable install, are not read.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", symlinks=os.name != "nt")
    python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    paths = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = pathlib.Path(subprocess.run([python, "-c", paths], check=True, capture_output=True, text=True).stdout.strip())
    ours = [path for path in sys.path if pathlib.Path(path).name in ("site-packages", "dist-packages")]
    (site / "packages_of_the_tests.pth").write_text("\n".join(ours))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--ignore-installed", wheel]
    subprocess.run(install, check=True, capture_output=True)

    def run(*arguments):
        result = subprocess.run([python, "-I", *arguments], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run.folder, run.python = folder, python
    return run


def test_holds_the_package_alone(wheel):
    """Every file of the folder ddim_jax as it lies in the checkout, and beside it nothing but what describes the wheel."""
    package = [path for path in (ROOT / "ddim_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(ROOT).as_posix() for path in package}
    assert {"ddim_jax/py.typed", "ddim_jax/pretrained/digits.safetensors", "ddim_jax/training/loop.py"} < expected
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected


def test_every_module_can_be_imported(run):
    modules = {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "ddim_jax").rglob("*.py")}
    expected = {".".join(path.parts).removesuffix(".__init__") for path in modules} - {"ddim_jax"}
    assert set(run("-c", IMPORT).split()) == expected


def test_draws_digits(run):
    """As in MNIST: light strokes on a dark ground (-1), which alone is what the two outermost rows and columns hold."""
    run("-c", SAMPLE)
    digits = np.load(run.folder / "digits.npy")
    assert digits.shape == (2, 28, 28, 1)
    frame = np.ones((28, 28, 1), bool)
    frame[2:-2, 2:-2] = False
    np.testing.assert_allclose(digits[:, frame].mean(1), -1, atol=0.05)
    light = (digits > 0).mean((1, 2, 3))
    assert np.all((0.03 < light) & (light < 0.31)), light  # 0.037 to 0.306 in 4,500 real digits


@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="the extra ddim_jax[lint] brings the type checker")
def test_a_type_checker_reads_our_types(run, tmp_path):
    (tmp_path / "user.py").write_text(TYPES)
    check = [sys.executable, "-m", "mypy", "--python-executable", run.python, "--config-file=", "user.py"]
    said = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "ddim_jax.diffusion.schedule.Schedule" in said, said
    assert 'incompatible type "str"; expected "int"' in said and "Found 1 error" in said, said
