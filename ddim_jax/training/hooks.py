"""What is done now and then in a run; see `task.Hook`. The grid of samples is `inference.pictures.sample_grid`."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddim_jax.common.devices import LocalDevices
from ddim_jax.common.seeds import stream
from ddim_jax.data import sources
from ddim_jax.diffusion.losses import stratified_steps
from ddim_jax.diffusion.process import number_from_zero
from ddim_jax.training.task import Task


def held_out_loss(
    task: Task, source: Any, *, num_examples: int = 1024, batch_size: int = 256, seed: int = 0
) -> Callable[[Any], dict[str, float]]:
    """The loss on examples that are not trained on, always at the same t and noise: comparable from step to step.

    Example i is taken at the i-th of num_examples even steps t, in an order that the seed shuffles. Hosts share the work.

    task:         its network, schedule, loss, `prepare` and teacher are what is asked; without dropout, all conditions told.
    source:       held-out examples, of the kind of task.source.
    num_examples: how many of them, from the first on; fewer where there are not so many.
    batch_size:   how many at once on a host, in batches that its devices divide.
    seed:         of t, noise and what `prepare` draws.

    Returns what a `Hook` runs: parameters -> {"held_out_loss": their mean loss}.
    """
    count = min(num_examples, sources.num_examples(source))
    order_key, uniform_key, noise_key, prepare_key = jax.random.split(stream(seed, "held-out loss"), 4)
    place = jax.random.permutation(order_key, count)
    steps = np.asarray(stratified_steps(jax.random.uniform(uniform_key), place, count, task.schedule.num_steps))
    devices, size = LocalDevices(), min(batch_size, count)

    @jax.jit
    def loss(params: Any, teacher: Any, examples: Any, index: jax.Array, t: jax.Array) -> jax.Array:
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        x0, condition = task.prepare(examples, fold(prepare_key, index))

        def network(params: Any) -> Callable:
            return number_from_zero(lambda x, step: task.network.apply(params, x, step, condition, None))

        asked = {} if teacher is None else {"teacher": network(teacher)}
        return task.loss(task.schedule, network(params), x0, t, fold(noise_key, index), **asked)

    def run(params: Any) -> dict[str, float]:
        mine = np.array_split(np.arange(count), jax.process_count())[jax.process_index()]
        params, teacher = devices.everywhere((params, task.teacher))
        total = 0.0
        for first in range(0, len(mine), size):
            chosen = mine[first : first + size]
            padded = np.resize(chosen, size)  # of one size, so that it is compiled once
            rows = devices.split((sources.take(source, padded), padded, steps[padded]))
            total += float(np.sum(np.asarray(loss(params, teacher, *rows), np.float64)[: len(chosen)]))
        return {"held_out_loss": float(np.sum(multihost_utils.process_allgather(np.array([total])))) / count}

    return run
