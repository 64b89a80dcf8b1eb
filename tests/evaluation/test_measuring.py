"""Sets of images measured batch by batch, references of real ones, and what is refused of them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.evaluation import features, measuring, moments, reference, scores
from tests.evaluation import plain
from tests.training.test_devices import python, succeed, two_processes

IMAGES = np.random.default_rng(0).integers(0, 256, (90, 4, 6, 1), np.uint8)


def measured(images=IMAGES, ends=(32, 64)):
    return measuring.measure(features.describer(plain.extractor()), np.split(images, ends), len(images))


def test_all_is_as_if_the_features_were_at_hand():
    rows = {name: IMAGES.reshape(90, -1).astype(np.float32) @ w for name, w in plain.extractor().params.items()}
    found = measured()
    np.testing.assert_array_equal(found.features, rows["features"])
    score = scores.InceptionScore(90)
    score.add(np.arange(90), rows["logits"])
    np.testing.assert_allclose(found.inception_score, score.score(score.sums), rtol=1e-12)
    np.testing.assert_allclose(found.spatial.covariance, np.cov(rows["spatial"].astype(np.float64), rowvar=False), rtol=1e-11)
    half = measured(IMAGES[:40], ())
    figures = measuring.compare(found, half)
    assert json.loads(json.dumps(figures)) == figures
    expected = moments.frechet_distance(moments.of(rows["features"]), moments.of(rows["features"][:40]))
    np.testing.assert_allclose(figures["distance"], expected, rtol=1e-11)
    assert figures["curve"]["n"] == [22, 45, 90] and (figures["n"], figures["reference_n"]) == (90, 40)


def test_batches_of_any_size_give_the_same():
    expected = measured()
    for ends in ((), (1,), (50, 51)):
        found = measured(ends=ends)
        np.testing.assert_allclose(found.moments.covariance, expected.moments.covariance, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(found.inception_score, expected.inception_score, rtol=1e-12)
        np.testing.assert_array_equal(found.features, expected.features)


ON_HOSTS = """
import sys
import jax, numpy as np
if len(sys.argv) > 2:
    jax.distributed.initialize()
from ddim_jax.evaluation import features, measuring
from tests.evaluation import plain

images = np.random.default_rng(0).integers(0, 256, (91, 4, 6, 1), np.uint8)
mine = images[measuring.share(91)]
found = measuring.measure(features.describer(plain.extractor()), np.split(mine, [20]), 91)
score = np.array(found.inception_score)
if jax.process_index() == 0:
    np.savez(sys.argv[1], features=found.features, mean=found.moments.mean, covariance=found.moments.covariance, score=score,
             spatial=found.spatial.covariance)
