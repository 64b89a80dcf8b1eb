"""Batches are a function of (seed, step) alone. Oracles: counting, and direct indexing of an array."""

import concurrent.futures

import numpy as np
import pytest

from ddim_jax.data import batches, sources
from ddim_jax.data.batches import batch_indices, stream


def images(count):
    """uint8 [count, 4, 5, 3], every image different."""
    return np.arange(count * 60).reshape(count, 4, 5, 3).astype(np.uint8) ^ np.arange(count, dtype=np.uint8)[:, None, None, None]


@pytest.mark.parametrize("num_examples, batch_size", [(12, 4), (10, 4), (7, 7), (5, 12), (1, 3)])
def test_every_epoch_visits_each_example_once(num_examples, batch_size):
    seen = np.concatenate([batch_indices(num_examples, batch_size, 0, step) for step in range(3 * num_examples)])
    for epoch in range(len(seen) // num_examples):
        assert sorted(seen[epoch * num_examples : (epoch + 1) * num_examples]) == list(range(num_examples))


def test_a_batch_is_a_function_of_seed_and_step():
    there = [batch_indices(1000, 64, 3, step) for step in range(40)]
    batches._epoch_order.cache_clear()
    for step in reversed(range(40)):
        np.testing.assert_array_equal(batch_indices(1000, 64, 3, step), there[step])
    assert there[0].dtype == np.int64 and there[0].shape == (64,)


def test_seeds_and_epochs_differ():
    orders = [tuple(batch_indices(100, 100, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_threads_make_an_order_once():
    batches._epoch_order.cache_clear()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda step: batch_indices(100_000, 32, 0, step), range(100)))
    assert batches._epoch_order.cache_info().misses == 1
    np.testing.assert_array_equal(found[50], batch_indices(100_000, 32, 0, 50))


def test_stream_is_direct_indexing():
    data = images(50)
    found = list(stream(data, 8, 1, 0, 30))
    assert len(found) == 30 and found[0].dtype == np.uint8
    for step, batch in enumerate(found):
        np.testing.assert_array_equal(batch, data[batch_indices(50, 8, 1, step)])


def test_a_resumed_stream_goes_on_with_the_same_batches():
    data = images(30)
    np.testing.assert_array_equal(list(stream(data, 4, 0, 0, 20))[13:], list(stream(data, 4, 0, 13, 20)))
    assert list(stream(data, 4, 0, 20, 20)) == []


def test_shards_join_to_the_whole_batch():
    data = images(30)
    parts = [np.stack(list(stream(data, 6, 0, 2, 9, shard=(i, 3)))) for i in range(3)]
    assert parts[0].shape == (7, 2, 4, 5, 3)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), list(stream(data, 6, 0, 2, 9)))


def test_stream_reads_ahead_a_few_batches_only(monkeypatch):
    monkeypatch.setattr(batches.os, "cpu_count", lambda: 2)
    reads = []

    class Counting(list):
        def __getitem__(self, i):
            reads.append(i)
            return np.zeros((2, 2, 1), np.uint8)

    steps = stream(Counting([0] * 10), 5, 0, 0, 1000)
    for _ in range(10):
        next(steps)
    assert 10 * 5 <= len(reads) <= (10 + 4 + 2) * 5  # taken, in the buffer, in the hands of the two threads


def test_streams_of_dicts_are_direct_indexing_of_each_array():
    data = {"image": images(20), "label": np.arange(20, dtype=np.int32)}
    one_by_one = sources.Labelled(list(data["image"]), data["label"])
    for source in (data, one_by_one):
        parts = [list(stream(source, 6, 1, 3, 9, shard=(i, 2))) for i in range(2)]
        for step in range(6):
            expected = batch_indices(20, 6, 1, 3 + step)
            for name in data:
                joined = np.concatenate([part[step][name] for part in parts])
                np.testing.assert_array_equal(joined, data[name][expected])
                assert joined.dtype == data[name].dtype


def test_the_order_of_old_runs_stays():
    # What NumPy's generator, which keeps its streams, gives for (seed, epoch); old runs resume by it.
    orders = [np.random.default_rng((7, epoch)).permutation(10) for epoch in range(2)]
    np.testing.assert_array_equal(batch_indices(10, 8, 7, 1), np.concatenate([orders[0][8:], orders[1][:6]]))


def test_errors():
    with pytest.raises(ValueError, match="batch of 10 cannot be divided among 4 processes"):
        stream(images(20), 10, 0, 0, 1, shard=(0, 4))

    class Damaged(list):
        def __getitem__(self, i):
            raise ValueError("photo.png cannot be read")

    with pytest.raises(ValueError, match="photo.png"):
        next(stream(Damaged([0] * 10), 2, 0, 0, 5))
