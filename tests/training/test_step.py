"""The train step, without any mapping: its pieces against their formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddim_jax.data.images import to_float
from ddim_jax.diffusion import schedule as schedules
from ddim_jax.training import preparing
from ddim_jax.training.loop import train_steps
from ddim_jax.training.step import as_they_are, init_state, learning_rates, make_optimizer, train_step

SCHEDULE = schedules.linear()
FLIPPED = functools.partial(preparing.images, flip=True)
BATCH = jax.random.normal(jax.random.key(0), (16, 4, 4, 1))


def linear_network(params, x, step, condition, key):
    return params["scale"] * x + params["shift"] + params["time"] * step[:, None, None, None] / 1000


def make(**changes):
    params = {"scale": jnp.float32(0.1), "shift": jnp.float32(0.0), "time": jnp.float32(0.0)}
    optimizer = make_optimizer(learning_rate=1e-2, warmup_steps=10, grad_clip=1.0)
    options = dict(apply_fn=linear_network, optimizer=optimizer, schedule=SCHEDULE, ema_decay=0.9) | changes
    return init_state(params, optimizer, seed=3), jax.jit(functools.partial(train_step, **options))


def test_the_loss_falls():
    state, step = make()
    losses = []
    for _ in range(300):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    # Data ~ N(0, 1): the best network is eps* = sqrt(1 - a) x, whose loss is a (averaged over t); the linear one lies above.
    assert np.mean(losses[-50:]) < 0.75 * np.mean(losses[:10])
    assert np.mean(losses[-50:]) > SCHEDULE.alpha_bar[1:].mean()


def test_the_average_follows_its_formula():
    # decay = min(0.9, (1 + n) / (10 + n)) after the n-th step, from a copy of the first parameters.
    state, step = make()
    expected = float(state.ema["scale"])
    for n in range(1, 120):
        state, _ = step(state, BATCH)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * float(state.params["scale"])
    np.testing.assert_allclose(state.ema["scale"], expected, rtol=1e-5)


def test_warm_up_is_linear_and_steps_are_adams():
    # Adam's first update is the learning rate times the sign of the gradient, whatever its size; at step 0 the rate is 0.
    optimizer = make_optimizer(learning_rate=1.0, warmup_steps=4, grad_clip=1.0)
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    gradient = jnp.array([0.3, -0.4])
    rates = []
    for _ in range(6):
        update, state = optimizer.update(gradient, state, params)
        rates.append(-float(update[0]))
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.75, 1.0, 1.0], atol=1e-4)


def test_the_rate_falls_by_half_a_cosine_after_the_warm_up():
    """By its formula, rate (1 + cos(pi n / N)) / 2 at the n-th of N steps after the warm-up, and 0 from then on."""
    rate = learning_rates(0.5, warmup_steps=4, cosine_steps=24)
    after = 0.5 * (1 + np.cos(np.pi * np.arange(20) / 20)) / 2
    expected = [0, 0.125, 0.25, 0.375, *after, 0, 0]
    np.testing.assert_allclose([float(rate(step)) for step in range(26)], expected, atol=1e-7)


def test_a_batch_in_parts_is_the_same_step():
    """Gradients of 16 examples at once, and of 4 times 4: rounding apart (float32, sums of some hundred)."""
    (state, once), (_, in_parts) = make(), make(accumulate=4)
    for _ in range(5):
        (a, of_a), (_, of_b) = once(state, BATCH), in_parts(state, BATCH)
        np.testing.assert_allclose([of_b["loss"], of_b["grad_norm"]], [of_a["loss"], of_a["grad_norm"]], rtol=1e-5)
        state = a
    with pytest.raises(ValueError, match="accumulate is 3, which does not divide the 16 examples"):
        make(accumulate=3)[1](state, BATCH)


def test_a_batch_in_parts_takes_the_memory_of_a_part():
    """By the compiler's own account, for a layer whose activations are far larger than its parameters."""

    def network(params, x, step, condition, key):
        return jnp.mean(jnp.tanh(params * jnp.repeat(x, 500, axis=-1)) ** 2, -1, keepdims=True)

    optimizer = make_optimizer(1e-3)
    state, batch = init_state(jnp.ones(500), optimizer, 0), jnp.ones((64, 8, 8, 1))
    once, in_parts = (
        jax.jit(
            functools.partial(train_step, apply_fn=network, optimizer=optimizer, schedule=SCHEDULE, accumulate=parts)
        ).lower(state, batch).compile().memory_analysis().temp_size_in_bytes
        for parts in (1, 8)
    )  # fmt: skip
    assert in_parts < once / 4


