"""What is asked for is checked as a whole, before anything is drawn or written; and then it is what is drawn."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ddim_jax.data.images import to_float, to_uint8
from ddim_jax.diffusion import process, sampling, solvers
from ddim_jax.diffusion.schedule import subsequence
from ddim_jax.inference import render
from ddim_jax.inference.adjusting import Adjustment
from ddim_jax.inference.model import Defaults
from ddim_jax.inference.request import MODES, Request, plan
from tests.inference import small

MASK = np.arange(24).reshape(small.SHAPE) % 2 == 0


def brightness(x, t, label):
    return label * x.mean((1, 2, 3))


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.mark.parametrize(
    "asked, message",
    [
        (dict(modes=("grid", "film")), "unknown modes film; expected some of grid, files, npz, chain, interpolate"),
        (dict(modes=()), r"unknown modes \(none\)"),
        (dict(modes=("inpaint",)), "inpaint needs mask"),
        (dict(modes=("restore",)), "restore needs a network that is told an image"),
        (dict(modes=("npz", "interpolate"), eta=1.0), r"interpolate needs a solver without noise \(eta = 0\)"),
        (dict(modes=("interpolate",), solver="ddpm"), "interpolate needs a solver without noise"),
        # What nothing would read.
        (dict(mask=MASK), "mask is of the mode inpaint; nothing here reads it"),
        (dict(repeats=3), "repeats is of the mode inpaint"),
        (dict(classifier_weight=2.0), "classifier_weight is of classifier"),
        (dict(images="folder"), r"images is of modes that begin with real images \(reconstruct, inpaint, restore\)"),
        (dict(modes=("grid", "chain"), split="train"), "split is of modes that begin with real images"),
        (dict(modes=("reconstruct",), images="folder", split="train"), "split is of the data set, but images names a folder"),
        (dict(modes=("reconstruct",), eta=1.0), "eta is of other modes than reconstruct, which is DDIM at eta = 0"),
        (dict(modes=("reconstruct",), solver="unipc"), "solver is of other modes than reconstruct"),
        (dict(modes=("reconstruct",), guidance=2.0), "guidance is of images that are drawn, or whose label is given"),
        # What is out of range.
        (dict(guidance=float("nan")), "guidance is nan; expected a finite number"),
        (dict(eta=float("inf")), "eta is inf; expected a finite number"),
        (dict(threshold=500.0), "threshold is 500.0; it is a percentile, from 0 to 100"),
        (dict(threshold=-1.0), "threshold is -1.0"),
        (dict(steps=0), "steps is 0; expected a whole number of at least 1"),
        (dict(num_images=0), "num_images is 0"),
        (
            dict(num_images=10**11),
            r"grid of num_images=100000000000 takes at least .* GB of memory, but .* has .* GB: ask",
        ),
        (dict(num_images=10**10, modes=("chain",)), "chain of num_images=10000000000 takes at least"),
        (dict(batch_size=-3), "batch_size is -3"),
        (dict(seed=-1), "the seed is -1; expected a whole number from 0 to 2147483647"),
        (dict(seed=2**31), "the seed is 2147483648"),
        (dict(eta=3.0), "eta is 3.0; for these steps it must lie between 0 and"),
        (dict(steps=101), "cannot choose 101 sampling steps out of 100"),
        (dict(label=(3,)), "label is 3; the classes are 0 to 2"),
        (dict(label=()), "the classes are 0 to 2"),
        # What does not go together.
        (dict(solver="unipc", eta=0.0), "eta is of ddim, but the solver is unipc"),
        (dict(order=2), "order is of plms and unipc, but the solver is ddim"),
        (dict(modes=("inpaint",), mask=MASK, repeats=2, solver="unipc"), "repeats is of the solver ddim"),
        (dict(modes=("inpaint",), mask=MASK[:3]), r"mask has shape \(3, 6, 1\); .* expected \(4, 6, 1\)"),
        (dict(classifier=brightness), "a classifier needs label"),
        (dict(classifier=lambda x, t, label: x, label=(0,)), r"for B = 2 it gave \(2, 4, 6, 1\)"),
        (dict(classifier=print, label=(0,)), r"the classifier must take \(x_t \[B, ...\], t \[B\], label \[B\]\)"),
        (dict(classifier=len, label=(0,)), r"for B = 2 it gave TypeError: len\(\) takes exactly one argument"),
        (dict(classifier="no function", label=(0,)), "TypeError"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",  # some values have addresses, new in each process
)
def test_a_request_that_cannot_be_met(model, asked, message):
    with pytest.raises(ValueError, match=message):
        plan(Request(**asked), model, restores=False)


@pytest.mark.parametrize(
    "asked, message",
    [
        (dict(guidance=2.0), "guidance needs a network that is told something"),
        (dict(label=(0,)), "label needs a network that was trained on classes, or a classifier"),
    ],
)
def test_a_network_that_is_told_nothing(asked, message):
    model = small.model(num_classes=0)
    model = dataclasses.replace(model, network=model.network._replace(null={}))
    with pytest.raises(ValueError, match=message):
        plan(Request(**asked), model, restores=False)
    assert plan(Request(label=(7,), classifier=brightness), model, restores=False).label == [7]


@pytest.mark.parametrize("name, value", [("clip", True), ("threshold", 99.0), ("guidance", 2.0)])
def test_discrete_values_take_no_guidance(name, value):
    with pytest.raises(ValueError, match=f"a network of discrete values takes no {name}"):
        plan(Request(**{name: value}), small.categorical(), restores=False)


def test_all_modes_are_those_that_can_be_had(model):
    modes = lambda model, restores=False, **asked: plan(Request(modes=("all",), **asked), model, restores).modes
    assert modes(model, True, mask=MASK) == MODES
    assert modes(model, mask=MASK) == tuple(mode for mode in MODES if mode != "restore")
    assert modes(model) == ("grid", "files", "npz", "chain", "interpolate", "reconstruct")
    assert modes(model, eta=1.0) == ("grid", "files", "npz", "chain", "reconstruct")
    assert modes(small.categorical()) == ("grid", "files", "npz", "chain")


def test_modes_of_images_where_there_are_none(model):
    without = dict(restores=False, has_images=False)
    asked = Request(modes=("all",), mask=MASK)
    with_images = plan(asked, model, restores=False)
    assert {"reconstruct", "inpaint"} < set(with_images.modes) and with_images.needs_images
    with pytest.raises(ValueError, match="mask is of the mode inpaint"):
        plan(asked, model, **without)
    assert not plan(Request(modes=("all",)), model, **without).needs_images
    with pytest.raises(ValueError, match="reconstruct needs images, a folder of real images"):
        plan(Request(modes=("reconstruct",)), model, **without)


def test_a_plan_is_what_was_asked_for(model):
    found = plan(Request(modes=("grid",), steps=5, spacing="leading", eta=0.5, label=(2, 0), guidance=3.0), model, False)
    expected = solvers.ddim(small.SCHEDULE, subsequence(100, 5, "leading"), 0.5)
    np.testing.assert_array_equal(found.table.noise, expected.noise)
    assert found.generator is model.generator(Adjustment(weight=3.0))
    assert list(found.label) == [2, 0] and not found.needs_images
    assert list(plan(Request(), model, False).label) == [0, 1, 2]
    assert plan(Request(), model, restores=True).needs_images
    assert plan(Request(modes=("reconstruct",)), model, False).needs_images


@pytest.mark.parametrize("asked, eta", [(dict(eta=0.5), 0.5), (dict(), 0.0), (dict(solver="ddim"), 0.0)])
def test_repeated_steps_are_of_ddim(model, asked, eta):
    found = plan(Request(modes=("inpaint",), mask=MASK, repeats=3, **asked), model, False)
    expected = solvers.repaint(small.SCHEDULE, subsequence(100, 10, "trailing"), eta, 3)
    np.testing.assert_array_equal(found.painting_table.noise, expected.noise)
    assert len(found.table.t) == 10


def test_a_model_whose_own_solver_is_another_takes_repeats_with_eta_alone():
    model = small.model(defaults=Defaults(10, "trailing", "ddpm", {"eta": 1.0, "variance": "large"}))
    with pytest.raises(ValueError, match="repeats is of the solver ddim: set solver to it"):
        plan(Request(modes=("inpaint",), mask=MASK, repeats=3), model, False)
    found = plan(Request(modes=("inpaint",), mask=MASK, repeats=3, eta=1.0), model, False)
    assert len(found.painting_table.t) == 28  # each of 10 steps three times, the last of them once


def cells(path, rows, columns):
    """The images [rows, columns, H, W, 1] of a grid."""
    height, width, _ = small.SHAPE
    sheet = np.asarray(Image.open(path))[2:, 2:].reshape(rows, height + 2, columns, width + 2)
    return sheet.swapaxes(1, 2)[:, :, :height, :width, None]


IMAGES = np.random.default_rng(0).integers(0, 256, (3, *small.SHAPE), np.uint8)


@pytest.mark.slow
def test_what_is_drawn_is_what_the_model_draws(model, tmp_path):
    """Every file of a request against the model's own methods; a step of uint8 for rounding in other programs."""
    asked = Request(modes=("all",), num_images=3, batch_size=3, seed=5, steps=4, mask=MASK, label=(2, 0))
    said = []
    render.render(plan(asked, model, False), tmp_path, IMAGES, {}, said.append)
    assert said == ["3 of 3 images"]
    how = dict(steps=4, label=[2, 0, 2], batch_size=3)  # of one size, so that one program is compiled

    def same(found, expected):
        assert np.abs(found.astype(int) - np.asarray(to_uint8(expected), int)).max() <= 1

    samples = np.load(tmp_path / "samples.npz")["samples"]
    same(samples, model.sample(3, seed=5, **how))
    np.testing.assert_array_equal(cells(tmp_path / "samples.png", 2, 2).reshape(4, *small.SHAPE)[:3], samples)
    for i in range(3):
        np.testing.assert_array_equal(Image.open(tmp_path / "samples" / f"{i:06d}.png"), samples[i, ..., 0])
    same(cells(tmp_path / "chain.png", 3, 4)[:, -1], model.sample(3, seed=5, **how))
    latents, _ = model.generator().latents(5, np.arange(2))
    same(cells(tmp_path / "interpolation.png", 3, 11)[0], model.interpolate(11, latents=latents, steps=4, label=2, batch_size=3))
    same(cells(tmp_path / "interpolation_grid.png", 11, 11)[0, [0, -1]], model.decode(latents, steps=4, label=2))
    above, below = cells(tmp_path / "reconstruction.png", 2, 3)
    np.testing.assert_array_equal(above, IMAGES)
    same(below, model.reconstruct(IMAGES, **how))
    real, kept, painted = cells(tmp_path / "inpainting.png", 3, 3)
    np.testing.assert_array_equal(real, IMAGES)
    np.testing.assert_array_equal(kept, np.where(MASK, IMAGES, 0))
    np.testing.assert_array_equal(painted[:, MASK], IMAGES[:, MASK])
    assert np.abs(painted[:, ~MASK].astype(int) - IMAGES[:, ~MASK]).mean() > 1
    assert {path.name for path in tmp_path.iterdir()} == {
        *("samples", "samples.png", "samples.npz", "chain.png", "interpolation.png", "interpolation_grid.png"),
        *("reconstruction.png", "inpainting.png"),
    }


