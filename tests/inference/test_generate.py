"""Batched, sharded generation, the pictures made with it, and weights on disk."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

from ddim_jax import configuration, weights
from ddim_jax.data.images import to_float
from ddim_jax.diffusion import process, schedule, solvers
from ddim_jax.inference import pictures, processes
from ddim_jax.inference.adjusting import Adjustment
from ddim_jax.inference.generate import ROWS, Generator
from ddim_jax.models.network import Network
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
    return configuration.make_model(CONFIG, PARAMS).generator()


def drawn(generator, params, table, count, batch_size, condition={}):
    """The images 0 .. count-1 of seed 0, as float [count, H, W, C]."""
    return np.concatenate(list(generator.batches(params, table, 0, np.arange(count), batch_size, condition)))


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


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_image_is_the_same_in_batches_of_any_size(generator, eta):
    whole, parts = (drawn(generator, PARAMS, table(generator, eta), 7, size) for size in (7, 3))
    assert whole.shape == (7, 28, 28, 1) and whole.dtype == np.float32
    np.testing.assert_allclose(whole, parts, rtol=1e-3, atol=1e-3)  # the sums of another batch size are rounded otherwise
    assert len(np.unique(whole, axis=0)) == 7


def test_eta_and_steps_of_one_length_compile_once(generator):
    x, keys = generator.latents(0, np.arange(3))
    before = generator._compiled._cache_size()
    for eta, steps in ((0.0, "trailing"), (0.7, "quadratic"), (1.0, "leading")):
        tau = schedule.subsequence(1000, 6, steps)
        generator.sample(PARAMS, solvers.ddim(generator.schedule, tau, eta), x, keys)
        generator.sample(PARAMS, solvers.encode(generator.schedule, tau), x, keys)
    generator.sample(make_params(1), table(generator, steps=6), x, keys)
    assert generator._compiled._cache_size() == before + 1


@pytest.mark.slow
@pytest.mark.parametrize("solver, arguments", [("ddim", {"eta": 1.0}), ("unipc", {"order": 3})])
def test_tables_in_parts_are_those_of_one_scan(generator, solver, arguments):
    """Of 23 rows, 20 are taken by one program and 3 by another; noise and the predictions before are those of the whole table.

    The oracle is the scan of the core, over the whole table at once, which keeps all that it passes through.
    """
    x, keys = generator.latents(0, np.arange(2))
    whole = getattr(solvers, solver)(generator.schedule, schedule.subsequence(1000, 23, "trailing"), **arguments)
    before = generator._compiled._cache_size()
    parts = generator.sample(PARAMS, whole, x, keys)
    assert generator._compiled._cache_size() == before + 2
    np.testing.assert_allclose(parts, generator.trajectory(PARAMS, whole, x, keys).x[-1], rtol=1e-4, atol=1e-4)


def test_any_number_of_tens_of_steps_compiles_once(generator):
    x, keys = generator.latents(0, np.arange(3))
    before = generator._compiled._cache_size()
    for steps in (ROWS, 2 * ROWS, 5 * ROWS):
        generator.sample(PARAMS, table(generator, steps=steps), x, keys)
    assert generator._compiled._cache_size() == before + 1


def test_noise_without_keys(generator):
    x, _ = generator.latents(0, np.arange(2))
    with pytest.raises(ValueError, match="give the keys"):
        generator.sample(PARAMS, table(generator, eta=1.0), x)


def test_latents_are_standard_normal_and_of_their_seed(generator):
    x, _ = generator.latents(0, np.arange(64))
    assert abs(float(x.mean())) < 4 / np.sqrt(x.size) and abs(float(x.std()) - 1) < 4 / np.sqrt(2 * x.size)
    np.testing.assert_array_equal(generator.latents(0, np.array([5]))[0][0], x[5])
    assert not np.array_equal(generator.latents(1, np.array([5]))[0][0], x[5])


def test_nothing_is_drawn_as_training_draws_it(generator):
    """At equal seeds, image n's noise at sampler step i used to be the eps of training step n, example i."""
    _, keys = generator.latents(0, np.arange(3))
    sampling = {tuple(np.ravel(jax.random.key_data(jax.random.fold_in(key, i)))) for key in keys for i in range(4)}
    training = set()
    for step in range(3):  # as `train_step` makes them: the second of five keys is that of the noise
        key = jax.random.split(jax.random.fold_in(jax.random.key(0), step), 5)[1]
        training |= {tuple(np.ravel(jax.random.key_data(jax.random.fold_in(key, i)))) for i in range(4)}
    assert len(sampling) == len(training) == 12 and not sampling & training


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5])
def test_seeds_that_would_be_another_seed(generator, seed):
    with pytest.raises(ValueError, match="expected a whole number from 0 to 2147483647"):
        generator.latents(seed, np.arange(1))


def test_what_is_not_finite_is_no_image(generator):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, PARAMS)
    with pytest.raises(FloatingPointError, match="holds infinite numbers or NaN"):
        drawn(generator, broken, table(generator), 2, 2)


