"""A model's methods are `Generator`, `pictures` and the core, with its own settings where none are given."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddim_jax
from configs import cifar10
from ddim_jax import configuration, weights
from ddim_jax.diffusion import process, sampling, solvers
from ddim_jax.diffusion.schedule import log_snr_subsequence, subsequence
from ddim_jax.inference.model import Defaults
from ddim_jax.interop import to_diffusers
from tests.inference import small

CLOSE = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    return small.model()


@jax.jit
def by_the_core(table, x, label, keys=jax.random.split(jax.random.key(9), 1)):
    """The sampler of the core around the network itself, with labels taken in turn; num_classes is "not told"."""
    label = jnp.resize(jnp.asarray(label), x.shape[0])
    eps = lambda x, t: small.apply(small.SCALES, x, t, {"label": label}, None)
    keys = jnp.resize(keys, x.shape[0])  # a table without noise ignores them
    return sampling.sample(process.from_eps(small.SCHEDULE, eps), table, x, keys)


TAU = subsequence(100, 10, "trailing")


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, table",
    [
        (dict(), solvers.ddim(small.SCHEDULE, TAU)),
        (dict(eta=1.0), solvers.ddim(small.SCHEDULE, TAU, 1.0)),
        (dict(solver="ddpm"), solvers.ddpm(small.SCHEDULE, TAU, "large")),  # the model's own variance
        (dict(solver="ddpm", variance="small"), solvers.ddpm(small.SCHEDULE, TAU, "small")),
        (dict(solver="dpmpp_2m", spacing="logsnr"), solvers.dpmpp_2m(small.SCHEDULE, log_snr_subsequence(small.SCHEDULE, 10))),
        (dict(solver="plms", order=3), solvers.plms(small.SCHEDULE, TAU, 3)),
        (dict(solver="unipc", steps=7, spacing="leading"), solvers.unipc(small.SCHEDULE, subsequence(100, 7, "leading"))),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_samples_are_those_of_the_core(model, how, table):
    """From the latents and keys of the seed, each class in turn, three at once."""
    x, keys = model.generator().latents(5, np.arange(7))
    found = model.sample(7, seed=5, batch_size=3, **how)
    assert found.shape == (7, *small.SHAPE) and found.dtype == np.float32
    CLOSE(found, by_the_core(table, x, np.array([0, 1, 2]), keys))


def test_eta_means_ddim_whatever_the_models_own_solver_is():
    published = small.model(defaults=Defaults(10, "trailing", "ddpm", {"eta": 1.0, "variance": "large"}))
    np.testing.assert_array_equal(published.table().noise, solvers.ddpm(small.SCHEDULE, TAU, "large").noise)
    np.testing.assert_array_equal(published.table(eta=0.0).noise, np.zeros(10))


@pytest.mark.parametrize("label, expected", [(1, [1]), ([2, 0], [2, 0]), (np.array([0, 2, 1, 1]), [0, 2, 1, 1])])
def test_labels_are_taken_in_turn(model, label, expected):
    x, keys = model.generator().latents(0, np.arange(4))
    CLOSE(model.sample(4, label=label), by_the_core(model.table(), x, np.array(expected), keys))


def test_guidance_is_that_of_ho_and_salimans(model):
    """eps of "not told" + 3 (eps of the class - eps of "not told"): here again a number times x."""
    x, keys = model.generator().latents(0, np.arange(2))
    guided = small.SCALES.at[1].set(small.SCALES[3] + 3 * (small.SCALES[1] - small.SCALES[3]))
    expected = model.generator().sample(guided, model.table(), x, keys, {"label": np.array([1, 1])})
    CLOSE(model.sample(2, label=1, guidance=3.0), expected)


def test_models_clip_where_their_settings_say_so():
    defaults = Defaults(10, "trailing", "ddim", {"eta": 0.0}, clip=True)
    assert np.abs(small.model().sample(4, label=0)).max() > 1 >= np.abs(small.model(defaults=defaults).sample(4, label=0)).max()


X0 = np.random.default_rng(0).integers(0, 256, (3, *small.SHAPE), np.uint8)


@pytest.mark.parametrize("label, expected", [(None, np.array([3, 3, 3])), ([0, 2, 1], np.array([0, 2, 1]))])
def test_encoding_decoding_and_reconstruction(model, label, expected):
    """Of images as they are on disk, or as floats; where no label is given, the network is told none."""
    x0 = X0 / np.float32(127.5) - 1
    latents = by_the_core(solvers.encode(small.SCHEDULE, TAU), x0, expected)
    CLOSE(model.encode(X0, label=label), latents)
    CLOSE(model.encode(x0, label=label), latents)
    decoded = by_the_core(solvers.ddim(small.SCHEDULE, TAU), latents, expected)
    CLOSE(model.decode(latents, label=label), decoded)
    CLOSE(model.reconstruct(X0, label=label), decoded)


def test_other_steps_and_solvers(model):
    tau, label = subsequence(100, 7, "leading"), np.array([1, 1, 1])
    latents = by_the_core(solvers.encode(small.SCHEDULE, tau), X0 / np.float32(127.5) - 1, label)
    CLOSE(model.encode(X0, label=1, steps=7, spacing="leading"), latents)
    decoded = by_the_core(solvers.ddim(small.SCHEDULE, tau), latents, label)
    CLOSE(model.reconstruct(X0, label=1, steps=7, spacing="leading"), decoded)
    by_unipc = by_the_core(solvers.unipc(small.SCHEDULE, tau), latents, label)
    CLOSE(model.decode(latents, label=1, steps=7, spacing="leading", solver="unipc"), by_unipc)


@pytest.mark.slow
def test_a_line_between_two_latents(model):
    x, _ = model.generator().latents(4, np.arange(2))
    line = model.interpolate(5, seed=4, label=2)
    expected = by_the_core(solvers.ddim(small.SCHEDULE, TAU), sampling.interpolate(x[0], x[1], 5), np.array([2]))
    assert line.shape == (5, *small.SHAPE)
    CLOSE(line, expected)
    CLOSE(model.interpolate(5, latents=x, label=2, batch_size=2), line)
    CLOSE(line[[0, -1]], model.decode(x, label=2))


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda m: m.sample(2, solver="heun"), "unknown solver 'heun'; expected one of ddim, ddpm, dpmpp_2m, plms, unipc"),
        (
            lambda m: m.sample(2, spacing="karras"),
            "unknown spacing 'karras'; expected one of linspace, leading, trailing, quadratic, logsnr",
        ),
        (lambda m: m.sample(0), "num is 0; expected how many examples to draw, at least 1"),
        (lambda m: m.sample(2, steps=0), "cannot choose 0 sampling steps out of 100"),
        (lambda m: m.sample(2, label=[]), r"label is \[\]; the classes are 0 to"),
        (lambda m: m.sample(2, steps=101), "cannot choose 101 sampling steps out of 100"),
        (lambda m: m.sample(2, solver="unipc", eta=0.0), "eta is of ddim, but the solver is unipc: set solver, or leave it out"),
        (lambda m: m.sample(2, order=2), "order is of plms and unipc, but the solver is ddim"),
        (lambda m: m.sample(2, temperature=2), "temperature is of no solver of this model"),
        (lambda m: m.sample(2, eta=3.0), "eta is 3.0; for these steps it must lie between 0 and"),
        (lambda m: m.sample(2, seed=-1), "the seed is -1"),
        (lambda m: m.sample(2, label=3), "label is 3; the classes are 0 to 2"),
        (lambda m: m.sample(2, label=[0, -1]), "the classes are 0 to 2"),
        (lambda m: m.sample(2, label=0.5), "label is 0.5; the classes are 0 to 2"),
        (lambda m: m.sample(2, condition={"image": X0}), "the condition 'image' has 3 rows for 2 examples"),
        (lambda m: m.decode(X0 / 255, eta=1.0), "this table draws noise"),
        (lambda m: m.encode(X0[..., 0]), r"data has shape \(3, 4, 6\); expected \[N, ...\] with \(4, 6, 1\) after N"),
        (lambda m: m.decode(X0[0]), r"data has shape \(4, 6, 1\)"),
        (lambda m: m.reconstruct(X0[:, :3]), r"data has shape \(3, 3, 6, 1\)"),
        (lambda m: m.interpolate(5, latents=X0), r"latents have shape \(3, 4, 6, 1\); expected \(2, "),
    ],
)
def test_what_does_not_go_together(model, use, message):
    with pytest.raises(ValueError, match=message):
        use(model)


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda m: m.encode(X0), "has no latents"),
        (lambda m: m.interpolate(5), "has no latents"),
        (lambda m: m.sample(2, guidance=2.0), "takes no guidance"),
        (lambda m: m.sample(2, solver="unipc"), "unknown solver 'unipc'; expected one of ddim"),
        (lambda m: m.sample(2, label=0), "the network was not trained on classes"),
    ],
)
def test_what_discrete_values_do_not_have(use, message):
    with pytest.raises(ValueError, match=message):
        use(small.categorical())


def test_discrete_samples_are_categories():
    samples = small.categorical().sample(4)
    assert samples.shape == (4, *small.SHAPE) and set(np.unique(samples)) == {-1, 1}


def test_a_network_of_nonsense_draws_nothing():
    with pytest.raises(FloatingPointError, match="holds infinite numbers or NaN"):
        small.model(params=small.SCALES * np.nan).sample(2)


@pytest.mark.slow
def test_load_reads_all_that_there_is(tmp_path):
    """A file of ours, a run's folder and a folder of diffusers: the same network, samples and settings."""
    from ddim_jax.training.checkpoints import Checkpoints, copied
    from ddim_jax.training.step import TrainState

    config = cifar10.get_config()
    config.data.image_size = (8, 8)
    config.model.update(channels=32, multipliers=(1, 2), num_blocks=1, attention_sides=(4,))
    config.sampling.update(steps=3, spacing="trailing")
    rng = np.random.default_rng(0)
    shapes = configuration.parameter_shapes(config)
    params = jax.tree.map(lambda leaf: (0.05 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    found = weights.Weights(config, params)
    weights.save(tmp_path / "file.safetensors", found)
    to_diffusers.save(tmp_path / "diffusers", found)
    configuration.save(config, tmp_path / "run" / "config.json")
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(copied(TrainState(step=8, seed=0, params=params, ema=params, opt_state={})))
    expected = configuration.make_model(config, params).sample(2, seed=3)
    for place in ("file.safetensors", "run", "diffusers"):
        model = ddim_jax.load(tmp_path / place)
        assert (model.shape, model.defaults.spacing) == ((8, 8, 3), "trailing")
        np.testing.assert_array_equal(model.sample(2, steps=3, seed=3), expected)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["format"] == configuration.FORMAT
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        ddim_jax.load(tmp_path / "nowhere")
