"""Tables of a model that costs nothing: what is found, kept, gone on with, shown and refused."""

import json
import math

import numpy as np
import pytest

from ddim_jax.diffusion.process import noise_scale, signal_scale
from ddim_jax.evaluation import cells, damage, evaluate, features, measuring, moments, reference
from ddim_jax.evaluation import subject as subjects
from ddim_jax.inference.model import Defaults
from tests.evaluation import plain
from tests.inference import small
from tests.training.test_devices import succeed, two_processes

REAL = np.random.default_rng(0).integers(0, 256, (60, *small.SHAPE), np.uint8)
LABELS = np.arange(60) % 3
MODEL, EXTRACTOR = small.model(), plain.extractor()
DESCRIBE = features.describer(EXTRACTOR)  # one of each, so that all tests share what is compiled
SETTINGS = {"weights": "small", "weights_digest": "1" * 64}


def subject(**changes):
    made = {"data": "noise"} | reference.describing(EXTRACTOR)
    parts = dict(
        model=MODEL,
        data="noise",
        extractor=EXTRACTOR,
        describe=DESCRIBE,
        reference=reference.of_images(REAL, "noise train", made, DESCRIBE),
        num_samples=40,
        batch_size=16,
        seed=0,
        steps=(3, 10),
        rows=("0", "1", "hat", "hat_clipped"),
        held_out=(REAL[:12], None),
        training=lambda: (REAL, LABELS),
    )
    return subjects.Subject(**(parts | changes))


def run(folder, names=("1",), said=None, **changes):
    return evaluate.evaluate(subject(**changes), names, folder, "A title", SETTINGS, ([] if said is None else said).append)


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_cell_is_the_distance_of_the_samples_that_the_model_draws(tmp_path):
    """Drawn at once by `Model.sample` and measured at once."""
    run(tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())["figures"]
    assert list(found) == [f"{row}_S{s}" for row in ("eta0", "eta1", "hat", "hat_clipped") for s in (3, 10)]
    for name, arguments in (("eta1_S3", {"eta": 1.0}), ("hat_S3", {"solver": "ddpm", "variance": "large"})):
        drawn = MODEL.sample(40, steps=3, seed=0, **arguments)
        pixels = np.clip(np.round((drawn + 1) * 127.5), 0, 255).astype(np.uint8)
        rows, real = (DESCRIBE(each)["features"] for each in (pixels, REAL))
        np.testing.assert_allclose(
            found[name]["distance"], moments.frechet_distance(moments.of(rows), moments.of(real)), rtol=1e-4
        )
    assert found["hat_S3"]["distance"] != found["hat_clipped_S3"]["distance"]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_report(tmp_path, monkeypatch):
    """Bit for bit; and no cell is found twice."""
    names = ("1", "2", "solvers", "figure3", "figure5", "figure6")
    run(tmp_path / "whole", names)
    killed, compare, calls = tmp_path / "killed", measuring.compare, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compare(*arguments)

    monkeypatch.setattr(measuring, "compare", dies)
    with pytest.raises(KeyboardInterrupt):
        run(killed, names)
    assert len(list((killed / "cells").iterdir())) == 3 and not (killed / "report.md").exists()
    (killed / "cells" / ".eta1_S10.json.part").write_text('{"n": 40')  # of a file that was being written
    run(killed, names)
    assert len(calls) == 1 + 14  # of Table 1 eight, of the solvers six besides
    (killed / "cells" / ".eta1_S10.json.part").unlink(missing_ok=True)
    assert everything(killed) == everything(tmp_path / "whole")
    said = []
    run(killed, names, said)
    assert not said and everything(killed) == everything(tmp_path / "whole")


ON_HOSTS = """
import sys
import jax
if len(sys.argv) > 2:
    jax.distributed.initialize()
from tests.evaluation import test_evaluate
test_evaluate.run(sys.argv[1], ("1", "2", "extractor"), rows=("0", "1"))
"""


