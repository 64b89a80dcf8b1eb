"""The weights that ship: digits that a classifier, trained on real ones alone, takes for digits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddim_jax.data import sources
from ddim_jax.data.images import to_float
from ddim_jax.diffusion import schedule, solvers
from ddim_jax.inference import pictures, weights
from ddim_jax.inference.generate import Generator

pytestmark = pytest.mark.slow


class Classifier(nn.Module):
    """Two convolutions and two dense layers."""

    @nn.compact
    def __call__(self, x):
        for features in (32, 64):
            x = nn.max_pool(nn.relu(nn.Conv(features, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(10)(nn.relu(nn.Dense(128)(x.reshape(len(x), -1))))


def train_classifier(images, labels, epochs=12, batch=100):
    """Adam on all images, each shifted by up to two pixels; gives images uint8 -> probabilities [N, 10]."""
    network, optimizer, rng = Classifier(), optax.adam(1e-3), np.random.default_rng(0)
    params = network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, to_float(x)), y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(epochs):
        for chosen in rng.permutation(len(images)).reshape(-1, batch):
            shifted = np.roll(images[chosen], rng.integers(-2, 3, 2), axis=(1, 2))
            params, state = step(params, state, shifted, labels[chosen])
    probabilities = jax.jit(lambda x: nn.softmax(network.apply(params, to_float(x))))
    return lambda x: np.asarray(probabilities(x))


@pytest.fixture(scope="module")
def classify():
    return train_classifier(sources.mnist_5k("train"), sources.mnist_5k_labels("train"))


@pytest.fixture(scope="module")
def model():
    return weights.load(weights.DIGITS)


@pytest.fixture(scope="module")
def generator(model):
    return Generator(model.config)


@pytest.fixture(scope="module")
def samples(model, generator):
    """What `make demo` draws: the 256 images of seed 0, in 50 steps at eta = 0."""
    table = solvers.ddim(generator.schedule, schedule.subsequence(1000, 50, "trailing"))
    return np.concatenate(list(generator.batches(model.params, table, seed=0, count=256, batch_size=64)))


def test_all_ten_digits_appear(classify, samples):
    accuracy = np.mean(classify(sources.mnist_5k("test")).argmax(1) == sources.mnist_5k_labels("test"))
    counts = np.bincount(classify(samples).argmax(1), minlength=10)
    print(f"\naccuracy on held-out digits {accuracy:.3f}; digits 0-9 among the samples: {counts.tolist()}")
    assert accuracy > 0.95  # else its opinion is worth little
    assert counts.min() > 0


@pytest.mark.xfail(strict=True, reason="the weights that ship so far were trained for 6,000 steps, which is too short")
def test_samples_pass_for_real_digits(classify, samples):
    """The classifier is at least 0.8 sure of them about as often as of held-out digits; they are as bright as real ones."""
    sure_real, sure = (np.mean(classify(images).max(1) >= 0.8) for images in (sources.mnist_5k("test"), samples))
    brightness = samples.mean() / sources.mnist_5k("train").mean()
    print(f"\nat least 0.8 sure of {sure_real:.3f} of held-out digits, of {sure:.3f} of samples; brightness {brightness:.3f}")
    assert sure >= sure_real - 0.10
    assert abs(brightness - 1) <= 0.03


def test_reconstruction_improves_with_steps(model, generator):
    real = sources.mnist_5k("test")[::25]
    errors = []
    for steps in (10, 20, 50, 100):
        again = pictures.reconstruction(generator, model.params, schedule.subsequence(1000, steps, "trailing"), real)
        errors.append(np.mean(np.square((again.astype(float) - real) / 255)))
    print("\nmean squared error a pixel in [0, 1] at 10, 20, 50, 100 steps:", [f"{error:.5f}" for error in errors])
    assert np.all(np.diff(errors) < 0)


def test_weights_that_ship_are_small():
    assert weights.DIGITS.stat().st_size <= 8e6
    assert weights.DIGITS.with_name("digits.safetensors.sha256").exists()  # which `load` has compared
