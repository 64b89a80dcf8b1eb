"""Hooks: the loss on held-out examples against a plain loop over them, and how hosts share the work."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

from ddim_jax.data.images import grid, to_uint8
from ddim_jax.diffusion import losses, schedule, solvers
from ddim_jax.inference import pictures
from ddim_jax.inference.generate import Generator
from ddim_jax.models.network import Network
from ddim_jax.training.hooks import held_out_loss
from ddim_jax.training.task import Task

SCHEDULE = schedule.linear()
COUNT = 37
HELD_OUT = {  # the label of example i is i, so that it can be told which one was seen
    "x0": np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32),
    "label": np.arange(COUNT),
}


class Spied:
    """A task that remembers what its network and its loss are asked."""

    def __init__(self):
        self.seen, self.keys = {}, []
        self.task = Task(Network(lambda key, example: 0.0, self.apply), SCHEDULE, HELD_OUT, optax.sgd(0.1), self.loss)

    def apply(self, params, x, step, condition, key):
        self.keys.append(key)
        jax.debug.callback(self.remember, condition["label"], step)
        return params * x

    def remember(self, label, step):
        self.seen |= dict(zip(label.tolist(), (step + 1).tolist()))

    def loss(self, schedule, network, x0, t, keys):
        return losses.drawn_loss(schedule, network, x0, t, keys)


def by_a_plain_loop(t, keys, params):
    """Mean of |c x_t - eps|^2 over the examples one by one, in float64, at t [N] and the noise of keys [N]."""
    found = []
    for x0, step, key in zip(HELD_OUT["x0"], t, keys):
        eps = np.asarray(jax.random.normal(key, x0.shape), np.float64)
        a = SCHEDULE.alpha_bar[step]
        found.append(np.mean((params * (np.sqrt(a) * x0 + np.sqrt(1 - a) * eps) - eps) ** 2))
    return np.mean(found)


def test_it_is_the_loss_of_a_plain_loop_at_even_steps():
    spied = Spied()
    keys = {}

    def remember(x0, data):
        keys.update({row.tobytes(): each for row, each in zip(x0, data)})

    def loss(schedule, network, x0, t, given):
        jax.debug.callback(remember, x0, jax.random.key_data(given))
        return losses.drawn_loss(schedule, network, x0, t, given)

    run = held_out_loss(spied.task._replace(loss=loss), HELD_OUT, batch_size=16)
    found = run(np.float32(0.3))["held_out_loss"]
    jax.effects_barrier()
    t = [spied.seen[i] for i in range(COUNT)]  # of each example, all conditions told
    # One in each of COUNT even parts of 1..T, in another order than that of the examples.
    assert np.all(np.abs(np.diff(np.sort(t)) - 1000 / COUNT) <= 1) and np.any(np.diff(t) < 0)
    assert spied.keys == [None]  # no dropout; and one program, also for the last batch of 5
    noise = jax.random.wrap_key_data(np.array([keys[x0.tobytes()] for x0 in HELD_OUT["x0"]]))
    assert len(np.unique(jax.random.key_data(noise), axis=0)) == COUNT
    np.testing.assert_allclose(found, by_a_plain_loop(t, noise, 0.3), rtol=1e-5)
    assert run(np.float32(0.3))["held_out_loss"] == found  # at any step of a run: nothing is drawn anew


@pytest.fixture(scope="module")
def task():
    return Spied().task


@pytest.mark.parametrize("batch_size", [1, 10, 37, 256])
def test_batches_of_any_size_and_a_source_that_streams_give_the_same(task, batch_size):
    class Stream:
        __len__ = lambda self: COUNT
        __getitem__ = lambda self, i: {name: rows[i] for name, rows in HELD_OUT.items()}

    whole = held_out_loss(task, HELD_OUT, batch_size=COUNT)(np.float32(0.3))["held_out_loss"]
    found = held_out_loss(task, Stream(), batch_size=batch_size)(np.float32(0.3))["held_out_loss"]
    np.testing.assert_allclose(found, whole, rtol=1e-6)


def test_as_many_examples_as_are_asked_for(task):
    """The first five, at five even steps."""
    five = jax.tree.map(lambda rows: rows[:5], HELD_OUT)
    assert held_out_loss(task, HELD_OUT, num_examples=5)(0.3) == held_out_loss(task, five)(0.3)
    assert held_out_loss(task, HELD_OUT, seed=1)(0.3) != held_out_loss(task, HELD_OUT)(0.3)


def test_a_teacher_is_asked_as_in_training(task):
    """With the difference of both as the loss: (params - teacher)^2 times the mean square of x_t, 0 for equal ones."""

    def loss(schedule, network, x0, t, keys, teacher):
        return jnp.mean((network(x0, t) - teacher(x0, t)) ** 2, axis=1)

    taught = task._replace(loss=loss, teacher=np.float32(0.5))
    run = held_out_loss(taught, HELD_OUT)
    np.testing.assert_allclose(run(np.float32(0.3))["held_out_loss"], 0.04 * np.mean(HELD_OUT["x0"] ** 2), rtol=1e-5)
    assert run(np.float32(0.5))["held_out_loss"] == 0


class Hosts:
    """Several hosts played one after the other in this process: what each gives to `process_allgather`, and all of it."""

    def __init__(self, monkeypatch, count):
        self.monkeypatch, self.count = monkeypatch, count

    def each(self, run):
        """The result of run() on every host, and what each had to share."""
        shares = []
        for index in range(self.count):
            with self.monkeypatch.context() as patch:
                patch.setattr(jax, "process_count", lambda: self.count)
                patch.setattr(jax, "process_index", lambda index=index: index)
                patch.setattr(multihost_utils, "process_allgather", lambda share: shares.append(share) or share)
                try:
                    run()
                except ValueError:  # of a share that is not the whole
                    pass
        results = []
        for index in range(self.count):
            with self.monkeypatch.context() as patch:
                patch.setattr(jax, "process_count", lambda: self.count)
                patch.setattr(jax, "process_index", lambda index=index: index)
                patch.setattr(multihost_utils, "process_allgather", lambda share: np.stack(shares))
                results.append(run())
        return results, shares


@pytest.mark.parametrize("count", [2, 3, 40])  # 40: more hosts than examples
def test_hosts_share_the_held_out_examples(task, monkeypatch, count):
    run = held_out_loss(task, HELD_OUT, batch_size=8)
    alone = run(np.float32(0.3))["held_out_loss"]
    results, shares = Hosts(monkeypatch, count).each(lambda: run(np.float32(0.3)))
    np.testing.assert_allclose([result["held_out_loss"] for result in results], alone, rtol=1e-6)
    assert len(shares) == count and np.sum(np.ravel(shares) > 0) == min(count, COUNT)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 7])  # five images, which none of them divides; 7: more hosts than images
def test_hosts_share_the_grid_of_samples(monkeypatch, count):
    network = Network(
        lambda key, example: 0.3, lambda params, x, step, condition, key: params * x + condition["label"][:, None, None, None]
    )
    generator = Generator(network, SCHEDULE, (4, 6, 1))
    table = solvers.ddim(SCHEDULE, schedule.subsequence(1000, 2, "trailing"))
    label = {"label": np.linspace(-0.1, 0.1, 5).astype(np.float32)}
    run = pictures.sample_grid(generator, table, 0, 5, label)
    x, _ = generator.latents(0, np.arange(5))
    expected = grid(np.asarray(to_uint8(generator.sample(np.float32(0.3), table, x, condition=label))))
    np.testing.assert_array_equal(run(np.float32(0.3))["samples"], expected)
    results, shares = Hosts(monkeypatch, count).each(lambda: run(np.float32(0.3)))
    for result in results:
        np.testing.assert_array_equal(result["samples"], expected)
    assert [len(share) for share in shares] == [-(-5 // count)] * count  # no host draws all of them
