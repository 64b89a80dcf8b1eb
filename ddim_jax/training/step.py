"""One optimizer step, as a pure function of the state and a batch of images."""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddim_jax.diffusion.losses import drawn_loss, stratified_steps
from ddim_jax.diffusion.process import number_from_zero
from ddim_jax.diffusion.schedule import Schedule

# (params, x [B, ...], step [B] from 0, label [B] or None, dropout key) -> the network's output [B, ...]
ApplyFn = Callable[[Any, jax.Array, jax.Array, jax.Array | None, jax.Array], jax.Array]
# (schedule, network (x, t), x0 [B, ...], t [B], keys [B], label [B] or None, which network has been told) -> the loss of each
# example [B]; see `configuration.make_loss`
LossFn = Callable[[Schedule, Callable, jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


class TrainState(NamedTuple):
    """Everything that the next step depends on, besides its batch."""

    step: jax.Array  # int32 scalar: optimizer steps taken
    params: Any
    ema: Any  # exponential moving average of params, what one samples from
    opt_state: optax.OptState
    seed: jax.Array  # int32 scalar: with the step, it decides all that is random; never changes


def init_state(params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step; the average starts as a copy of the parameters."""
    copy = jax.tree.map(jnp.array, params)
    return TrainState(jnp.int32(0), params, copy, optimizer.init(params), jnp.int32(seed))


def make_optimizer(learning_rate: float, warmup_steps: int, grad_clip: float) -> optax.GradientTransformation:
    """Adam with linear warm-up, after clipping by the global norm (DDPM appendix B and its code); 0 leaves either out."""
    rate = optax.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else learning_rate
    return optax.chain(optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity(), optax.adam(rate))


def train_step(
    state: TrainState,
    batch: jax.Array,
    label: jax.Array | None = None,
    *,
    apply_fn: ApplyFn,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    loss_fn: LossFn = drawn_loss,
    ema_decay: float,
    flip: bool = False,
    no_label: int = 0,
    label_dropout: float = 0.0,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on images [B, H, W, C] in [-1, 1]: the new state, and its metrics `loss` and `grad_norm` (scalars).

    With `flip`, each image is mirrored left to right with probability 1/2. A `label` [B], the class of each image, is
    replaced by `no_label` with probability `label_dropout`. Wrapped in a mapping with axis `axis_name`, `batch` is one
    device's share: what is drawn for an example (flip, t, noise, label) depends on its place in the whole batch, and so not on
    how many devices share the work. Dropout is drawn for a device.
    """
    position, batch_size = jnp.arange(len(batch)), len(batch)
    if axis_name is not None:
        position += jax.lax.axis_index(axis_name) * batch_size
        batch_size *= jax.lax.axis_size(axis_name)
    step_key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    t_key, noise_key, dropout_key, flip_key, label_key = jax.random.split(step_key, 5)

    def happens(key, probability):  # [B], drawn for each example
        return jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), probability))(position)

    if flip:
        batch = jnp.where(happens(flip_key, 0.5)[:, None, None, None], batch[:, :, ::-1], batch)
    if label is not None:
        label = jnp.where(happens(label_key, label_dropout), no_label, label)
    t = stratified_steps(jax.random.uniform(t_key), position, batch_size, schedule.num_steps)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(noise_key, position)
    dropout_key = jax.random.fold_in(dropout_key, position[0])

    def mean_loss(params):
        network = number_from_zero(lambda x, step: apply_fn(params, x, step, label, dropout_key))
        return loss_fn(schedule, network, batch, t, keys, label).mean()

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    if axis_name is not None:
        loss, grads = jax.lax.pmean((loss, grads), axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))  # a young average forgets its random start
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    return TrainState(step, params, ema, opt_state, state.seed), {"loss": loss, "grad_norm": optax.tree.norm(grads)}
