"""Distances and scores against torch-fidelity, closed forms, and each other."""

import sys
import tracemalloc
from unittest import mock

import numpy as np
import pytest

from ddim_jax.evaluation import moments, scores
from tests.evaluation.samples import features, logits

# What torch-fidelity 0.4.0 (numpy 2, torch 2.13, CPU) finds for features(600, 1), features(500, 2) and logits(600, 3); the test
# below it finds them anew where it is installed.
RECORDED = {
    "fid": 0.47224778750191376,
    "kid": (0.012765700270169567, 0.016895273501362735),
    "inception score": (4.134801980987666, 0.22060475385679995),
    "precision, recall": (0.8933333158493042, 0.8500000238418579),  # which it has in float32
}
SUBSET = 200  # of KID


def ours() -> dict:
    a, b = features(600, 1), features(500, 2)
    score = scores.InceptionScore(600)
    for index in np.split(np.random.default_rng(0).permutation(600), [7, 250]):  # in any order, in any batches
        score.add(index, logits(600, 3)[index])
    return {
        "fid": moments.frechet_distance(moments.of(a), moments.of(b)),
        "kid": scores.kernel_distance(a, b, subsets=20, size=SUBSET),
        "inception score": score.score(score.sums),
        "precision, recall": scores.precision_recall(a, b),
    }


def theirs(patch: pytest.MonkeyPatch) -> dict:
    """The same by torch-fidelity, which imports torchvision for nothing that is used here."""
    torch = pytest.importorskip("torch")
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
        patch.setitem(sys.modules, name, mock.MagicMock())
    fid, kid, isc, prc = (pytest.importorskip(f"torch_fidelity.metric_{name}") for name in ("fid", "kid", "isc", "prc"))
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_fidelity"]:
        del sys.modules[name]  # so that no other test finds what was imported without torchvision
    a, b, c = (torch.from_numpy(each.astype(np.float64)) for each in (features(600, 1), features(500, 2), logits(600, 3)))
    statistics = [fid.fid_features_to_statistics(each) for each in (a, b)]
    kernel = {"kid_subsets": 20, "kid_subset_size": SUBSET, "rng_seed": 2020, "verbose": False}
    neighbours = {"prc_neighborhood": 3, "prc_batch_size": 10000, "save_cpu_ram": False, "verbose": False}
    return {
        "fid": fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"],
        "kid": tuple(kid.kid_features_to_metric(a, b, **kernel).values()),
        "inception score": tuple(isc.isc_features_to_metric(c).values()),
        "precision, recall": tuple(prc.prc_features_to_metric(a, b, **neighbours).values())[:2],
    }


def test_figures_are_those_of_torch_fidelity():
    found = ours()
    for name, expected in RECORDED.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)


def test_the_recorded_figures_are_those_of_torch_fidelity(monkeypatch):
    for name, expected in theirs(monkeypatch).items():
        np.testing.assert_allclose(RECORDED[name], expected, rtol=1e-12, err_msg=name)


def test_the_score_of_certain_and_of_equal_answers():
    """exp of the mutual information: K where every class is as frequent as the others and certain, 1 where all answers agree."""
    certain = scores.InceptionScore(1000)
    certain.add(np.arange(1000), 200 * np.eye(5, dtype=np.float32)[np.arange(1000) % 5])
    mean, std = certain.score(certain.sums)
    assert 4.9 < mean <= 5 and std < 0.1  # a split has not exactly as many of each class
    same = scores.InceptionScore(50)
    same.add(np.arange(50), np.tile(logits(1, 0), (50, 1)))
    np.testing.assert_allclose(same.score(same.sums), (1, 0), atol=1e-12)


def test_the_kernel_distance_is_the_sum_over_pairs():
    """Its definition, pair by pair, where a subset is all there is."""
    x, y = (features(6, seed, 3).astype(np.float64) for seed in (1, 2))

    def kernel(a, b):
        return (sum(a * b) / 3 + 1) ** 3

    def within(rows):
        return sum(kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j) / 30

    expected = within(x) + within(y) - 2 * sum(kernel(a, b) for a in x for b in y) / 36
    np.testing.assert_allclose(scores.kernel_distance(x, y, size=6), (expected, 0), atol=1e-12)


def test_precision_and_recall_of_sets_that_are_known():
    rows = features(50, 1)
    assert scores.precision_recall(rows, rows) == (1, 1)
    assert scores.precision_recall(rows, rows + 100) == (0, 0)
    line = np.arange(10.0)[:, None]  # each ball reaches to the third neighbour: 3 at the ends
    assert scores.precision_recall(np.array([[-3.0], [-3.1], [4.5], [12.0], [12.1]]), line)[0] == 3 / 5


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="by 3 neighbours need at least 4 samples on either side; there are 3 and 9: draw more"):
        scores.precision_recall(features(3, 1), features(9, 1))
    with pytest.raises(ValueError, match="needs at least 10 samples, one for each of its splits; got 9"):
        scores.InceptionScore(9)
    with pytest.raises(ValueError, match="takes subsets of 1 of 3 and 5 samples: draw more"):
        scores.kernel_distance(features(3, 1), features(5, 1))
    with pytest.raises(ValueError, match="takes subsets of 6 of 9 and 5 samples"):
        scores.kernel_distance(features(9, 1), features(5, 1), size=6)


def test_precision_and_recall_take_no_memory_for_all_distances_at_once():
    """Of 8,000 samples these are 512 MB; they are taken in chunks of 32 MB, of which some lie side by side."""
    draw = np.random.default_rng(0).normal
    a, b = draw(size=(100, 4)), draw(size=(8000, 4))
    tracemalloc.start()
    scores.precision_recall(a, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