"""


@pytest.mark.slow
def test_two_hosts_of_two_devices_measure_what_one_does(tmp_path):
    """91 images, so that the shares differ: 46 and 45, neither divided by the devices in all batches."""
    succeed(python("-c", ON_HOSTS, f"{tmp_path}/one.npz", JAX_NUM_CPU_DEVICES="1"))
    succeed(*two_processes("-c", ON_HOSTS, f"{tmp_path}/two.npz", "hosts"))
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    for name in one.files:
        np.testing.assert_allclose(two[name], one[name], rtol=0 if name == "features" else 1e-11, atol=0, err_msg=name)


def test_grey_images_are_seen_three_times_and_others_refused():
    three = plain.extractor((4, 6, 3))
    assert features.check_channels(three, 1) and not features.check_channels(three, 3)
    found, expected = (features.describer(three)(each) for each in (IMAGES, np.repeat(IMAGES, 3, axis=-1)))
    np.testing.assert_array_equal(found["features"], expected["features"])
    with pytest.raises(ValueError, match="the images have 3 channels, but plain takes 1: choose another extractor"):
        features.describer(plain.extractor())(np.repeat(IMAGES, 3, axis=-1))
    with pytest.raises(ValueError, match=r"takes images uint8 \[B, H, W, C\]; these are float32"):
        features.describer(plain.extractor())(IMAGES.astype(np.float32))


def test_features_that_are_no_numbers_are_refused():
    broken = plain.extractor(apply=lambda params, images: {"features": jnp.full((len(images), 2), jnp.nan)})
    with pytest.raises(FloatingPointError, match="features of plain are NaN or infinite"):
        measuring.measure(features.describer(broken), [IMAGES], 90)


def test_fewer_images_than_promised_are_refused():
    with pytest.raises(ValueError, match="this host was to give 91 images, and gave 90"):
        measuring.measure(features.describer(plain.extractor()), [IMAGES], 91)


def test_warnings_say_what_is_too_few():
    figures = {"n": 100, "reference_n": 60_000}
    few, not_determined = measuring.warnings(figures, 128, "FID")
    assert few.startswith("100 samples are few: the FID is too high")
    assert not_determined.startswith("100 samples for 128 features do not determine a covariance")
    assert measuring.warnings({"n": 10_000, "reference_n": None}, 128, "FID") == []


# References


def of_images(**changes):
    made = {"data": "noise", "split": "train", "count": 90, "crop": "none"} | reference.describing(plain.extractor())
    return reference.of_images(IMAGES, "noise train", made | changes, features.describer(plain.extractor()))


def test_a_reference_is_read_as_it_was_written(tmp_path):
    written = of_images()
    reference.save(tmp_path / "a.npz", written)
    found = reference.load(tmp_path / "a.npz")
    assert (found.name, found.made_of) == (written.name, written.made_of)
    assert found.measured.radii is not None
    anew = written.measured._replace(radii=None)  # distances among the real images are found with each comparison
    figures = [measuring.compare(measured(IMAGES[:50], ()), each) for each in (found.measured, anew)]
    assert figures[0].keys() == figures[1].keys()
    for name in ("distance", "spatial_distance", "kernel_distance", "precision", "recall"):
        np.testing.assert_allclose(figures[0][name], figures[1][name], rtol=1e-12, err_msg=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]


def test_statistics_of_others_are_read(tmp_path):
    """What pytorch-fid writes: mu and sigma alone."""
    rows = of_images().measured.features.astype(np.float64)
    np.savez(tmp_path / "theirs.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    found = reference.load(tmp_path / "theirs.npz")
    figures = measuring.compare(measured(IMAGES[:50], ()), found.measured)
    expected = measuring.compare(measured(IMAGES[:50], ()), of_images().measured)
    np.testing.assert_allclose(figures["distance"], expected["distance"], rtol=1e-9)
    assert figures["reference_n"] is figures["kernel_distance"] is figures["precision"] is figures["spatial_distance"] is None


def test_the_cache_makes_a_reference_once_and_anew_for_other_content(tmp_path):
    made = []

    def make(**changes):
        def now():
            made.append(changes)
            return of_images(**changes)

        return now

    for changes in ({}, {}, {"crop": "center"}, {"crop": "center"}):
        content = of_images(**changes).made_of
        assert reference.cached(tmp_path, "noise train", content, make(**changes)).made_of == content
    assert made == [{}, {"crop": "center"}]
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])  # as a full disk would have left it
    assert reference.cached(tmp_path, "noise train", of_images().made_of, make()).made_of == of_images().made_of


def test_a_reference_that_does_not_fit_is_refused(tmp_path):
    found = of_images()
    reference.check(found, {"crop": "none"} | reference.describing(plain.extractor()), plain.DIMENSION)
    with pytest.raises(ValueError, match="made otherwise: crop was 'none', now 'center'; extractor_digest was '000"):
        reference.check(found, {"crop": "center", "extractor_digest": "1"}, plain.DIMENSION)
    with pytest.raises(ValueError, match="noise train has 5 features, and the extractor finds 2048"):
        reference.check(found, {}, 2048)
    with pytest.raises(FileNotFoundError, match=r"there is no reference .*none\.npz"):
        reference.load(tmp_path / "none.npz")
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"a reference has the mean mu \[D\] and the covariance sigma \[D, D\]"):
        reference.load(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_text("mu")
    with pytest.raises(ValueError, match=r"c\.npz is damaged or not an \.npz file"):
        reference.load(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        reference.load(tmp_path / "d.npz")