def test_a_step_that_is_not_finite_is_skipped_where_asked():
    """It changes neither parameters nor Adam's moments, and the next one is as if it had not been."""
    optimizer = make_optimizer(1e-2, skip_nonfinite=True)
    params, good = jnp.array([1.0, 2.0]), jnp.array([0.3, -0.1])
    state = optimizer.init(params)
    updates, state = optimizer.update(good, state, params)
    nothing, after = optimizer.update(jnp.array([jnp.nan, 1.0]), state, params)
    np.testing.assert_array_equal(nothing, 0)
    again, _ = optimizer.update(good, after, params)
    straight, _ = optimizer.update(good, state, params)
    np.testing.assert_array_equal(again, straight)


def test_clipping_is_by_the_global_norm():
    # With gradients in proportion 3:4, a norm of 50 is clipped to 1: 0.6 and 0.8, which Adam's first moment keeps at 0.1.
    optimizer = make_optimizer(learning_rate=1.0, warmup_steps=1, grad_clip=1.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = optimizer.update({"a": jnp.array([30.0]), "b": jnp.array([40.0])}, optimizer.init(params), params)
    (moments,) = [s.mu for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
    np.testing.assert_allclose([moments["a"][0], moments["b"][0]], [0.06, 0.08], rtol=1e-5)


def test_a_step_is_a_function_of_state_and_batch():
    state, step = make()
    first, second = step(state, BATCH), step(state, BATCH)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    other, other_metrics = step(state._replace(seed=jnp.int32(4)), BATCH)
    assert other_metrics["loss"] != first[1]["loss"]  # another seed draws other steps and noise
    moments, other_moments = (jax.tree.leaves(end.opt_state) for end in (first[0], other))
    assert any(not np.array_equal(a, b) for a, b in zip(moments, other_moments))


def test_flipping_mirrors_about_half_of_the_images_from_left_to_right():
    """With a network that hands its input over, at a schedule without noise, what the step saw can be read off."""
    seen = []

    def spy(params, x, step, condition, key):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return params["scale"] * x

    nearly_clean = schedules.from_alpha_bar([1.0, 1.0 - 1e-12])
    batch = jnp.broadcast_to(jnp.arange(4, dtype=jnp.uint8)[None, None, :, None], (400, 2, 4, 1))
    state, step = make(apply_fn=spy, schedule=nearly_clean, prepare=FLIPPED)
    jax.block_until_ready(step(state, batch))
    jax.effects_barrier()
    kept, mirrored = (np.isclose(seen[0], to_float(x), atol=1e-4).all((1, 2, 3)) for x in (batch, batch[:, :, ::-1]))
    assert np.all(kept ^ mirrored)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)  # four standard errors


def test_the_gradient_is_that_of_the_loss_written_out():
    """One step of plain gradient descent on loss = mean |s x_t + b - eps|^2 moves b by -2 mean(s x_t + b - eps)."""
    seen = {}

    def spy(params, x, step, condition, key):
        jax.debug.callback(lambda x, step: seen.update(x=np.asarray(x), t=np.asarray(step) + 1), x, step)
        return params["scale"] * x + params["shift"]

    state, step = make(apply_fn=spy, optimizer=optax.sgd(1.0))
    state = state._replace(opt_state=optax.sgd(1.0).init(state.params))
    after, metrics = step(state, BATCH)
    jax.effects_barrier()
    a = SCHEDULE.alpha_bar[seen["t"]][:, None, None, None]
    eps = (seen["x"] - np.sqrt(a) * BATCH) / np.sqrt(1 - a)
    error = 0.1 * seen["x"] - eps
    np.testing.assert_allclose(metrics["loss"], np.mean(np.square(error)), rtol=1e-4)
    np.testing.assert_allclose(after.params["shift"], -2 * np.mean(error), rtol=1e-3, atol=1e-5)
    assert abs(np.std(eps) - 1) < 4 / np.sqrt(2 * eps.size)  # standard normal, within four standard errors
    assert seen["t"].min() >= 1 and seen["t"].max() <= 1000


def test_several_steps_in_one_call_are_single_steps_in_a_row():
    """Images are found by their index in the data set on the device, or are given themselves."""
    dataset = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
    indices = np.array([[3, 1, 4], [1, 5, 9]])
    state, step = make()
    expected, losses = state, []
    for chosen in indices:
        expected, metrics = step(expected, to_float(dataset[chosen]))
        losses.append(metrics["loss"])
    several = jax.jit(functools.partial(train_steps, step_fn=lambda state, batch, teacher: step(state, to_float(batch))))
    filled = indices[[0, 1, 1]]  # the last one fills up a call of three, and is not trained on
    for end, metrics in (several(state, dataset, None, filled, 2), several(state, None, None, dataset[filled], 2)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), end, expected)
        np.testing.assert_allclose(metrics["loss"][:2], losses, rtol=1e-5)
    before = several._cache_size()
    several(state, dataset, None, filled, 3)
    assert several._cache_size() == before  # a call of another length is the same program