@pytest.mark.slow
def test_pictures_end_in_the_samples_of_their_latents(generator):
    deterministic = table(generator)
    samples = drawn(generator, PARAMS, deterministic, 4, 4)
    pairs = generator.latents(0, np.arange(4))[0].reshape(2, 2, 28, 28, 1)
    chain = pictures.chain(generator, PARAMS, deterministic, seed=0, count=2, stages=3)
    line = pictures.interpolation(generator, PARAMS, deterministic, pairs, num=3)
    square = pictures.interpolation_grid(generator, PARAMS, deterministic, pairs, num=3)
    assert chain.shape[:2] == (2, 3) and line.shape[:2] == (2, 3) and square.shape[:2] == (3, 3)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    close(chain[:, -1], samples[:2])  # the last predicted x_0 is the sample
    close(line[:, [0, -1]].reshape(samples.shape), samples)
    close(square[[0, 0, -1, -1], [0, -1, 0, -1]], samples)


@pytest.mark.slow
def test_a_chain_keeps_what_it_shows(generator):
    """Stages 0, 2 and 3 of four rows: the predictions of the whole trajectory at those."""
    x, keys = generator.latents(0, np.arange(2))
    path = generator.trajectory(PARAMS, table(generator, 1.0), x, keys)
    chain = pictures.chain(generator, PARAMS, table(generator, 1.0), seed=0, count=2, stages=3)
    np.testing.assert_allclose(chain.swapaxes(0, 1), path.x0[np.array([0, 2, 3])], rtol=1e-4, atol=1e-4)


def test_reconstruction_encodes_and_decodes(generator):
    real = np.asarray(to_float(np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)))
    tau = schedule.subsequence(1000, 4, "trailing")
    latents = generator.sample(PARAMS, solvers.encode(generator.schedule, tau), real)
    expected = generator.sample(PARAMS, solvers.ddim(generator.schedule, tau), latents)
    np.testing.assert_array_equal(pictures.reconstruction(generator, PARAMS, tau, real), expected)


def test_clipping_keeps_predictions_in_range(generator):
    clipped = configuration.make_model(CONFIG, PARAMS).generator(Adjustment(clip=True))
    x, keys = clipped.latents(0, np.arange(2))
    assert np.abs(clipped.trajectory(PARAMS, table(clipped), x).x0).max() <= 1
    assert np.abs(generator.trajectory(PARAMS, table(clipped), x).x0).max() > 1


@pytest.mark.parametrize("shape", [(), (2,), (4, 6, 3)])
def test_examples_of_any_shape(shape):
    """Points and rectangles, by a network that is a lambda: with eps = c x every step is a multiple of x, as of any shape."""
    network = Network(lambda key, example: 0.3, lambda params, x, step, condition, key: params * x)
    generator = Generator(network, schedule.linear(), shape)
    x, _ = generator.latents(0, np.arange(3))
    assert x.shape == (3, *shape)
    found = generator.sample(0.3, table(generator), x)
    one = generator.sample(0.3, table(generator), np.ones((1, *shape), np.float32))
    np.testing.assert_allclose(found, x * np.ravel(one)[0], rtol=1e-5)


