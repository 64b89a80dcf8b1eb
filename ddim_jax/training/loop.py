"""The training loop: one compiled call of several steps, again and again, with its log, hooks and checkpoints."""

import contextlib
import functools
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddim_jax.common import files
from ddim_jax.common.devices import processor
from ddim_jax.common.holding import held
from ddim_jax.common.seeds import check_seed
from ddim_jax.data import batches, sources
from ddim_jax.training import rows
from ddim_jax.training.checkpoints import Checkpoints, copied, flat
from ddim_jax.training.log import Log
from ddim_jax.training.stalls import Stalls
from ddim_jax.training.step import TrainState, init_state, train_step
from ddim_jax.training.task import Task

AXIS = "devices"
MAPPINGS = ("pmap", "shard_map")
MOST_SKIPPED = 20  # steps in a row


class DivergedError(FloatingPointError):
    """The loss or the gradient is no longer a finite number."""


def train(
    task: Task,
    workdir: str | os.PathLike,
    *,
    steps: int,
    batch_size: int,
    seed: int = 0,
    steps_per_call: int = 1,
    log_every: int = 100,
    checkpoint_every: int = 1000,
    keep_every: int = 0,
    mapping: str = "pmap",
    about: Mapping[str, Any] = {},
    profile: tuple[int, int] | None = None,
    peak_rate: float | None = None,
) -> TrainState:
    """Trains a task in `workdir`, over all devices of all hosts, and goes on where an earlier run stopped.

    A run that was stopped at any moment ends with the same bits as one that was not. SIGTERM and SIGINT end it after the call
    at hand, with a checkpoint. Its folder holds checkpoints, metrics.jsonl, TensorBoard's files, and what the hooks draw. One
    process at a time may write there.

    task:             what is trained; see `Task`.
    workdir:          the folder of the run, which all hosts share, or a place in a bucket, gs://BUCKET/FOLDER.
    steps:            optimizer steps in all, those of earlier runs in this folder included.
    batch_size:       examples a step, over all devices, which must divide it.
    seed:             0 to 2**31 - 1; with the step, it decides all that is random.
    steps_per_call:   at most so many steps run in one compiled call, without a word from the host; a call ends earlier where
                      something is due. XLA for CPUs runs the gradients of convolutions 20 times slower in more than one.
    log_every:        the steps over which metrics are averaged for the log.
    checkpoint_every: the steps between checkpoints; the last step always has one. The newest two are kept,
    keep_every:       and each whose step this divides; 0 keeps no other.
    mapping:          what spreads a step over the devices, "pmap" or "shard_map"; see `mapped_steps`.
    about:            what describes the run, as JSON by name: written to NAME.json in its folder, and into its checkpoints.
    profile:          (first, last) steps of which a trace of host and devices is written to the folder `profile`; whole calls.
    peak_rate:        the steps a second at the peak of all devices; the log then has the share that is reached, as `mfu`.

    Returns the last state, on the host. Its `ema` is what one samples from.

    Raises ValueError for numbers that cannot work, before anything is written; for a checkpoint in `workdir` that is not of
    this task or seed; BlockingIOError where another process trains there; DamagedCheckpoint where no checkpoint is what was
    saved; DivergedError where loss or gradient is not finite, before anything of it is saved.
    """
    workdir = files.at(workdir)
    every = [log_every, checkpoint_every, *(hook.every for hook in task.hooks)]
    _check(task, steps, batch_size, seed, [steps_per_call, *every], mapping)
    if profile and files.in_bucket(workdir):
        raise ValueError(f"a trace cannot be written to the bucket of {workdir}: profile a few steps in a folder of this machine")
    leader = jax.process_index() == 0

    with (
        held(workdir) if leader else contextlib.nullcontext(),
        Checkpoints(workdir / "checkpoints", keep_every=keep_every) as checkpoints,
    ):
        init = functools.partial(first_state, task, seed)
        if not checkpoints.steps():
            state, notes = _on_host(init, task.initial), dict[str, Any]()
        else:
            state, notes = checkpoints.restore(jax.eval_shape(init))
            if int(state.seed) != seed:
                raise ValueError(f"the run in {workdir} has the seed {state.seed}, now it is {seed}: go on with the old one")
        if leader:
            checkpoints.check_room(flat(state)[0])
        start = int(state.step)
        state, teacher = on_every_device(state), on_every_device(task.teacher)
        dataset = on_every_device(rows.from_arrays(task.source)) if sources.in_memory(task.source) else None
        compiled = mapped_steps(task, mapping)
        ends = list(_call_ends(start, steps, steps_per_call, every))
        calls = _feed(task.source, batch_size, seed, start, ends, steps_per_call)
        for name, value in about.items() if leader else ():
            with files.whole(workdir / f"{name}.json") as part:
                part.write_text(json.dumps(value, indent=1) + "\n")
        begun = {"begun": notes["log"]} if "log" in notes else {}
        most_skipped = MOST_SKIPPED if task.skips_nonfinite else 0
        with (
            Log(workdir, start, steps, batch_size, leader, peak_rate, **begun) as log,
            Interruption() as interruption,
            Stalls() as stalls,
            contextlib.ExitStack() as tracing,
        ):
            batch, before, unsaved, skipped = next(calls, None), start, None, 0
            for step in ends:
                if profile and before + 1 <= profile[0] <= step:
                    tracing.enter_context(jax.profiler.trace(str(workdir / "profile")))
                state, metrics = compiled(state, dataset, teacher, batch, step - before)
                if unsaved:  # while the devices work
                    with log.timed("checkpoint_seconds"):
                        checkpoints.save(*unsaved)
                    unsaved = None
                with log.timed("data_seconds"):  # and the next batches are made
                    batch = next(calls, None)
                metrics = {name: values[: step - before] for name, values in jax.device_get(metrics).items()}
                if profile and step >= profile[1]:
                    tracing.close()
                stalls.call_ended()
                skipped = _check_finite(metrics, step, checkpoints.latest_step(), most_skipped, skipped)
                log.add(metrics)
                stop = interruption.asked or any(map(checkpoints.reached_preemption, range(before + 1, step + 1)))
                if step % log_every == 0:
                    rate = task.learning_rate and task.learning_rate(step - 1)
                    log.write(step, {} if rate is None else {"learning_rate": float(np.asarray(rate))})
                due = [hook for hook in task.hooks if step % hook.every == 0]
                if step % checkpoint_every == 0 or step == steps or stop:
                    with log.timed("checkpoint_seconds"):
                        log.publish()
                        unsaved = copied(state), {"log": log.notes(), **about}
                        if step == steps or stop or due:
                            checkpoints.save(*unsaved)
                            unsaved = None
                if stop:
                    break
                if due:
                    with log.untimed(), stalls.away():
                        params = jax.device_get(state.ema)
                        for hook in due:
                            results = hook.run(params)
                            log.write_results(step, results)
                            if hook.keep and leader:
                                hook.keep(step, params, results)
                before = step
    return jax.device_get(state)