@pytest.mark.parametrize("prepare, batch", [(as_they_are, BATCH), (FLIPPED, np.zeros((16, 4, 4, 1), np.uint8))])
def test_a_step_keeps_dtypes_and_shapes(prepare, batch):
    state, step = make(prepare=prepare)
    after, metrics = step(state, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
    assert int(after.step) == 1 and set(metrics) == {"loss", "grad_norm"}


def test_without_warm_up_and_clip_adam_takes_whole_steps():
    """0 leaves them out. Adam's first update is the rate times the sign of the gradient, even of one that a clip would cut."""
    optimizer = make_optimizer(learning_rate=0.5, warmup_steps=0, grad_clip=0.0)
    params = jnp.array([1.0, -2.0])
    updates, state = optimizer.update(jnp.array([30.0, -40.0]), optimizer.init(params), params)
    np.testing.assert_allclose(updates, [-0.5, 0.5], rtol=1e-4)  # its 1 - 0.999 is rounded in float32
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(state) if leaf.shape) > 1  # moments of all of it


def test_the_teacher_is_told_what_the_network_is_told():
    """Where a condition is withheld, it is withheld from both."""

    def difference(schedule, network, x0, t, keys, teacher):
        return network(x0, t)[:, 0, 0, 0] - teacher(x0, t)[:, 0, 0, 0]

    def network(params, x, step, condition, key):
        return params["scale"] * 0 + condition["label"][:, None, None, None] * jnp.ones_like(x)

    batch = {"x0": BATCH, "label": jnp.arange(16) % 10}
    state, step = make(apply_fn=network, loss_fn=difference, null={"label": 10}, condition_dropout=0.5)
    assert float(step(state, batch, teacher=state.params)[1]["loss"]) == 0


@pytest.mark.parametrize(
    "batch, changes, message",
    [
        (np.zeros((2, 4, 4, 1), np.uint8), {}, "the examples are of uint8, not of floating point; give `prepare`"),
        (BATCH, dict(condition_dropout=0.1), "condition_dropout is 0.1, but the examples have no condition"),
        (
            {"x0": BATCH, "label": jnp.arange(16)},
            dict(condition_dropout=0.1, null={"image": 0.0}),
            "'label' cannot be withheld: the network's `null` says for 'image' alone",
        ),
    ],
)
def test_examples_and_conditions_that_do_not_fit(batch, changes, message):
    state, step = make(**changes)
    with pytest.raises(ValueError, match=message):
        step(state, batch)
