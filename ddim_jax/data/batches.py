"""Which examples each step trains on: a function of (seed, step) alone, so that a resumed run sees what it would have seen."""

import functools
import os
import threading
from collections.abc import Iterator

import numpy as np

from ddim_jax.common import extras
from ddim_jax.data import sources

_lock = threading.Lock()  # The threads of a stream come to a new epoch together, and one of them is to make its order.


@functools.lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def batch_indices(num_examples: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The examples of the batch at `step` (from 0): int64 [batch_size]. Every epoch is a new order of all examples.

    Batches run across the ends of epochs, so that no example is left out. Safe to use from several threads.
    """
    epochs, places = np.divmod(step * batch_size + np.arange(batch_size), num_examples)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        with _lock:
            order = _epoch_order(num_examples, seed, int(epoch))
        indices[epochs == epoch] = order[places[epochs == epoch]]
    return indices


def stream(
    source: sources.Arrays | sources.Source,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[sources.Arrays]:
    """The batches of steps start..stop-1, read ahead by threads: what `sources.take` makes of batch_size // count examples.

    The batch of a step holds the examples of `batch_indices` at that step, wherever the stream starts.

    source: the examples; threads ask for them, at most two batches a thread ahead.
    batch_size: how many examples a step takes in all.
    seed: of the order.
    start, stop: the first step, and the one before which the stream ends, from 0.
    shard: (index, count) gives the index-th of `count` equal parts of each batch, one for each process.
    Raises ValueError where `count` does not divide batch_size; the iterator raises what `sources.take` raises.
    """
    index, count = shard
    if batch_size % count:
        raise ValueError(f"a batch of {batch_size} cannot be divided among {count} processes; choose a multiple of {count}")
    grain = extras.require("grain", "tfds")
    num_examples = sources.num_examples(source)

    def load(step: int) -> sources.Arrays:
        return sources.take(source, np.split(batch_indices(num_examples, batch_size, seed, step), count)[index])

    threads = min(os.cpu_count() or 1, 16)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.range(start, stop).map(load).to_iter_dataset(options))
