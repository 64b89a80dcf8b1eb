"""The training loop: one compiled call of several steps, again and again, with its log, pictures and checkpoints."""

import functools
import itertools
import os
import pathlib
import signal
import threading
from typing import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddim_jax import configuration
from ddim_jax.data import batches, images, sources
from ddim_jax.training import checks
from ddim_jax.training.checkpoints import Checkpoints
from ddim_jax.training.log import Log
from ddim_jax.training.step import TrainState, init_state, make_optimizer, train_step

AXIS = "devices"


def train(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, draw: Callable, initial=None, loss_fn=None, given=None
) -> TrainState:
    """Trains what the configuration describes, in `workdir`, and returns the state; goes on where an earlier run stopped.

    `draw` makes a picture, uint8 [H, W, C], from the averaged parameters; it is called every `sample_every` steps. A new
    run begins with the parameters that `initial` () gives, or else with random ones, as the network draws them. The objective
    is the configuration's, or `loss_fn`, a `step.LossFn` that also takes the arrays `given`.
    SIGTERM and SIGINT end the run after the call at hand, with a checkpoint. Raises ValueError for a configuration that
    cannot work or is not that of the run in `workdir`, and DivergedError where the loss or gradient is not finite, before
    anything of it is saved.
    """
    workdir, run = pathlib.Path(workdir), config.training
    checks.check(config)
    # XLA for CPUs runs the gradients of convolutions 20 times slower in a loop than outside, so there each step is a call.
    steps_per_call = 1 if jax.default_backend() == "cpu" else run.steps_per_call
    init, step_fn = make_step(config, loss_fn)
    data = sources.load(config.data)
    labels = sources.labels(config.data, config.model.num_classes) if config.model.num_classes else None
    leader = jax.process_index() == 0

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.latest_step() is None:
            state = first_state(init, initial() if initial else None)
        else:
            checks.check_same(config, configuration.load(workdir / "config.json"), workdir)
            state = checkpoints.restore(jax.eval_shape(init))
        if leader:
            configuration.save(config, workdir / "config.json")
        start = int(state.step)
        state = on_every_device(state)
        dataset = on_every_device(data) if isinstance(data, np.ndarray) else None
        given = on_every_device(given)
        compiled = jax.pmap(
            functools.partial(train_steps, step_fn=step_fn),
            axis_name=AXIS,
            in_axes=(None, None, None, 0),  # the state carries no device axis: it is whole on each device
            out_axes=None,
            donate_argnums=0,
        )
        calls = feed(data, labels, run, start, steps_per_call)
        with Log(workdir, start, run.steps, run.batch_size, leader) as log, Interruption() as interruption:
            batch = next(calls, None)
            for step in range(start - start % steps_per_call + steps_per_call, run.steps + 1, steps_per_call):
                state, metrics = compiled(state, dataset, given, batch)
                batch = next(calls, None)  # the next batches are made while the devices work
                metrics = jax.device_get(metrics)
                checks.check_finite(metrics, step, checkpoints.latest_step())
                log.add(metrics)
                stop = interruption.asked or checkpoints.reached_preemption(step)
                if step % run.log_every == 0:
                    log.write(step)
                if step % run.checkpoint_every == 0 or step == run.steps or stop:
                    checkpoints.save(state)
                if step % run.sample_every == 0 and leader:
                    with log.untimed():
                        picture = draw(jax.device_get(state.ema))
                        images.save_png(workdir / "samples" / f"step_{step:07d}.png", picture)
                        log.image("samples", picture, step)
                if stop:
                    break
    return jax.device_get(state)


def train_steps(state: TrainState, dataset, given, batch, *, step_fn: Callable):
    """One step for each entry of batch [K, B, ...], in one compiled call: the state, and the metrics of each step [K].

    A batch is uint8 images, or where there is a `dataset` [N, H, W, C] on the device, their indices in it, and their labels
    or None.
    """

    def one(state, entry):
        image, label = entry
        return step_fn(state, images.to_float(image if dataset is None else dataset[image]), label, given)

    if len(batch[0]) == 1:
        state, metrics = one(state, jax.tree.map(lambda values: values[0], batch))
        return state, jax.tree.map(lambda value: value[None], metrics)
    return jax.lax.scan(one, state, batch)


def make_step(config: ml_collections.ConfigDict, loss_fn: Callable | None = None) -> tuple[Callable, Callable]:
    """What to compile: the first state, of the parameters to begin with (None: random ones), and (state, batch, label, given)
    -> (state, metrics), which is `train_step` for the configured network.
    """
    run, unet = config.training, configuration.make_unet(config)
    optimizer = make_optimizer(run.learning_rate, run.warmup_steps, run.grad_clip)

    def init(params=None):
        if params is None:
            x = jnp.zeros((1, *configuration.network_shape(config)))
            params = unet.init(jax.random.key(run.seed), x, jnp.zeros(1, jnp.int32))["params"]
        return init_state(params, optimizer, run.seed)

    def apply_fn(params, x, step, label, dropout_key):
        return unet.apply({"params": params}, x, step, label, train=True, rngs={"dropout": dropout_key})

    def step_fn(state, batch, label, given):
        return train_step(
            state,
            batch,
            label,
            apply_fn=apply_fn,
            optimizer=optimizer,
            schedule=configuration.make_schedule(config),
            loss_fn=functools.partial(loss_fn, given=given) if loss_fn else configuration.make_loss(config),
            ema_decay=run.ema_decay,
            flip=config.data.flip,
            no_label=config.model.num_classes,
            label_dropout=run.label_dropout,
            axis_name=AXIS,
        )

    return init, step_fn


def first_state(init: Callable[..., TrainState], initial) -> TrainState:
    """The first state, made on the host by code that is not optimised: it runs once, and compiles 4 times faster so."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the host out
        host = None
    with jax.default_device(host):
        return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(initial)


def feed(data, labels, run: ml_collections.ConfigDict, start: int, steps_per_call: int) -> Iterator[tuple]:
    """What each compiled call trains on, from step `start`: [devices, K, B / devices] indices, or [..., H, W, C] images where
    they are streamed, and their labels or None.
    """
    process, processes = jax.process_index(), jax.process_count()

    def indices():
        for step in range(start, run.steps):
            yield np.split(batches.batch_indices(len(data), run.batch_size, run.seed, step), processes)[process]

    if isinstance(data, np.ndarray):
        entries = indices()
    else:
        entries = batches.stream(data, run.batch_size, run.seed, start, run.steps, shard=(process, processes))
    steps = zip(entries, itertools.repeat(None) if labels is None else (labels[chosen] for chosen in indices()))

    def by_device(*values):
        stacked = np.stack(values)
        return stacked.reshape(len(values), jax.local_device_count(), -1, *stacked.shape[2:]).swapaxes(0, 1)

    size = steps_per_call - start % steps_per_call  # calls end at multiples, wherever an earlier run stopped
    while call := list(itertools.islice(steps, size)):
        yield jax.tree.map(by_device, *call)
        size = steps_per_call


def on_every_device(tree):
    """A copy of each array on all devices, laid out as the mapped step returns its state: so it is compiled once, not twice."""
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(everywhere, np.array(array)), tree)


class Interruption:
    """Within this context the first SIGTERM or SIGINT sets `asked` and no more; the next one acts as ever.

    Not so where several processes train together: there JAX itself listens for SIGTERM, and they agree on the step to stop at
    (`Checkpoints.reached_preemption`).
    """

    def __enter__(self):
        self.asked, self._before = False, {}
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _ask(self, *_):
        self.asked = True
        self.__exit__()

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
