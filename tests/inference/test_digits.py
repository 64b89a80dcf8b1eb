"""The weights that ship: digits and clothes that a classifier, trained on real ones alone, takes for what was asked for."""

import jax
import numpy as np
import pytest

import ddim_jax
from ddim_jax import weights
from ddim_jax.data import sources
from ddim_jax.data.images import to_float, to_uint8
from ddim_jax.evaluation import features
from ddim_jax.evaluation.extractors import classifier

pytestmark = pytest.mark.slow
LABELS = np.arange(300) % 10


@pytest.fixture(scope="module")
def classify():
    """Images uint8 -> probabilities [N, 10] of the classifier that ships, which tests/evaluation/test_classifier.py judges."""
    describe = features.describer(classifier.load(classifier.SHIPPED["mnist_5k"]))
    return lambda images: np.asarray(jax.nn.softmax(describe(images)["logits"]))


@pytest.fixture(scope="module")
def model():
    return ddim_jax.load(weights.DIGITS)


@pytest.fixture(scope="module")
def samples(model):
    """The 300 images of seed 0 that `make demo` draws, of the digits 0 to 9 in turn, in 20 steps in place of its 50."""
    return np.asarray(to_uint8(model.sample(len(LABELS), steps=20, batch_size=100)))


def test_the_digits_that_were_asked_for(classify, samples):
    accuracy = np.mean(classify(sources.mnist_5k("test")).argmax(1) == sources.mnist_5k_labels("test"))
    found = classify(samples).argmax(1)
    print(f"\naccuracy on held-out digits {accuracy:.3f}; samples taken for what was asked for {np.mean(found == LABELS):.3f}")
    assert accuracy > 0.95  # else its opinion is worth little
    assert set(found) == set(range(10))
    assert np.mean(found == LABELS) >= accuracy - 0.10


def test_samples_pass_for_real_digits(classify, samples):
    """The classifier is at least 0.8 sure of them about as often as of held-out digits; they are as bright as real ones.

    Brightness varies by a third from digit to digit, so that the mean of 300 is known to 1.9%: the 3% allowed are 1.6 of that.
    """
    sure_real, sure = (np.mean(classify(images).max(1) >= 0.8) for images in (sources.mnist_5k("test"), samples))
    brightness = samples.mean() / sources.mnist_5k("train").mean()
    print(f"\nat least 0.8 sure of {sure_real:.3f} of held-out digits, of {sure:.3f} of samples; brightness {brightness:.3f}")
    assert sure >= sure_real - 0.10
    assert abs(brightness - 1) <= 0.03


def test_guidance_makes_digits_plainer(classify, model, samples):
    """arXiv 2207.12598: more weight, more of the class, less variety. The classifier finds more of what was asked for."""
    more = np.asarray(to_uint8(model.sample(100, steps=20, guidance=3.0, batch_size=100)))
    right = [np.mean(classify(images).argmax(1) == LABELS[:100]) for images in (samples[:100], more)]
    print(f"\ntaken for what was asked for, in 20 steps: {right[0]:.3f}, guided with weight 3: {right[1]:.3f}")
    assert right[1] > right[0]


def test_reconstruction_improves_with_steps(model):
    real = np.asarray(to_float(sources.mnist_5k("test")[::50]))
    errors = [np.mean(np.square((model.reconstruct(real, steps=steps) - real) / 2)) for steps in (10, 20, 50, 100)]
    print("\nmean squared error a pixel in [0, 1] at 10, 20, 50, 100 steps:", [f"{error:.5f}" for error in errors])
    assert np.all(np.diff(errors) < 0)


def test_the_clothes_that_were_asked_for():
    """The classifier is right on 90.6% of the 10,000 real test images (tests/evaluation/test_classifier.py)."""
    describe = features.describer(classifier.load(classifier.SHIPPED["fashion_mnist"]))
    samples = np.asarray(to_uint8(ddim_jax.load(weights.FASHION_MNIST).sample(200, steps=20, batch_size=100)))
    found = describe(samples)["logits"].argmax(1)
    print(f"\nclothes taken for what was asked for: {np.mean(found == LABELS[:200]):.3f}")
    assert np.mean(found == LABELS[:200]) >= 0.906 - 0.10


@pytest.mark.parametrize("path", [weights.DIGITS, weights.FASHION_MNIST], ids=lambda path: path.stem)
def test_weights_that_ship_are_small(path):
    assert path.stat().st_size <= 8e6
    assert path.with_name(f"{path.name}.sha256").exists()  # which `load` has compared
