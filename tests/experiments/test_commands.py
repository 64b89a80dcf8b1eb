"""The commands as a user types them, on weights that mean nothing."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddim_jax.data import sources
from ddim_jax.inference import weights
from tests.inference.test_generate import CONFIG, PARAMS

ROOT = pathlib.Path(__file__).parents[2]


def command(name, *arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weights.save(path, weights.Model(CONFIG, PARAMS))
    return path


@pytest.mark.slow
def test_sample_makes_all_that_it_lists(file, tmp_path):
    (tmp_path / "mine").mkdir()
    for i, digit in enumerate(sources.mnist_5k("test")[:2]):
        Image.fromarray(digit[..., 0]).resize((40, 40)).save(tmp_path / "mine" / f"{i}.png")
    out = tmp_path / "out"
    done = command(
        "sample", f"--weights={file}", f"--output={out}", f"--images={tmp_path}/mine", "--num_images=3", "--batch_size=2",
        "--steps=3", "--spacing=trailing", "--clip", "--modes=grid,files,npz,chain,interpolate,reconstruct",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    samples = np.load(out / "samples.npz")["samples"]
    assert samples.shape == (3, 28, 28, 1) and samples.dtype == np.uint8
    for i in range(3):
        np.testing.assert_array_equal(np.asarray(Image.open(out / "samples" / f"{i:06d}.png")), samples[i, ..., 0])
    sizes = {path.name: Image.open(path).size for path in out.glob("*.png")}
    cells = lambda columns, rows: (2 + 30 * columns, 2 + 30 * rows)
    assert sizes == {
        "samples.png": cells(2, 2),
        "chain.png": cells(3, 3),
        "interpolation.png": cells(11, 3),
        "interpolation_grid.png": cells(11, 11),
        "reconstruction.png": cells(2, 2),
    }
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output=x"], "give either --workdir"),
        (["--weights={file}"], "give --output"),
        (["--weights={file}", "--output=x", "--modes=grid,film"], "unknown modes film; expected some of grid, files"),
        (["--weights={file}", "--output=x", "--eta=3"], "eta is 3.0; for these steps it must lie between 0 and"),
        (["--weights={file}", "--output=x", "--steps=1001"], "cannot choose 1001 sampling steps out of 1000"),
    ],
)
def test_sample_says_what_is_wrong(file, arguments, message):
    done = command("sample", *[argument.format(file=file) for argument in arguments])
    assert done.returncode != 0 and message in done.stderr + done.stdout
    assert not (ROOT / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.training.batchsize=3", 'Did you mean "batch_size"'),
        ("--config.training.batch_size=many", "batch_size"),
        ("--config.data.name=nowhere", "config.data.name is 'nowhere'"),
    ],
)
def test_train_says_what_is_wrong_before_it_begins(tmp_path, override, message):
    done = command("train", "--config=tests/tiny.py", f"--workdir={tmp_path}/run", override)
    assert done.returncode != 0 and message in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_train_export_and_sample_follow_each_other(tmp_path):
    run = tmp_path / "run"
    assert command("train", "--config=tests/tiny.py", f"--workdir={run}").returncode == 0
    assert command("export", f"--workdir={run}", f"--output={tmp_path}/tiny.safetensors").returncode == 0
    for source in (f"--workdir={run}", f"--weights={tmp_path}/tiny.safetensors"):
        done = command(
            "sample", source, f"--output={tmp_path}/out", "--num_images=2", "--steps=2", "--solver=ddpm", "--variance=large"
        )
        assert done.returncode == 0, done.stderr
    assert command("train", "--config=tests/tiny.py", f"--workdir={run}", "--config.training.seed=1").returncode != 0
