"""The page's JavaScript against the package: the same random numbers, and the same trajectories of every solver.

The oracle is JAX itself (its Threefry and its normal numbers) and `diffusion`, on a network that both sides write out.
"""

import json
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.common.seeds import stream
from ddim_jax.diffusion import guidance, process, sampling, schedule, solvers
from ddim_jax.inference.generate import Generator
from ddim_jax.inference.processes import SOLVERS
from ddim_jax.models.network import Network

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not there to run the page's JavaScript")

SAMPLER = pathlib.Path(__file__).parents[2] / "ddim_jax" / "page" / "static" / "sampler.js"
SHAPE = (5, 4, 1)
LINEAR = schedule.linear()


def ask(**questions):
    """The answers of sampler.js, by name; see answer.mjs."""
    command = [NODE, pathlib.Path(__file__).with_name("answer.mjs"), SAMPLER]
    said = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def words(key):
    return jax.random.key_data(key).tolist()


def test_random_words_are_those_of_jax():
    key = jax.random.key(2**31 - 1)
    asked = [0, 1, 77, 2**31, 2**32 - 1]
    found = ask(
        key=["key", [2**31 - 1]],
        **{f"fold {number}": ["fold", [words(key), number]] for number in asked},
        **{f"split {number}": ["fold", [words(jax.random.key(3)), number]] for number in range(2)},
    )
    assert found["key"] == words(key)
    for number in asked:
        assert found[f"fold {number}"] == words(jax.random.fold_in(key, np.uint32(number)))
    for number, half in enumerate(jax.random.split(jax.random.key(3))):
        assert found[f"split {number}"] == words(half)


def test_normal_numbers_are_those_of_jax():
    """To 2e-6: the last digit of float32, which the two sides round at other places. 100,000 numbers reach both polynomials."""
    key = jax.random.key(5)
    found = np.array(ask(normal=["normal", [words(key), 100_000]])["normal"])
    expected = np.asarray(jax.random.normal(key, (100_000,)))
    assert np.abs(expected).max() > 4
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_latents_are_those_that_the_package_draws():
    nothing = Network(lambda key, example: {}, lambda params, x, step, condition, key: x)
    generator = Generator(nothing, LINEAR, SHAPE)
    x, keys = generator.latents(11, np.array([0, 7]))
    noise = sampling._normal(keys, jnp.asarray(3), x)
    size = int(np.prod(SHAPE))
    found = ask(latents=["latents", [11, [0, 7], size]], noise=["noiseOfRow", [jax.random.key_data(keys).tolist(), 3, size]])
    assert found["latents"]["keys"] == jax.random.key_data(keys).tolist()
    np.testing.assert_allclose(found["latents"]["x"], np.ravel(x), atol=2e-6)
    np.testing.assert_allclose(found["noise"], np.ravel(noise), atol=2e-6)


def toy(alpha_bar, label):
    """The network of answer.mjs: nearly the eps of Gaussian data of variance 1/4."""

    def network(x, step):
        a = jnp.asarray(alpha_bar.alpha_bar, jnp.float32)[step + 1][:, None, None, None]
        return jnp.sqrt(1 - a) * x / (1 - 0.75 * a) + 0.1 * jnp.sin(3 * x + label)

    return process.number_from_zero(network)


def columns(table):
    return {name: np.asarray(column).tolist() for name, column in table._asdict().items()}


def check(table, alpha_bar=LINEAR, prediction="eps", clip=False, weight=1.0, start=None):
    keys = jax.random.split(stream(2, "sampling"), 2)
    x = jax.random.normal(jax.random.key(9), (2, *SHAPE)) if start is None else start
    predict = process.make_predictor(alpha_bar, toy(alpha_bar, 1), prediction)
    if weight != 1:
        predict = guidance.classifier_free(predict, process.make_predictor(alpha_bar, toy(alpha_bar, 4), prediction), weight)
    if clip:
        predict = process.clip_x0(alpha_bar, predict)
    path = jax.jit(lambda table: sampling.trajectory(predict, table, x, keys))(table)
    given = {
        "table": columns(table),
        "x": np.ravel(x).tolist(),
        "keys": jax.random.key_data(keys).tolist(),
        "alphaBar": alpha_bar.alpha_bar.tolist(),
        "prediction": prediction,
        "clip": clip,
        "labels": [1, 4],
        "weight": weight,
    }
    found = ask(path=["sample", [given]])["path"]
    for name, expected in (("x0", path.x0), ("x", path.x[-1])):  # to what rounding in float32 grows to in ten rows
        scale = max(1.0, float(jnp.abs(expected).max()))  # the first x_0 is divided by signal_scale = .006
        np.testing.assert_allclose(np.ravel(found[name]), np.ravel(expected), atol=2e-5 * scale)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver(name):
    check(SOLVERS[name](LINEAR, schedule.subsequence(1000, 10, "trailing")))


def test_noise_clipping_and_guidance():
    tau = schedule.subsequence(1000, 10, "trailing")
    check(solvers.ddim(LINEAR, tau, eta=0.7))
    check(solvers.ddpm(LINEAR, tau, "large"), clip=True)
    check(solvers.ddim(LINEAR, tau, eta=0.3), clip=True, weight=2.5)


@pytest.mark.parametrize("prediction", process.PREDICTORS)
@pytest.mark.parametrize("ask_at", ["departure", "arrival"])
def test_encoding_begins_at_0(prediction, ask_at):
    x0 = jnp.linspace(-1, 1, 2 * int(np.prod(SHAPE))).reshape(2, *SHAPE)
    check(solvers.encode(LINEAR, schedule.subsequence(1000, 10, "trailing"), ask_at), prediction=prediction, start=x0)


def test_v_from_pure_noise():
    zero = schedule.zero_terminal_snr(LINEAR)
    check(solvers.ddim(zero, schedule.subsequence(1000, 10, "trailing")), zero, prediction="v")


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_slerp_and_the_square(weight):
    corners = jax.random.normal(jax.random.key(4), (2, 2, *SHAPE))
    flat = np.reshape(corners, (4, -1)).tolist()
    found = ask(
        arc=["slerp", [flat[0], flat[1], weight]],
        parallel=["slerp", [flat[0], [2 * value for value in flat[0]], weight]],
        zero=["slerp", [[0.0] * len(flat[0]), flat[1], weight]],
        square=["inSquare", [flat, weight, 0.5]],
    )
    for name, a, b in (
        ("arc", corners[0, 0], corners[0, 1]),
        ("parallel", corners[0, 0], 2 * corners[0, 0]),
        ("zero", jnp.zeros(SHAPE), corners[0, 1]),
    ):
        np.testing.assert_allclose(found[name], np.ravel(sampling.slerp(a[None], b[None], weight)), atol=2e-6)
    grid = sampling.interpolate_grid(corners, 5)  # [down, across]
    np.testing.assert_allclose(found["square"], np.ravel(grid[2, round(4 * weight)]), atol=2e-6)
