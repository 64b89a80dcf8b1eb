"""Every Python block of README.md, run as it is written, and what comes out of it."""

import os
import pathlib
import re

import jax
import numpy as np
import pytest

from ddim_jax.evaluation.distances import sliced_wasserstein
from ddim_jax.training.loop import train

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
OWN = "Your own network, data and loop"
HANDS = "A trained network in your hands"


def blocks(title):
    (section,) = [section for section in README.split("\n## ") if section.startswith(f"{title}\n")]
    return re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def run(title, folder):
    """The names that the blocks of a section leave behind, run one after the other in a folder."""
    names, before = {"__name__": "readme"}, os.getcwd()
    os.chdir(folder)
    try:
        for block in blocks(title):
            exec(compile(block, "README.md", "exec"), names)
    finally:
        os.chdir(before)
    return names


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return run(OWN, tmp_path_factory.mktemp("readme"))


def test_no_block_is_left_out():
    found = re.findall(r"^```python", README, re.MULTILINE)
    assert len(found) == len(blocks(HANDS)) + len(blocks("Building blocks")) + len(blocks(OWN)) == 4


@pytest.mark.slow
def test_a_trained_network_in_your_hands(tmp_path):
    """Digits come back from their latents, as those that they were and no other, and so do the ends of the line."""
    names = run(HANDS, tmp_path)
    digits, again, line = (names[name].reshape(len(names[name]), -1) for name in ("digits", "again", "line"))
    assert digits.shape == (16, 784) and line.shape == (8, 784)
    nearest = lambda images: np.linalg.norm(images[:, None] - digits, axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest(again), np.arange(16))
    np.testing.assert_array_equal(nearest(line[[0, -1]]), [0, 1])
    assert (tmp_path / "digits.png").exists()


def test_building_blocks(tmp_path):
    """With eps = x / 10 every step is a multiple of x: Eq. 12 at eta = 0, down its 50 steps and up again, in float64."""
    names = run("Building blocks", tmp_path)
    x = np.asarray(jax.random.normal(jax.random.key(0), (4, 32, 32, 3)))
    signal, noise = np.sqrt(names["noise_schedule"].alpha_bar), np.sqrt(1 - names["noise_schedule"].alpha_bar)

    def factor(t, s):
        return signal[s] * (1 - 0.1 * noise[t]) / signal[t] + 0.1 * noise[s]

    down, up = (np.prod([factor(t, s) for t, s in pairs]) for pairs in (
        zip(names["tau"][:0:-1], names["tau"][-2::-1]), zip(names["tau"][:-1], names["tau"][1:])
    ))  # fmt: skip
    np.testing.assert_allclose(names["images"], down * x, rtol=1e-4)
    np.testing.assert_allclose(names["latents"], down * up * x, rtol=1e-4)


def test_the_run_is_short_enough_to_be_read():
    lines = [line for line in blocks(OWN)[0].splitlines() if line.strip()]
    assert len(lines) <= 30


@pytest.mark.slow
def test_samples_of_every_solver_lie_on_the_moons(own):
    """Beside a Gaussian fitted to the moons: less than half as far from fresh ones, less than half as often off their arcs."""
    fresh = own["two_moons"](2000, seed=1)
    gaussian = np.random.default_rng(2).multivariate_normal(fresh.mean(0), np.cov(fresh.T), 2000)

    def share_off(points):
        """Of points farther than 0.2, four standard deviations of the moons' noise, from all of 2 x 500 points of the arcs."""
        angle = np.linspace(0, np.pi, 500)
        arcs = [np.stack([np.cos(angle) + side / 2, side * (np.sin(angle) - 0.25)], 1) for side in (-1, 1)]
        return np.mean(np.linalg.norm(points[:, None] - np.concatenate(arcs), axis=-1).min(1) > 0.2)

    distance, off = sliced_wasserstein(gaussian, fresh), share_off(gaussian)
    assert share_off(fresh) < 0.001 and off > 0.3
    assert set(own["samples"]) == {"ddim", "ddpm", "dpmpp_2m", "plms", "unipc"}
    for solver, points in own["samples"].items():
        print(f"\n{solver}: {sliced_wasserstein(points, fresh):.3f} of {distance:.3f}, off {share_off(points):.3f} of {off:.3f}")
        assert points.shape == (2000, 2)
        assert sliced_wasserstein(points, fresh) < distance / 2
        assert share_off(points) < off / 2


@pytest.mark.slow
def test_the_run_that_was_stopped_has_the_bits_of_one_that_was_not(own, tmp_path):
    whole = train(own["task"], tmp_path, steps=4000, batch_size=256, steps_per_call=100)
    jax.tree.map(np.testing.assert_array_equal, own["state"], whole)


@pytest.mark.slow
def test_the_loop_of_ones_own_takes_the_same_steps(own, tmp_path):
    """As programs of another shape, so that sums may be rounded otherwise; Adam divides the difference by small numbers."""
    expected = train(own["task"], tmp_path, steps=100, batch_size=256, steps_per_call=100)
    assert int(own["own"].step) == 100
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), own["own"].params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, own["own"].seed, expected.seed)
