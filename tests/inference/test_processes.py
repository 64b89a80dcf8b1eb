"""The families of processes, as a generator uses them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.diffusion import discrete, schedule
from ddim_jax.inference import processes
from ddim_jax.inference.generate import Generator
from ddim_jax.models.network import Network

SCHEDULE = schedule.linear()
TAU = schedule.subsequence(1000, 10, "trailing")
DATA_STD = 0.5


def exact(prediction):
    """The best network for data ~ N(0, 0.25), in closed form: E[x_0 | x_t] = x_t sqrt(a) 0.25 / (a 0.25 + 1 - a)."""

    def apply(params, x, step, condition, key):
        a = jnp.asarray(SCHEDULE.alpha_bar, jnp.float32)[step + 1][:, None]
        x0 = x * jnp.sqrt(a) * DATA_STD**2 / (a * DATA_STD**2 + 1 - a)
        eps = (x - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)
        return {"x0": x0, "eps": eps, "v": jnp.sqrt(a) * eps - jnp.sqrt(1 - a) * x0}[prediction]

    return Network(lambda key, example: (), apply)


@pytest.mark.slow
@pytest.mark.parametrize("solver", processes.SOLVERS)
def test_what_a_network_predicts_does_not_matter(solver):
    """eps, x_0 and v say the same of x_t, so all three take every solver to the same points, in rounding."""
    drawn = []
    for prediction in ("eps", "x0", "v"):
        generator = Generator(exact(prediction), SCHEDULE, (3,), processes.gaussian(SCHEDULE, prediction))
        x, keys = generator.latents(0, np.arange(4))
        drawn.append(generator.sample((), processes.SOLVERS[solver](SCHEDULE, TAU), x, keys))
    np.testing.assert_allclose(drawn[1], drawn[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(drawn[2], drawn[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("process", [processes.gaussian(SCHEDULE), processes.categorical(3)])
def test_solvers_are_asked_for_by_their_names(process):
    for name, solver in process.solvers.items():
        assert list(inspect.signature(solver).parameters)[:2] == ["schedule", "tau"], name


def test_categories_are_drawn_evenly_and_decoded():
    """x_T is one-hot over K with probability 1/K each; what is decoded are the values themselves."""
    process = processes.categorical(3)
    x = process.noise(jax.random.split(jax.random.key(0), 2000), (5,))
    assert x.shape == (2000, 5, 3)
    np.testing.assert_array_equal(x.sum(-1), 1)
    share = np.asarray(x).mean((0, 1))
    assert np.all(np.abs(share - 1 / 3) < 4 * np.sqrt(2 / 9 / 10_000))  # four standard errors
    np.testing.assert_array_equal(process.decode(x), discrete.to_values(x))
    assert not process.has_latents and processes.gaussian(SCHEDULE).has_latents


def test_probabilities_of_a_network_of_logits():
    """The softmax over the categories of each value, which are the last axis of what a network gives, folded into channels."""
    logits = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    predict = processes.categorical(3).predictor(lambda x, t: jnp.asarray(logits.reshape(2, 12)))
    found = predict(jax.nn.one_hot(np.zeros((2, 4), int), 3), jnp.array([1, 5]))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
