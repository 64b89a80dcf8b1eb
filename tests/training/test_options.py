"""What a run can be besides the paper's: told classes, of another target or schedule, discrete, begun from other weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax import configuration, weights
from ddim_jax.data import sources
from ddim_jax.data.images import grid, to_float, to_uint8
from ddim_jax.diffusion.schedule import linear
from ddim_jax.runs import train_config
from ddim_jax.training.step import init_state, make_optimizer, train_step
from tests import tiny


def config(**parts):
    made = tiny.get_config()
    made.training.update(steps=2, log_every=2, sample_every=2, checkpoint_every=2)
    for part, fields in parts.items():
        made[part].update(fields)
    return made


def random_params(made, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: (0.05 * rng.normal(size=a.shape)).astype(np.float32), configuration.parameter_shapes(made))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [
    dict(model=dict(num_classes=10)),
    dict(diffusion=dict(prediction="v", zero_terminal_snr=True)),
    dict(diffusion=dict(prediction="x0", schedule="cosine"), training=dict(min_snr_gamma=5.0)),
    dict(diffusion=dict(prediction="x0", categories=3, zero_terminal_snr=True)),
    dict(data=dict(degrade="half_size"), training=dict(held_out_every=1)),
], ids=["classes", "v at zero SNR", "x0, cosine, min-SNR", "three categories", "told an image"])  # fmt: skip
def test_every_kind_of_run_trains_and_draws(tmp_path, parts):
    """All parameters move, the loss is finite, and the grid of samples is drawn from what was trained."""
    made = config(**parts)
    made.model.update(channels=64)  # in 32 groups of one channel, normalisation takes away what steps and classes add
    start = random_params(made)
    weights.save(tmp_path / "start.safetensors", weights.Weights(made, start))
    made.training.initial_weights = str(tmp_path / "start.safetensors")
    end = train_config(made, tmp_path / "run")
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start, end.params)
    still = {"/".join(str(key.key) for key in path) for path, m in jax.tree_util.tree_leaves_with_path(moved) if not m}
    assert all(name.endswith("attention/k/bias") for name in still)  # softmax does not see it: its gradient is rounding, or 0
    assert (tmp_path / "run" / "samples" / "step_0000002.png").exists()
    assert weights.from_workdir(tmp_path / "run").config.diffusion == made.diffusion
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    held_out = [line["step"] for line in lines if line.get("held_out_loss", 0) > 0]
    assert held_out == ([1, 2] if made.training.held_out_every else [])


@pytest.mark.slow
def test_a_run_begins_with_the_weights_it_is_given(tmp_path):
    """At a learning rate of 0 it ends with them too, in its average as well."""
    made = config(training=dict(learning_rate=0.0))
    weights.save(tmp_path / "first.safetensors", weights.Weights(made, random_params(made)))
    made.training.initial_weights = str(tmp_path / "first.safetensors")
    end = train_config(made, tmp_path / "run")
    for params in (end.params, end.ema):
        jax.tree.map(np.testing.assert_array_equal, params, random_params(made))


def test_weights_of_another_network_are_no_beginning(tmp_path):
    weights.save(tmp_path / "w.safetensors", weights.Weights(config(), random_params(config())))
    other = config(model=dict(channels=64), training=dict(initial_weights=str(tmp_path / "w.safetensors")))
    with pytest.raises(ValueError, match=r"does not fit this configuration.*\n.*expected float32\[64"):
        weights.initial(other)
    assert weights.initial(config()) is None


@pytest.mark.slow
def test_a_network_that_is_to_learn_classes_begins_as_the_same_function(tmp_path):
    """Labels added to weights without them say nothing yet: for any of them the output is that of the old network."""
    old, new = config(), config(model=dict(num_classes=10))
    weights.save(tmp_path / "w.safetensors", weights.Weights(old, random_params(old)))
    new.training.initial_weights = str(tmp_path / "w.safetensors")
    x, step = jax.random.normal(jax.random.key(0), (2, 28, 28, 1)), jnp.array([3, 900])
    expected = configuration.make_unet(old).apply({"params": random_params(old)}, x, step)
    for label in (None, jnp.array([0, 7])):
        found = configuration.make_unet(new).apply({"params": weights.initial(new)}, x, step, label)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_labels_are_withheld_as_often_as_asked_and_arrive_with_their_images():
    seen = []

    def spy(params, x, step, condition, key):
        jax.debug.callback(lambda label: seen.append(np.asarray(label)), condition["label"])
        return params * x

    optimizer, n = make_optimizer(1e-3, 1, 1.0), 2000
    label = jnp.arange(n) % 10
    state = init_state(jnp.float32(1), optimizer, 0)
    run = lambda share: train_step(
        state, {"x0": jnp.zeros((n, 2, 2, 1)), "label": label}, apply_fn=spy, optimizer=optimizer, schedule=linear(),
        ema_decay=0.9, null={"label": 10}, condition_dropout=share,
    )  # fmt: skip
    for share in (0.0, 0.3):
        seen.clear()
        jax.block_until_ready(run(share))
        jax.effects_barrier()
        withheld = seen[0] == 10
        np.testing.assert_array_equal(seen[0][~withheld], label[~withheld])
        assert abs(withheld.mean() - share) <= 4 * np.sqrt(share * (1 - share) / n)  # four standard errors


class TestImageConditions:
    """The network of configs/demo_upscale.py in small: it is told each digit's 2x2 means."""

    @pytest.fixture
    def model(self):
        made = config(data=dict(degrade="half_size"))
        return configuration.make_model(made, random_params(made))

    @pytest.mark.slow
    def test_the_grid_of_a_run_is_drawn_for_its_first_images(self, model):
        made = config(data=dict(degrade="half_size"))
        (hook,) = configuration.make_hooks(made, configuration.make_task(made)._replace(hooks=()))
        real = to_float(sources.mnist_5k("train")[: made.sampling.count])
        means = real.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)).repeat(2, axis=1).repeat(2, axis=2)
        expected = model.sample(made.sampling.count, condition={"image": means}, steps=made.sampling.steps)
        found = hook.run(model.params)["samples"].astype(int)
        assert np.abs(found - grid(np.asarray(to_uint8(expected)))).max() <= 1  # of 255: rounding of another program
        other = model.sample(made.sampling.count, condition={"image": means[::-1]}, steps=made.sampling.steps)
        assert np.abs(found - grid(np.asarray(to_uint8(other)))).max() > 1  # it listens

    @pytest.mark.slow
    def test_guidance_withholds_the_image(self, model):
        """Ho & Salimans: weight 0 is the network that is told nothing, a null image. In one step, all weights lie on a line."""
        image = np.random.default_rng(0).uniform(-1, 1, (3, 28, 28, 1)).astype(np.float32)
        draw = lambda weight, image: model.sample(3, steps=1, guidance=weight, condition={"image": image})
        told, null = draw(1.0, image), draw(1.0, 0 * image)
        scale = np.abs(told).max()
        np.testing.assert_allclose(draw(0.0, image), null, rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose(draw(3.0, image), null + 3 * (told - null), rtol=1e-4, atol=1e-4 * scale)
        assert np.abs(told - null).max() > 1e-3 * scale


@pytest.mark.parametrize(
    "parts, message",
    [
        (dict(diffusion=dict(zero_terminal_snr=True)), "ends in pure noise .* from which eps tells nothing: predict 'v'"),
        (dict(diffusion=dict(prediction="y")), "config.diffusion.prediction is 'y'; expected one of eps, x0, v"),
        (dict(diffusion=dict(categories=2)), "config.diffusion.prediction is 'eps'; over categories a network predicts 'x0'"),
        (
            dict(diffusion=dict(prediction="v", zero_terminal_snr=True), training=dict(min_snr_gamma=5.0)),
            "gives the last step of a schedule with zero terminal SNR no weight",
        ),
        (
            dict(diffusion=dict(prediction="x0", categories=2), training=dict(min_snr_gamma=5.0)),
            "the loss over categories has no such weight",
        ),
        (dict(model=dict(num_classes=9)), "config.model.num_classes is 9, but 'mnist_5k' has 10 classes"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        train_config(config(**parts), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_labels_of_a_folder_are_its_subfolders(tmp_path):
    from PIL import Image

    for name in ("cat/1", "ant/2", "cat/0", "bee/deep/3"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28)).save(path)
    made = config(data=dict(name="folder", directory=str(tmp_path)), model=dict(num_classes=3))
    source = configuration.make_source(made)
    np.testing.assert_array_equal(source["label"], [0, 1, 2, 2])  # ant/2, bee/deep/3, cat/0, cat/1
    made.model.num_classes = 4
    with pytest.raises(ValueError, match="num_classes is 4, but 'folder' has 3 classes"):
        configuration.make_source(made)
