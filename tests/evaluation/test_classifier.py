"""The classifiers that ship, and how they are made."""

import numpy as np
import pytest

from ddim_jax.data import sources
from ddim_jax.evaluation import features
from ddim_jax.evaluation.extractors import classifier
from tests.real import real_images


def accuracy(extractor, images, labels):
    describe = features.describer(extractor)
    found = [describe(part)["logits"].argmax(1) for part in np.array_split(images, 10)]
    return np.mean(np.concatenate(found) == labels)


def test_the_classifier_of_digits_knows_those_held_out():
    """500 digits that neither it nor the network that draws has seen; 98.0% when it was made: 97% leaves room to round."""
    extractor = classifier.load(classifier.SHIPPED["mnist_5k"])
    assert (extractor.name, extractor.channels) == ("classifier of mnist_5k", 1)
    assert extractor.distance == "Fréchet distance (classifier of mnist_5k)"
    assert accuracy(extractor, sources.mnist_5k("test"), sources.mnist_5k_labels("test")) >= 0.97


@pytest.mark.slow
def test_the_classifier_of_clothes_knows_those_held_out():
    images, labels = real_images("fashion_mnist", "test")
    assert accuracy(classifier.load(classifier.SHIPPED["fashion_mnist"]), images, labels) >= 0.90


@pytest.mark.slow
def test_one_is_trained_and_kept(tmp_path):
    """A tenth of the epochs of the one that ships. What is read is what was written."""
    images, labels = sources.mnist_5k("train"), sources.mnist_5k_labels("train")
    params = classifier.train(images, labels, seed=0, epochs=3)
    classifier.save(tmp_path / "made.safetensors", params, "mnist_5k")
    extractor = classifier.load(tmp_path / "made.safetensors")
    assert accuracy(extractor, sources.mnist_5k("test"), sources.mnist_5k_labels("test")) > 0.9  # 0.1 is chance
    found = features.describer(extractor)(images[:3])
    assert found["features"].shape == (3, 128) and found["logits"].shape == (3, 10)
    assert extractor.digest != classifier.load(classifier.SHIPPED["mnist_5k"]).digest
    np.testing.assert_array_equal(extractor.params["Dense_1"]["kernel"], params["Dense_1"]["kernel"])


def test_what_is_no_classifier_or_no_digit_is_refused(tmp_path):
    path = classifier.SHIPPED["mnist_5k"]
    with pytest.raises(ValueError, match=r"digits\.safetensors holds no classifier: give a file that `classifier.save` wrote"):
        classifier.load(path.with_name("digits.safetensors"))
    damaged = tmp_path / path.name
    damaged.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
        classifier.load(damaged)
    (tmp_path / f"{path.name}.sha256").write_bytes(path.with_name(f"{path.name}.sha256").read_bytes())
    with pytest.raises(ValueError, match=r"is not the file that .*sha256 was written for"):
        classifier.load(damaged)
    describe = features.describer(classifier.load(path))
    with pytest.raises(ValueError, match=r"the images are \[2, 32, 32, 1\]; a classifier of grey images takes \[N, 28, 28, 1\]"):
        describe(np.zeros((2, 32, 32, 1), np.uint8))
    with pytest.raises(ValueError, match="takes"):
        classifier.train(np.zeros((200, 32, 32, 1), np.uint8), np.zeros(200, int), 0)