def test_a_network_that_is_told_images_draws_for_as_many_as_there_are(tmp_path):
    """eps = x - what it is told."""
    network = small.model().network
    network = network._replace(apply=lambda params, x, step, condition, key: x - condition["image"], null={"image": 0.0})
    model = small.model(network=network, num_classes=0)
    told = {"image": np.asarray(to_float(IMAGES // 2))}
    asked = plan(Request(modes=("npz", "restore"), num_images=64, batch_size=2, seed=1, steps=3), model, restores=True)
    render.render(asked, tmp_path, IMAGES, told, lambda line: None)
    x, _ = model.generator().latents(1, np.arange(3))
    predict = process.from_eps(small.SCHEDULE, lambda x, t: x - told["image"])
    expected = np.asarray(to_uint8(sampling.sample(predict, model.table(3), x)), int)
    shown, drawn, real = cells(tmp_path / "restoration.png", 3, 3)
    np.testing.assert_array_equal(real, IMAGES)
    np.testing.assert_array_equal(shown, IMAGES // 2)
    assert np.abs(drawn - expected).max() <= 1
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npz")["samples"], drawn)


def test_an_output_that_cannot_be_written(model, tmp_path):
    """Below a regular file, where not even root may write."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file/out cannot be written to .*: give another"):
        render.render(plan(Request(num_images=1), model, False), tmp_path / "file" / "out", None, {}, print)
    assert (tmp_path / "file").read_text() == "mine"


def test_samples_of_another_run_are_not_mixed_in(model, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "000002.png").write_bytes(b"")
    asked = plan(Request(modes=("grid", "files"), num_images=2), model, False)
    with pytest.raises(ValueError, match="samples holds 000002.png and more of another run: empty it, or give another output"):
        render.render(asked, tmp_path, None, {}, print)
    assert not (tmp_path / "samples.png").exists()


def test_nothing_is_shown_of_what_is_not_finite(tmp_path):
    broken = plan(Request(num_images=1, modes=("grid", "npz")), small.model(params=small.SCALES * np.nan), False)
    with pytest.raises(FloatingPointError, match="holds infinite numbers or NaN"):
        render.render(broken, tmp_path, None, {}, print)
    assert not list(tmp_path.iterdir())
