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
from PIL import Image

from ddim_jax import configuration
from tests import tiny

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]

IMPORT = """
import importlib, pathlib, pkgutil, sys
import ddim_jax

assert pathlib.Path(ddim_jax.__file__).is_relative_to(sys.prefix), f"{ddim_jax.__file__} is not in {sys.prefix}"
for module in pkgutil.walk_packages(ddim_jax.__path__, "ddim_jax."):
    if not module.name.startswith("ddim_jax.commands."):  # each defines its flags, of which a process has one set
        print(importlib.import_module(module.name).__name__)
"""

CONFIG = """
import json
import ml_collections

def get_config():
    config = ml_collections.ConfigDict(json.loads({!r}))
    config.data.name = "folder"
    config.data.directory = "images"
    return config
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

    def start(name, *arguments):
        """A command of the wheel, as a shell starts it."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
        pipe, line = subprocess.PIPE, [python.with_name(name), *arguments]
        return subprocess.Popen(line, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)

    run.folder, run.python, run.start = folder, python, start
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
    commands = {name for name in expected if name.startswith("ddim_jax.commands.")}
    assert set(run("-c", IMPORT).split()) == expected - commands


def test_every_command_is_there(run):
    """Each is a module of ddim_jax.commands, and refuses in one line a flag that it does not have. Two are run below."""
    names = {path.stem for path in (ROOT / "ddim_jax" / "commands").glob("*.py")} - {"__init__", "command"}
    assert {path.name for path in run.python.parent.glob("ddim-*")} == {f"ddim-{name}" for name in names}
    started = [run.start(f"ddim-{name}", "--nonsense=1") for name in sorted(names - {"sample", "train"})]
    for process in started:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out, err) == (2, "", "error: Unknown command line flag 'nonsense'\n"), process.args


def test_a_command_says_how_it_is_called(run):
    out, err = run.start("ddim-sample", "--helpshort").communicate(timeout=300)
    assert err == "" and "ddim-sample --workdir=runs/digits --label=3,4" in out and "--[no]clip" in out
    assert "experiments" not in out


def test_a_command_draws_the_digits_that_ship(run):
    """As in MNIST: light strokes on a dark ground (0), which alone is what the two outermost rows and columns hold."""
    asked = ["--label=3,8", "--num_images=4", "--steps=5", "--spacing=quadratic", "--modes=grid,npz", "--output=drawn"]
    process = run.start("ddim-sample", "--checkpoint=digits", *asked)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "") and out.endswith("wrote grid, npz into drawn\n"), out + err
    digits = np.load(run.folder / "drawn" / "samples.npz")["samples"]
    assert digits.shape == (4, 28, 28, 1)
    frame = np.ones((28, 28, 1), bool)
    frame[2:-2, 2:-2] = False
    assert np.all(digits[:, frame].mean(1) < 0.025 * 255)
    light = (digits >= 128).mean((1, 2, 3))
    assert np.all((0.03 < light) & (light < 0.31)), light  # 0.037 to 0.306 in 4,500 real digits
    with Image.open(run.folder / "drawn" / "samples.png") as picture:
        assert picture.size == (2 + 2 * (28 + 2), 2 + 2 * (28 + 2))  # two rows of two digits, with lines of 2 pixels around


def test_a_command_trains_by_a_file(run):
    """Which imports another from the working folder, and needs nothing of the checkout; on images of a folder."""
    (run.folder / "images").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(256, size=(16, 28, 28), dtype=np.uint8)):
        Image.fromarray(pixels).save(run.folder / "images" / f"{i}.png")
    (run.folder / "base.py").write_text(CONFIG.format(tiny.get_config().to_json()))
    (run.folder / "mine.py").write_text("from base import get_config")  # as many of configs/ do
    process = run.start("ddim-train", "--config=mine.py", "--workdir=run", "--config.training.steps=2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "run: all 2 steps are done" in out, out + err
    assert configuration.load(run.folder / "run" / "config.json").training.steps == 2


@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="the extra ddim_jax[lint] brings the type checker")
def test_a_type_checker_reads_our_types(run, tmp_path):
    (tmp_path / "user.py").write_text(TYPES)
    check = [sys.executable, "-m", "mypy", "--python-executable", run.python, "--config-file=", "user.py"]
    said = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "ddim_jax.diffusion.schedule.Schedule" in said, said
    assert 'incompatible type "str"; expected "int"' in said and "Found 1 error" in said, said
