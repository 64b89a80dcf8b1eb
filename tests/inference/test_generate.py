"""Batched, sharded generation, the pictures made with it, and weights on disk."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

from ddim_jax import configuration
from ddim_jax.data.images import to_float, to_uint8
from ddim_jax.diffusion import process, schedule, solvers
from ddim_jax.inference import pictures, weights
from ddim_jax.inference.generate import Generator
from ddim_jax.inference.guided import guided
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = tiny.get_config()


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda leaf: (0.05 * rng.normal(size=leaf.shape)).astype(np.float32)
    return jax.tree.map(draw, configuration.parameter_shapes(CONFIG))


PARAMS = make_params()


@pytest.fixture(scope="module")
def generator():
    return Generator(CONFIG)


def table(generator, eta=0.0, steps=4):
    return solvers.ddim(generator.schedule, schedule.subsequence(1000, steps, "trailing"), eta)


def test_it_is_the_sampler_of_the_core_around_the_network(generator):
    unet = configuration.make_unet(CONFIG)
    x, keys = generator.latents(0, np.arange(4))
    eps_fn = process.number_from_zero(jax.jit(lambda x, step: unet.apply({"params": PARAMS}, x, step)))
    expected = x
    for t, s in zip(*table(generator)[:2]):  # by the single steps that are there for reading
        eps = eps_fn(expected, jnp.full(4, t))
        expected, _ = process.ddim_step(generator.schedule, expected, eps, t, s)
    np.testing.assert_allclose(generator.sample(PARAMS, table(generator), x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_image_is_the_same_in_batches_of_any_size(generator, eta):
    whole, parts = (
        np.concatenate(list(generator.batches(PARAMS, table(generator, eta), seed=1, count=7, batch_size=size)))
        for size in (7, 3)
    )
    assert whole.shape == (7, 28, 28, 1) and whole.dtype == np.uint8
    assert np.abs(whole.astype(int) - parts).max() <= 1  # rounding may fall to either side
    assert len(np.unique(whole, axis=0)) == 7


def test_eta_and_steps_of_one_length_compile_once(generator):
    x, keys = generator.latents(0, np.arange(3))
    before = generator._sample._cache_size()
    for eta, steps in ((0.0, "trailing"), (0.7, "quadratic"), (1.0, "leading")):
        tau = schedule.subsequence(1000, 6, steps)
        generator.sample(PARAMS, solvers.ddim(generator.schedule, tau, eta), x, keys)
        generator.sample(PARAMS, solvers.encode(generator.schedule, tau), x, keys)
    generator.sample(make_params(1), table(generator, steps=6), x, keys)
    assert generator._sample._cache_size() == before + 1


def test_noise_without_keys(generator):
    x, _ = generator.latents(0, np.arange(2))
    with pytest.raises(ValueError, match="give the keys"):
        generator.sample(PARAMS, table(generator, eta=1.0), x)


def test_latents_are_standard_normal_and_of_their_seed(generator):
    x, _ = generator.latents(0, np.arange(64))
    assert abs(float(x.mean())) < 4 / np.sqrt(x.size) and abs(float(x.std()) - 1) < 4 / np.sqrt(2 * x.size)
    np.testing.assert_array_equal(generator.latents(0, np.array([5]))[0][0], x[5])
    assert not np.array_equal(generator.latents(1, np.array([5]))[0][0], x[5])


@pytest.mark.slow
def test_pictures_end_in_the_samples_of_their_latents(generator):
    deterministic = table(generator)
    samples = np.concatenate(list(generator.batches(PARAMS, deterministic, seed=0, count=4, batch_size=4))).astype(int)
    chain = pictures.chain(generator, PARAMS, deterministic, seed=0, count=2, stages=3)
    line = pictures.interpolation(generator, PARAMS, deterministic, seed=0, num=3, rows=2)
    square = pictures.interpolation_grid(generator, PARAMS, deterministic, seed=0, num=3)
    assert chain.shape[:2] == (2, 3) and line.shape[:2] == (2, 3) and square.shape[:2] == (3, 3)
    assert np.abs(chain[:, -1] - samples[:2]).max() <= 1  # the last predicted x_0 is the sample
    assert np.abs(line[:, [0, -1]].reshape(samples.shape) - samples).max() <= 1
    assert np.abs(square[[0, 0, -1, -1], [0, -1, 0, -1]] - samples).max() <= 1


def test_reconstruction_encodes_and_decodes(generator):
    real = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    tau = schedule.subsequence(1000, 4, "trailing")
    latents = generator.sample(PARAMS, solvers.encode(generator.schedule, tau), to_float(real))
    expected = to_uint8(generator.sample(PARAMS, solvers.ddim(generator.schedule, tau), latents))
    np.testing.assert_array_equal(pictures.reconstruction(generator, PARAMS, tau, real), expected)


def test_clipping_keeps_predictions_in_range():
    clipped = Generator(CONFIG, guided(configuration.make_schedule(CONFIG), clip=True))
    x, keys = clipped.latents(0, np.arange(2))
    assert np.abs(clipped.trajectory(PARAMS, table(clipped), x).x0).max() <= 1
    assert np.abs(Generator(CONFIG).trajectory(PARAMS, table(clipped), x).x0).max() > 1


class TestLabels:
    @pytest.fixture
    def model(self):
        config = tiny.get_config()
        config.model.num_classes = 3
        rng = np.random.default_rng(0)
        shapes = configuration.parameter_shapes(config)
        return config, jax.tree.map(lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)

    def test_each_image_keeps_its_label_in_any_batch(self, model):
        config, params = model
        generator, label = Generator(config), np.array([2, 0, 1, 1, 2])
        together = np.concatenate(list(generator.batches(params, table(generator), 0, 5, 5, {"label": label})))
        apart = np.concatenate(list(generator.batches(params, table(generator), 0, 5, 2, {"label": label})))
        assert np.abs(together.astype(int) - apart).max() <= 1
        other = np.concatenate(list(generator.batches(params, table(generator), 0, 5, 5, {"label": (label + 1) % 3})))
        assert np.abs(together.astype(int) - other).max() > 1

    def test_guidance_of_no_weight_is_the_network_without_labels(self, model):
        """Ho & Salimans: weight 0 is the unconditional network, which is also what it says to the label num_classes."""
        config, params = model
        plain, unguided = Generator(config), Generator(config, guided(configuration.make_schedule(config), weight=0.0))
        x, _ = plain.latents(0, np.arange(2))
        label = {"label": np.array([1, 2])}
        expected = plain.sample(params, table(plain), x)
        np.testing.assert_allclose(unguided.sample(params, table(plain), x, given=label), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            plain.sample(params, table(plain), x, given={"label": np.array([3, 3])}), expected, rtol=1e-4, atol=1e-4
        )
        assert np.abs(plain.sample(params, table(plain), x, given=label) - expected).max() > 1e-2


class TestWeights:
    def test_round_trip(self, tmp_path):
        model = weights.Model(CONFIG, PARAMS)
        weights.save(tmp_path / "exact.safetensors", model)
        jax.tree.map(np.testing.assert_array_equal, weights.load(tmp_path / "exact.safetensors").params, PARAMS)
        weights.save(tmp_path / "half.safetensors", model, dtype="bfloat16")
        half = weights.load(tmp_path / "half.safetensors")
        assert configuration.make_unet(half.config) == configuration.make_unet(CONFIG)
        # bfloat16 keeps 8 significant bits of kernels; what is read back is float32 again.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8 * (b.ndim > 1)), half.params, PARAMS)
        assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("float32")}
        assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "exact.safetensors").stat().st_size

    @pytest.mark.parametrize("with_digest", [True, False])
    def test_a_truncated_file_is_refused(self, tmp_path, with_digest):
        path = tmp_path / "w.safetensors"
        weights.save(path, weights.Model(CONFIG, PARAMS))
        path.write_bytes(path.read_bytes()[:-100])
        if not with_digest:
            path.with_name("w.safetensors.sha256").unlink()
        with pytest.raises(ValueError, match="w.safetensors is .*damaged"):
            weights.load(path)

    def test_a_flipped_bit_is_found(self, tmp_path):
        path = tmp_path / "w.safetensors"
        weights.save(path, weights.Model(CONFIG, PARAMS))
        data = bytearray(path.read_bytes())
        data[-50] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged"):
            weights.load(path)

    def test_weights_of_another_network_and_files_of_others_are_refused(self, tmp_path):
        other = tiny.get_config()
        other.model.channels = 64
        weights.save(tmp_path / "other.safetensors", weights.Model(other, PARAMS))
        with pytest.raises(ValueError, match=r"conv_in.kernel: float32\[3, 3, 16, 32\], expected float32\[3, 3, 16, 64\]"):
            weights.load(tmp_path / "other.safetensors")
        safetensors.flax.save_file({"a": jnp.ones(2)}, tmp_path / "foreign.safetensors")
        with pytest.raises(ValueError, match="holds no ddim_jax configuration"):
            weights.load(tmp_path / "foreign.safetensors")

    def test_a_folder_without_a_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no config.json"):
            weights.from_workdir(tmp_path)


@pytest.mark.slow
def test_eight_devices_draw_the_images_of_one(generator, tmp_path):
    """In a process of its own; seven images, which eight devices do not divide."""
    script = """
import sys, jax, numpy as np
from ddim_jax.inference.generate import Generator
from ddim_jax.inference.guided import guided
from tests.inference import test_generate as t
assert jax.local_device_count() == 8
g = Generator(t.CONFIG)
np.save(sys.argv[1], np.concatenate(list(g.batches(t.PARAMS, t.table(g, 1.0), seed=1, count=7, batch_size=7))))
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "eight.npy")], cwd=ROOT, env=environment, check=True, timeout=300
    )
    one = np.concatenate(list(generator.batches(PARAMS, table(generator, 1.0), seed=1, count=7, batch_size=7)))
    assert np.abs(np.load(tmp_path / "eight.npy").astype(int) - one).max() <= 1