@pytest.mark.slow
def test_two_hosts_find_what_one_does(tmp_path):
    """Each draws and measures its share, on two devices; 40 samples in batches of 16."""
    succeed(*two_processes("-c", ON_HOSTS, f"{tmp_path}/two", "hosts"))
    run(tmp_path / "one", ("1", "2", "extractor"), rows=("0", "1"))
    one, two = (json.loads((tmp_path / name / "results.json").read_text())["figures"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, figures in one.items():
        for figure, value in figures.items():
            if figure != "curve" and value is not None:
                np.testing.assert_allclose(two[name][figure], value, rtol=1e-4, atol=1e-9, err_msg=f"{name} {figure}")


@pytest.mark.slow
def test_other_settings_are_refused(tmp_path):
    run(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="figures found with other settings: samples was 40, now 41; seed was 0, now 5"):
        run(tmp_path, num_samples=41, seed=5)
    assert everything(tmp_path) == before


@pytest.mark.slow
def test_a_damaged_figure_is_named(tmp_path):
    run(tmp_path, rows=("0",))
    (tmp_path / "cells" / "eta0_S3.json").write_text('{"n": ')
    with pytest.raises(ValueError, match=r"eta0_S3\.json is damaged .* delete it, and it is found anew"):
        run(tmp_path, rows=("0",))


@pytest.mark.slow
def test_all_tables_are_found_and_shown(tmp_path):
    said = []
    path = run(tmp_path, ("all",), said)
    assert path == tmp_path / "report.html" and path.exists()
    report = (tmp_path / "report.md").read_text()
    figures = ("Figure 3: S = 3", "Figure 3: S = 10", "Figure 4", "Figure 5", "Figure 6", "Reconstructions")
    for title in ("Table 1", "Table 2", "Solvers", "Bits per dimension", "What plain sees", "The paper: FID of 50,000", *figures):
        assert f"## {title}" in report, title
    assert "| η = 0 | – | 13.36 |" in report  # the paper's, for S = 10 alone
    assert "> **Warning:** 40 samples are few" in report
    assert said[0].split() == ["table", "to", "find", "evaluations", "about"]
    assert said[1].split()[:3] == ["1", "8", f"{4 * 40 * 13:,}"]
    assert "in all" in said[len(evaluate.TABLES)] and said[-1].endswith("0:00:00 left")


@pytest.mark.slow
@pytest.mark.parametrize("labels", [None, LABELS[:12]], ids=["not told", "told the class"])
def test_the_error_of_reconstruction_is_that_of_the_linear_map(labels, tmp_path):
    """eps = c x makes each step x_s = (signal_s + c (noise_s - signal_s noise_t / signal_t)) ... a number, up and down."""
    run(tmp_path, ("2",), rows=("0",), held_out=(REAL[:12], labels))
    found = json.loads((tmp_path / "results.json").read_text())["figures"]["reconstruction_S10"]
    c = np.asarray(small.SCALES, float)[np.full(12, small.NUM_CLASSES) if labels is None else labels]
    schedule, tau = small.SCHEDULE, MODEL.tau(10)
    signal, noise = signal_scale(schedule, tau), noise_scale(schedule, tau)

    def step(t, s):  # from t to s, at either of which eps = c x_t
        return signal[s] * (1 - noise[t] * c) / signal[t] + noise[s] * c

    up = math.prod(step(i, i + 1) for i in range(10))
    down = math.prod(step(i, i - 1) for i in range(10, 0, -1))
    x0 = REAL[:12].astype(np.float64) / 127.5 - 1
    errors = (((up * down - 1)[:, None, None, None] * x0 / 2) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found["mean"], errors.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["error"], errors.std(ddof=1) / math.sqrt(12), rtol=1e-4)
    assert ("told the class" in (tmp_path / "report.md").read_text()) == (labels is not None)
    assert found["n"] == 12


def test_what_the_paper_says_is_beside_ours_for_its_own_data(tmp_path):
    run(tmp_path, ("3",), data="lsun/bedroom")
    report = (tmp_path / "report.md").read_text()
    assert "FID of 50,000 samples of lsun/bedroom" in report and "| η = 1 | – | 42.78 |" in report
    assert "Of another data set" not in report


@pytest.mark.slow
def test_what_the_subject_has_not_is_refused_or_left_out(tmp_path):
    with pytest.raises(ValueError, match="table 2 needs images that the network did not learn from: give --images"):
        run(tmp_path / "a", ("1", "2"), held_out=None)
    with pytest.raises(ValueError, match="unknown table 7; expected some of 1, 2, 3, solvers"):
        run(tmp_path / "a", ("7",))
    assert not (tmp_path / "a").exists()
    run(tmp_path / "b", ("all",), held_out=None)
    report = (tmp_path / "b" / "report.md").read_text()
    assert "Left out: table 2 needs images" in report and "Left out: likelihood needs images" in report
    with pytest.raises(ValueError, match="unknown row 'sigma'; expected a value of η"):
        run(tmp_path / "c", rows=("sigma",))


def test_models_that_the_tables_are_not_of():
    subjects.check(small.model(), told_an_image=False)
    with pytest.raises(ValueError, match="networks with Gaussian noise, and this one is of discrete values"):
        subjects.check(small.categorical(), told_an_image=False)
    with pytest.raises(ValueError, match="this network is told an image for each"):
        subjects.check(small.model(), told_an_image=True)
    with pytest.raises(ValueError, match=r"draws examples of shape \(\)"):
        subjects.check(small.model(shape=()), told_an_image=False)


@pytest.mark.slow
def test_rows_of_a_model_that_clips_are_not_clipped_unless_they_say_so(tmp_path):
    run(tmp_path / "plain")
    run(tmp_path / "clips", model=small.model(defaults=Defaults(10, "trailing", "ddim", {"eta": 0.0}, clip=True)))
    first, second = (json.loads((tmp_path / name / "results.json").read_text())["figures"] for name in ("plain", "clips"))
    assert first == second


def test_damage_is_what_it_says():
    flat = np.full((4, 8, 8, 3), 128, np.uint8)
    np.testing.assert_array_equal(damage.blur(2)(flat, None), flat)
    spot = np.zeros((1, 9, 9, 1), np.uint8)
    spot[0, 4, 4] = 255
    blurred = damage.blur(1)(spot, None)
    assert blurred.shape == spot.shape and 20 < blurred.max() < 60  # 255 / (2 pi) = 41 of a normal curve, which Pillow nears
    noisy = damage.noise(16)(np.full((50, 8, 8, 3), 128, np.uint8), None)
    np.testing.assert_allclose(noisy.std(), 16, rtol=0.05)
    labels = np.array([0, 1, 0, 2, 0, 0])
    lost = damage.lose(0.5)(np.arange(6, dtype=np.uint8)[:, None, None, None], labels)
    assert lost.ravel().tolist() == [1, 3, 4, 5]


def test_what_is_noted_stays_as_it_was_first(tmp_path):
    assert cells.check_settings(tmp_path, {"a": 1}, {"day": "first"}) == {"a": 1, "day": "first"}
    assert cells.check_settings(tmp_path, {"a": 1}, {"day": "second"}) == {"a": 1, "day": "first"}
