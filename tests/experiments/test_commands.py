"""The commands as a user types them, on weights that mean nothing."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from ddim_jax import configuration
from ddim_jax.data import sources
from ddim_jax.inference import weights
from tests import tiny
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
        "sample", f"--checkpoint={file}", f"--output={out}", f"--images={tmp_path}/mine", "--num_images=3", "--batch_size=2",
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
        (["--checkpoint={file}"], "give --output"),
        (["--checkpoint={file}", "--output=x", "--modes=grid,film"], "unknown modes film; expected some of grid, files"),
        (["--checkpoint={file}", "--output=x", "--eta=3"], "eta is 3.0; for these steps it must lie between 0 and"),
        (["--checkpoint={file}", "--output=x", "--steps=1001"], "cannot choose 1001 sampling steps out of 1000"),
        (["--checkpoint={file}", "--output=x", "--label=3"], "--label needs a network that was trained on classes"),
        (["--checkpoint={file}", "--output=x", "--modes=inpaint"], "inpaint needs --mask"),
        (["--checkpoint={file}", "--output=x", "--solver=unipc", "--eta=0"], "--eta is of ddim, but the solver is unipc"),
        (["--checkpoint={file}", "--output=x", "--classifier=tests.tiny:log_brightness"], "--classifier needs --label"),
        (
            ["--checkpoint={file}", "--output=x", "--classifier=tests.tiny:log_brightness", "--label=six"],
            "--label is six; the classes are whole numbers from 0",
        ),
        (["--workdir=/nowhere"], "/nowhere is not the folder of a training run"),
    ],
)
def test_sample_says_what_is_wrong(file, arguments, message):
    done = command("sample", *[argument.format(file=file) for argument in arguments])
    assert done.returncode != 0 and message in done.stderr + done.stdout
    assert not (ROOT / "x").exists()


def random_weights(path, **parts):
    made = tiny.get_config()
    for part, fields in parts.items():
        made[part].update(fields)
    rng = np.random.default_rng(0)
    shapes = configuration.parameter_shapes(made)
    params = jax.tree.map(lambda leaf: (0.05 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    weights.save(path, weights.Model(made, params))
    return path


@pytest.mark.slow
def test_sample_guides_and_paints_in(file, tmp_path):
    """Guidance by labels and by a classifier, thresholds, another solver; the kept half of each image is kept to the byte."""
    by_classifier = ["--label=3", "--classifier=tests.tiny:log_brightness", "--num_images=2", "--steps=2"]
    done = command("sample", f"--checkpoint={file}", f"--output={tmp_path}", *by_classifier)
    assert done.returncode == 0, done.stderr
    file = random_weights(tmp_path / "classes.safetensors", model=dict(num_classes=10))
    Image.fromarray(np.uint8(255 * (np.arange(28) < 14))[None].repeat(28, 0)).save(tmp_path / "mask.png")
    common = ["sample", f"--checkpoint={file}", "--num_images=4", "--steps=3", f"--output={tmp_path}"]
    guided = ["--label=3,7", "--guidance=2", "--classifier=tests.tiny:log_brightness", "--threshold=99", "--solver=unipc"]
    done = command(*common, *guided, "--spacing=logsnr", "--modes=npz")
    assert done.returncode == 0, done.stderr
    plain = command(*common, "--spacing=logsnr", "--solver=unipc", "--modes=grid")
    assert plain.returncode == 0, plain.stderr
    samples = np.load(tmp_path / "samples.npz")["samples"]
    assert len(samples) == 4 and len(np.unique(samples.reshape(4, -1), axis=0)) == 4
    names = []
    for label in ("3", "7"):
        done = command(*common, f"--label={label}", "--batch_size=3", "--modes=reconstruct", f"--output={tmp_path}/{label}")
        assert done.returncode == 0, done.stderr
        names.append(tmp_path / label / "reconstruction.png")
    assert names[0].read_bytes() != names[1].read_bytes()
    done = command(*common, f"--mask={tmp_path}/mask.png", "--repeats=2", "--eta=1", "--modes=inpaint")
    assert done.returncode == 0, done.stderr
    sheet = np.asarray(Image.open(tmp_path / "inpainting.png"))[2:, 2:].reshape(3, 30, 4, 30).swapaxes(1, 2)[:, :, :28, :28]
    np.testing.assert_array_equal(sheet[0], sources.mnist_5k("test")[:4, ..., 0])
    np.testing.assert_array_equal(sheet[2][..., :14], sheet[0][..., :14])
    assert np.abs(sheet[2][..., 14:].astype(int) - sheet[0][..., 14:]).mean() > 1


@pytest.mark.slow
def test_sample_of_discrete_values(tmp_path):
    file = random_weights(tmp_path / "two.safetensors", diffusion=dict(categories=2, prediction="x0", zero_terminal_snr=True))
    common = ["sample", f"--checkpoint={file}", f"--output={tmp_path}", "--steps=3", "--num_images=3"]
    done = command(*common, "--modes=npz")
    assert done.returncode == 0, done.stderr
    assert set(np.unique(np.load(tmp_path / "samples.npz")["samples"])) == {0, 255}
    done = command(*common, "--guidance=2")
    assert done.returncode != 0 and "a network of discrete values takes none of --solver" in done.stderr + done.stdout
    done = command(*common, "--modes=interpolate")
    assert done.returncode != 0 and "a network of discrete values makes grid, files, npz alone" in done.stderr + done.stdout


@pytest.mark.slow
def test_distillation_leaves_a_run_for_each_stage_and_resumes(tmp_path):
    teacher = random_weights(tmp_path / "teacher.safetensors")
    common = [
        "distill",
        "--config=tests/tiny_distilled.py",
        f"--workdir={tmp_path}/d",
        f"--config.training.initial_weights={teacher}",
    ]
    done = command(*common)
    assert done.returncode == 0, done.stderr
    for steps in (2, 1):
        assert weights.from_workdir(tmp_path / "d" / f"steps_{steps}").config.sampling.steps == steps
    first = (tmp_path / "d" / "steps_1" / "metrics.jsonl").read_text()
    again = command(*common)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "d" / "steps_1" / "metrics.jsonl").read_text() == first
    assert command("sample", f"--workdir={tmp_path}/d/steps_1", "--num_images=2").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.training.batchsize=3", 'Did you mean "batch_size"'),
        ("--config.training.batch_size=many", "batch_size"),
        ("--config.data.name=nowhere", "data.name is 'nowhere'"),
    ],
)
def test_train_says_what_is_wrong_before_it_begins(tmp_path, override, message):
    done = command("train", "--config=tests/tiny.py", f"--workdir={tmp_path}/run", override)
    assert done.returncode != 0 and message in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_train_convert_and_sample_follow_each_other(tmp_path):
    run = tmp_path / "run"
    assert command("train", "--config=tests/tiny.py", f"--workdir={run}").returncode == 0
    assert command("convert", run, tmp_path / "tiny.safetensors", "--dtype=bfloat16").returncode == 0
    for source in (f"--workdir={run}", f"--checkpoint={tmp_path}/tiny.safetensors"):
        done = command(
            "sample", source, f"--output={tmp_path}/out", "--num_images=2", "--steps=2", "--solver=ddpm", "--variance=large"
        )
        assert done.returncode == 0, done.stderr
    assert command("train", "--config=tests/tiny.py", f"--workdir={run}", "--config.training.seed=1").returncode != 0


@pytest.mark.slow
def test_demo_walks_the_whole_road(tmp_path, monkeypatch):
    """Every picture that it lists, with a network that means nothing in place of the digits that ship."""
    from experiments import demo

    monkeypatch.setattr(weights, "DIGITS", random_weights(tmp_path / "tiny.safetensors", model=dict(num_classes=10)))
    config = tiny.get_config()
    config.model.num_classes = 10
    monkeypatch.setattr(demo.demo, "get_config", lambda: config)
    monkeypatch.setattr(demo, "COUNT", 300)
    report = demo.Report(tmp_path)
    demo.draw(report, tmp_path)
    demo.train_anew(report, tmp_path, 4)
    listed = [path for line in str(report).splitlines() for path in line.split(": ")[1].split(", ")]
    assert len(listed) == 11 and all(pathlib.Path(path).exists() for path in listed)
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (300, 28, 28, 1)
    first, resumed = (tmp_path / "training" / "checkpoints" / name for name in ("2", "4"))
    assert first.exists() and resumed.exists()
