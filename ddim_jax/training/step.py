"""One optimizer step, as a pure function of the state and a batch of examples."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddim_jax.diffusion.losses import drawn_loss, stratified_steps
from ddim_jax.diffusion.process import EpsFn, number_from_zero
from ddim_jax.diffusion.schedule import Schedule
from ddim_jax.models.network import Condition, Example, withheld

# (params, x [B, ...], step [B] from 0, condition, key or None) -> the network's output [B, ...]; see `models.network`
ApplyFn = Callable[[Any, jax.Array, jax.Array, Condition, jax.Array | None], jax.Array]
# (schedule, network (x, t), x0 [B, ...], t [B], keys [B]) -> the loss of each example [B]; where there is a teacher, it is
# handed over as the keyword `teacher`, a network (x, t) too
LossFn = Callable[..., jax.Array]
# (examples as the source gives them, stacked [B, ...]; keys [B], for what is random in an example) -> what the objective sees
Prepare = Callable[[Any, jax.Array], Example]


class TrainState(NamedTuple):
    """Everything that the next step depends on, besides its batch."""

    step: jax.Array  # int32 scalar: optimizer steps taken
    params: Any
    ema: Any  # exponential moving average of params, what one samples from
    opt_state: optax.OptState
    seed: jax.Array  # int32 scalar: with the step, it decides all that is random; never changes


def init_state(params: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step; the average starts as a copy of the parameters."""
    copy = jax.tree.map(jnp.array, params)
    return TrainState(jnp.int32(0), params, copy, optimizer.init(params), jnp.int32(seed))


def learning_rates(learning_rate: float, warmup_steps: int = 0, cosine_steps: int = 0) -> optax.Schedule:
    """The learning rate at each step from 0: it rises evenly from 0 to learning_rate over warmup_steps; 0 of them: at once.

    Then it stays, or falls by half a cosine, to reach 0 at step cosine_steps, where that is not 0.
    """
    rise = optax.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else lambda step: learning_rate
    if not cosine_steps:
        return rise
    return optax.join_schedules([rise, optax.cosine_decay_schedule(learning_rate, cosine_steps - warmup_steps)], [warmup_steps])


def make_optimizer(
    learning_rate: float, warmup_steps: int = 0, grad_clip: float = 0.0, cosine_steps: int = 0, skip_nonfinite: bool = False
) -> optax.GradientTransformation:
    """Adam at `learning_rates`, after clipping by the global norm (DDPM appendix B and its code); 0 leaves each of them out.

    skip_nonfinite: whether a step whose gradient is not finite leaves the parameters and Adam's state as they are.
    """
    varies = warmup_steps or cosine_steps  # a number needs no state of its own
    rate = learning_rates(learning_rate, warmup_steps, cosine_steps) if varies else learning_rate
    made = optax.chain(optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity(), optax.adam(rate))
    return optax.apply_if_finite(made, max_consecutive_errors=np.iinfo(np.int32).max) if skip_nonfinite else made


def as_they_are(examples: Any, keys: jax.Array) -> Example:
    """Examples that need no preparing: floating-point arrays [B, ...], or a dict of "x0" [B, ...] and its conditions.

    Raises ValueError for an x0 that is not of floating point.
    """
    x0, condition = (examples["x0"], dict(examples)) if isinstance(examples, Mapping) else (examples, {})
    condition.pop("x0", None)
    if not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(
            f"the examples are of {x0.dtype}, not of floating point; give `prepare`, which makes x0 of them "
            "(for images uint8, `training.preparing.images`)"
        )
    return Example(x0, condition)