def make_step(task: Task, axis_name: str | None = None) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step` for a task: (state, batch, teacher=None) -> (state, metrics), for this loop or one of your own."""
    return functools.partial(
        train_step,
        apply_fn=task.network.apply,
        optimizer=task.optimizer,
        schedule=task.schedule,
        loss_fn=task.loss,
        prepare=task.prepare,
        null=task.network.null,
        condition_dropout=task.condition_dropout,
        ema_decay=task.ema_decay,
        accumulate=task.accumulate,
        axis_name=axis_name,
    )


def mapped_steps(task: Task, mapping: str = "pmap", devices: Sequence[jax.Device] | None = None) -> Callable:
    """`train_steps` of a task, mapped: (state, dataset, teacher, batch [devices, K, B / devices, ...], count) as it takes them.

    mapping: "pmap", or "shard_map", which `jax.jit` compiles for a mesh of all devices: the same numbers.
    devices: all that share the work; None are all there are, of which each process hands over the batch of its own.
    """
    steps = functools.partial(train_steps, step_fn=make_step(task, AXIS))
    if mapping == "pmap":
        # The state carries no device axis: it is whole on each device.
        axes = (None, None, None, 0, None)
        return jax.pmap(steps, AXIS, in_axes=axes, out_axes=None, donate_argnums=0, devices=devices)

    def of_a_device(state: TrainState, dataset: Any, teacher: Any, batch: Any, count: jax.Array) -> tuple:
        return steps(state, dataset, teacher, jax.tree.map(lambda values: values[0], batch), count)

    mesh = Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))
    same, split = PartitionSpec(), PartitionSpec(AXIS)
    # Gradients are averaged by the step itself, as under pmap, and so are not to be made one by shard_map's own checks.
    mapped = jax.shard_map(of_a_device, mesh=mesh, in_specs=(same, same, same, split, same), out_specs=same, check_vma=False)
    compiled = jax.jit(mapped, donate_argnums=0)
    share = functools.partial(jax.make_array_from_process_local_data, NamedSharding(mesh, split))
    return lambda state, dataset, teacher, batch, count: compiled(state, dataset, teacher, jax.tree.map(share, batch), count)


def train_steps(state: TrainState, dataset: Any, teacher: Any, batch: Any, count: jax.Array, *, step_fn: Callable) -> tuple:
    """The first `count` of the K steps that batch [K, B, ...] is for, in one compiled call: the state, and metrics [K] each.

    A batch is examples, or where there is a `dataset` [N, ...] on the device (see `rows`), their indices in it. The count is an
    argument: calls of any length are one program.
    """

    def one(state: TrainState, entry: Any) -> tuple:
        examples = entry if dataset is None else rows.take(dataset, entry)
        return step_fn(state, examples, teacher=teacher)

    def at(i: Any) -> Any:
        return jax.tree.map(lambda values: values[i], batch)

    most = jax.tree.leaves(batch)[0].shape[0]
    if most == 1:
        state, metrics = one(state, at(0))
        return state, jax.tree.map(lambda value: value[None], metrics)

    def body(i: jax.Array, carry: tuple) -> tuple:
        state, metrics = carry
        state, new = one(state, at(i))
        return state, jax.tree.map(lambda values, value: values.at[i].set(value), metrics, new)

    _, shapes = jax.eval_shape(one, state, at(0))
    metrics = jax.tree.map(lambda value: jnp.zeros((most, *value.shape), value.dtype), shapes)
    return jax.lax.fori_loop(0, count, body, (state, metrics))


def _check(task: Task, steps: int, batch_size: int, seed: int, counts: Sequence[int], mapping: str) -> None:
    """Raises ValueError where the numbers of a run cannot work."""
    check_seed(seed)
    check_batch_size(batch_size)
    if min(steps, *counts) < 1:
        raise ValueError(
            f"steps is {steps}, and steps_per_call, log_every, checkpoint_every and `every` of the hooks are {list(counts)}; "
            "expected whole numbers of at least 1"
        )
    if mapping not in MAPPINGS:
        raise ValueError(f"mapping is {mapping!r}; expected one of {', '.join(MAPPINGS)}")
    if sources.num_examples(task.source) < 1:
        raise ValueError("the source holds no example")


def check_batch_size(batch_size: int, devices: int | None = None) -> None:
    """Raises ValueError unless it is a positive multiple of the number of devices; None are those that are here."""
    count = jax.device_count() if devices is None else devices
    if batch_size < 1 or batch_size % count:
        here, more = " here" if devices is None else "", max(1, -(-batch_size // count)) * count
        raise ValueError(f"batch_size is {batch_size}, which the {count} devices{here} do not divide; try {more}")


def first_state(task: Task, seed: int, params: Any = None) -> TrainState:
    """The state before the first step, of these parameters, or of what the network draws."""
    if params is None:
        one = jax.tree.map(jnp.asarray, sources.take(task.source, np.zeros(1, int)))
        shapes = jax.eval_shape(task.prepare, one, jax.random.split(jax.random.key(0), 1))
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        params = task.network.init(jax.random.key(seed), example)
    return init_state(params, task.optimizer, seed)


def _on_host(init: Callable[[Any], TrainState], params: Any) -> TrainState:
    """init(params), on the host and by code that is not optimised: it runs once, and compiles 4 times faster so."""
    with jax.default_device(processor()):
        return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(params)


def _call_ends(start: int, steps: int, most: int, every: Sequence[int]) -> Iterator[int]:
    """The step that each call ends at: after `most` steps, or where something is due."""
    step = start
    while step < steps:
        step = min(step + most, steps, *((step // n + 1) * n for n in every))
        yield step


def _feed(source: Any, batch_size: int, seed: int, start: int, ends: Sequence[int], most: int) -> Iterator[Any]:
    """What each call trains on: [devices, most, B / devices] indices, or examples [..., ...] where they are streamed.

    A call of fewer steps is filled up with its last batch, which is not trained on.
    """
    process, processes = jax.process_index(), jax.process_count()
    stop = ends[-1] if ends else start
    steps: Iterator[Any]
    if sources.in_memory(source):
        size = sources.num_examples(source)
        indices = (batches.batch_indices(size, batch_size, seed, step) for step in range(start, stop))
        steps = (np.split(each, processes)[process] for each in indices)
    else:
        steps = batches.stream(source, batch_size, seed, start, stop, shard=(process, processes))

    def by_device(*values: np.ndarray) -> np.ndarray:
        stacked = np.stack([*values, *values[-1:] * (most - len(values))])
        return stacked.reshape(most, jax.local_device_count(), -1, *stacked.shape[2:]).swapaxes(0, 1)

    for first, last in itertools.pairwise([start, *ends]):
        yield jax.tree.map(by_device, *itertools.islice(steps, last - first))


def on_every_device(tree: Any) -> Any:
    """A copy of each array on all devices, laid out as the mapped step returns its state: so it is compiled once, not twice."""
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(everywhere, np.array(array)), tree)


def _check_finite(metrics: dict[str, np.ndarray], step: int, kept: int | None, most: int, before: int) -> int:
    """The steps in a row up to `step`, at which a call ended, whose metrics are not finite; `before` it, there were so many.

    Raises DivergedError where they are more than `most`; `kept` is the last checkpoint's step.
    """
    count = before
    for at, values in enumerate(zip(*metrics.values()), step + 1 - len(metrics["loss"])):
        count = 0 if np.all(np.isfinite(values)) else count + 1
        if count > most:
            name = next(name for name, value in zip(metrics, values) if not np.isfinite(value))
            raise DivergedError(
                f"the {name} of step {at} is {metrics[name][at - step - 1]}"
                + (f", as in the {most} steps before, which were skipped" if most else "")
                + ": training has diverged. "
                + (f"The checkpoint of step {kept} is kept. " if kept else "No checkpoint was due yet. ")
                + "Try a smaller learning_rate, more warmup_steps or a smaller grad_clip, in a new folder."
            )
    return count


class Interruption:
    """Within this context the first SIGTERM or SIGINT sets `asked` and no more; the next one acts as ever.

    Not so where several processes train together: there JAX itself listens for SIGTERM, and they agree on the step to stop at
    (`Checkpoints.reached_preemption`).
    """

    def __enter__(self) -> "Interruption":
        self.asked, self._before = False, {}
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _ask(self, *_: Any) -> None:
        self.asked = True
        self.__exit__()

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