def test_a_trajectory_over_categories_is_of_its_own_process():
    """Every x on the way is one-hot, every prediction a distribution, and the last x is the sample."""
    network = Network(lambda key, example: 0.5, lambda params, x, step, condition, key: params * x)
    to_noise = schedule.zero_terminal_snr(schedule.linear())
    generator = Generator(network, to_noise, (2, 2, 1), processes.categorical(3))
    x, keys = generator.latents(0, np.arange(4))
    steps = generator.process.solvers["ddim"](to_noise, schedule.subsequence(1000, 5, "trailing"), eta=0.5)
    path = generator.trajectory(0.5, steps, x, keys)
    assert path.x.shape == (6, 4, 2, 2, 1, 3) and set(np.unique(path.x)) == {0, 1}
    np.testing.assert_allclose(path.x0.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(path.x[-1], generator.sample(0.5, steps, x, keys))
    assert set(np.unique(generator.process.decode(path.x[-1]))) <= {-1, 0, 1}  # three values from -1 to 1


class TestLabels:
    @pytest.fixture
    def model(self):
        config = tiny.get_config()
        config.model.num_classes = 3
        rng = np.random.default_rng(0)
        shapes = configuration.parameter_shapes(config)
        params = jax.tree.map(lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
        return configuration.make_model(config, params)

    @pytest.mark.slow
    def test_each_image_keeps_its_label_in_any_batch(self, model):
        generator, label = model.generator(), np.array([2, 0, 1, 1, 2])
        together, apart = (drawn(generator, model.params, table(generator), 5, size, {"label": label}) for size in (5, 2))
        np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-3)
        other = drawn(generator, model.params, table(generator), 5, 5, {"label": (label + 1) % 3})
        assert np.abs(together - other).max() > 1e-2

    @pytest.mark.slow
    def test_guidance_of_no_weight_is_the_network_without_labels(self, model):
        """Ho & Salimans: weight 0 is the unconditional network, which is also what it says to the label num_classes."""
        plain, unguided, params = model.generator(), model.generator(Adjustment(weight=0.0)), model.params
        x, _ = plain.latents(0, np.arange(2))
        label = {"label": np.array([1, 2])}
        expected = plain.sample(params, table(plain), x)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
        close(unguided.sample(params, table(plain), x, condition=label), expected)
        close(plain.sample(params, table(plain), x, condition={"label": np.array([3, 3])}), expected)
        assert np.abs(plain.sample(params, table(plain), x, condition=label) - expected).max() > 1e-2


class TestWeights:
    def test_round_trip(self, tmp_path):
        model = weights.Weights(CONFIG, PARAMS)
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
        weights.save(path, weights.Weights(CONFIG, PARAMS))
        path.write_bytes(path.read_bytes()[:-100])
        if not with_digest:
            path.with_name("w.safetensors.sha256").unlink()
        with pytest.raises(ValueError, match="w.safetensors is .*damaged"):
            weights.load(path)

    def test_a_flipped_bit_is_found(self, tmp_path):
        path = tmp_path / "w.safetensors"
        weights.save(path, weights.Weights(CONFIG, PARAMS))
        data = bytearray(path.read_bytes())
        data[-50] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged"):
            weights.load(path)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_flipped_bit_is_found_without_a_file_beside(self, tmp_path, dtype):
        path = tmp_path / "w.safetensors"
        weights.save(path, weights.Weights(CONFIG, PARAMS), dtype)
        path.with_name("w.safetensors.sha256").unlink()
        weights.load(path)
        whole = path.read_bytes()
        beta, number = whole.index(b"0.02") + 3, len(whole) - 50
        for place, message in ((beta, "checksum"), (number, "checksum"), (number + 3, "checksum|NaN or infinite")):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=message):
                weights.load(path)

    def test_files_from_before_the_checksum_are_read(self, tmp_path):
        config = {"ddim_jax_config": configuration.to_json(CONFIG)}
        flat = {".".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(PARAMS)}
        safetensors.flax.save_file({name: jnp.asarray(leaf) for name, leaf in flat.items()}, tmp_path / "w.safetensors", config)
        jax.tree.map(np.testing.assert_array_equal, weights.load(tmp_path / "w.safetensors").params, PARAMS)

    def test_whole_numbers_are_no_weights(self, tmp_path):
        path, flat = tmp_path / "w.safetensors", {"conv_in.bias": jnp.zeros(32, jnp.int32), "conv_in.kernel": jnp.zeros(2)}
        safetensors.flax.save_file(flat, path, {"ddim_jax_config": configuration.to_json(CONFIG)})
        with pytest.raises(ValueError, match=r"holds whole numbers where floats belong, in conv_in.bias \(int32\): "):
            weights.load(path)

    def test_weights_of_another_network_and_files_of_others_are_refused(self, tmp_path):
        other = tiny.get_config()
        other.model.channels = 64
        weights.save(tmp_path / "other.safetensors", weights.Weights(other, PARAMS))
        with pytest.raises(ValueError, match=r"conv_in.kernel: float32\[3, 3, 16, 32\], expected float32\[3, 3, 16, 64\]"):
            weights.load(tmp_path / "other.safetensors")
        safetensors.flax.save_file({"a": jnp.ones(2)}, tmp_path / "foreign.safetensors")
        with pytest.raises(ValueError, match="holds no ddim_jax configuration"):
            weights.load(tmp_path / "foreign.safetensors")

    def test_weights_that_are_not_finite_are_refused(self, tmp_path):
        broken = jax.tree.map(np.copy, PARAMS)
        broken["conv_in"]["bias"][0] = np.nan
        weights.save(tmp_path / "nan.safetensors", weights.Weights(CONFIG, broken))
        with pytest.raises(ValueError, match="holds NaN or infinite numbers in conv_in.bias"):
            weights.load(tmp_path / "nan.safetensors")

    def test_a_folder_without_a_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no config.json"):
            weights.from_workdir(tmp_path)


@pytest.mark.slow
def test_eight_devices_draw_the_images_of_one(generator, tmp_path):
    """In a process of its own; seven images, which eight devices do not divide."""
    script = """
import sys, jax, numpy as np
from tests.inference import test_generate as t
assert jax.local_device_count() == 8
generator = t.configuration.make_model(t.CONFIG, t.PARAMS).generator()
np.save(sys.argv[1], t.drawn(generator, t.PARAMS, t.table(generator, 1.0), 7, 7))
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "eight.npy")], cwd=ROOT, env=environment, check=True, timeout=300
    )
    one = drawn(generator, PARAMS, table(generator, 1.0), 7, 7)
    np.testing.assert_allclose(np.load(tmp_path / "eight.npy"), one, rtol=1e-3, atol=1e-3)