def train_step(
    state: TrainState,
    batch: Any,
    *,
    apply_fn: ApplyFn,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    loss_fn: LossFn = drawn_loss,
    prepare: Prepare = as_they_are,
    teacher: Any = None,
    null: Mapping[str, Any] = {},
    condition_dropout: float = 0.0,
    ema_decay: float = 0.9999,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: the objective of Eq. 5 at random t, its gradient, the optimizer, and the average of the parameters.

    What is drawn for an example (t, noise, the keys of `prepare`, whether its condition is withheld) depends on the seed, the
    step and its place in the whole batch, and so not on how many devices share the work. `apply_fn`'s key, for dropout, is of
    the device.

    state:             before the step.
    batch:             examples [B, ...], a tree of arrays. Mapped over an axis `axis_name`, one device's share of them.
    apply_fn:          the network; see `models.network`.
    optimizer:         of optax, the one that the state was made with.
    schedule:          the noise schedule; t is drawn from 1..T.
    loss_fn:           the objective, one value an example.
    prepare:           from the batch to x_0 and its condition.
    teacher:           parameters of a second network of the same `apply_fn`, asked with the same condition, for a loss that
                       takes one.
    null:              of each condition, the value that stands for "not told".
    condition_dropout: the probability in [0, 1) with which an example's condition is withheld, all of it at once.
    ema_decay:         of the average, in [0, 1], once it is old: after n steps it is at most (1 + n) / (10 + n).
    accumulate:        the parts of the batch, taken one after the other, whose gradients are averaged: the same step, but for
                       rounding and dropout's keys, in the memory of one part.
    axis_name:         of a pmap or shard_map around this function, over whose devices gradients are averaged.

    Returns the state after the step, and its metrics `loss` and `grad_norm`, scalars.

    Raises ValueError where conditions are to be withheld and there are none, or one has no null, and where `accumulate` does
    not divide a device's share.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    position, batch_size = jnp.arange(size), size
    if axis_name is not None:
        position += jax.lax.axis_index(axis_name) * size
        batch_size *= jax.lax.axis_size(axis_name)
    step_key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    t_key, noise_key, dropout_key, prepare_key, withhold_key = jax.random.split(step_key, 5)

    def by_example(key: jax.Array) -> jax.Array:  # [B]
        return jax.vmap(jax.random.fold_in, (None, 0))(key, position)

    x0, condition = prepare(batch, by_example(prepare_key))
    if condition_dropout:
        condition = _drop(condition, null, by_example(withhold_key), condition_dropout)
    t = stratified_steps(jax.random.uniform(t_key), position, batch_size, schedule.num_steps)

    def loss_and_gradient(part: tuple) -> tuple[jax.Array, Any]:
        x0, condition, t, keys, position = part

        def network(params: Any, key: jax.Array | None) -> EpsFn:
            return number_from_zero(lambda x, step: apply_fn(params, x, step, condition, key))

        def mean_loss(params: Any) -> jax.Array:
            asked = {} if teacher is None else {"teacher": network(teacher, None)}
            return loss_fn(schedule, network(params, jax.random.fold_in(dropout_key, position[0])), x0, t, keys, **asked).mean()

        return jax.value_and_grad(mean_loss)(state.params)

    loss, grads = _mean_of_parts(loss_and_gradient, (x0, condition, t, by_example(noise_key), position), accumulate)
    if axis_name is not None:
        loss, grads = jax.lax.pmean((loss, grads), axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))  # a young average forgets its random start
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    return TrainState(step, params, ema, opt_state, state.seed), {"loss": loss, "grad_norm": optax.tree.norm(grads)}


def _mean_of_parts(fn: Callable[[Any], Any], rows: Any, parts: int) -> Any:
    """The mean of fn over equal parts of arrays [B, ...], taken one after the other."""
    if parts == 1:
        return fn(rows)
    size = len(jax.tree.leaves(rows)[0])
    if size % parts:
        raise ValueError(f"accumulate is {parts}, which does not divide the {size} examples of a device")
    by_part = jax.tree.map(lambda a: a.reshape(parts, size // parts, *a.shape[1:]), rows)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(fn, jax.tree.map(lambda a: a[0], by_part)))
    total, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, fn(part)), None), zeros, by_part)
    return jax.tree.map(lambda a: a / parts, total)


def _drop(condition: Condition, null: Mapping[str, Any], keys: jax.Array, probability: float) -> dict[str, jax.Array]:
    """The condition, of each example withheld with this probability."""
    if not condition:
        raise ValueError(f"condition_dropout is {probability}, but the examples have no condition that could be withheld")
    drop = jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)
    rows = {name: jnp.reshape(drop, drop.shape + (1,) * (np.ndim(value) - 1)) for name, value in condition.items()}
    nothing = withheld(condition, null)
    return {name: jnp.where(rows[name], nothing[name], value) for name, value in condition.items()}
