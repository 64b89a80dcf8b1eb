"""Run by test_anywhere.py in a process of its own with several devices: samplers inside `jax.shard_map` with its checks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ddim_jax.diffusion import discrete, sampling
from ddim_jax.diffusion.process import from_eps
from ddim_jax.diffusion.schedule import linear, subsequence
from ddim_jax.diffusion.solvers import ddim, plms

SCHEDULE, TAU = linear(), subsequence(1000, 4, "trailing")
MESH = Mesh(np.array(jax.devices()), ("batch",))
EACH, ALL = PartitionSpec("batch"), PartitionSpec()
x, keys = jax.random.normal(jax.random.key(0), (4, 3)), jax.random.split(jax.random.key(1), 4)
one_hot = discrete.noise(keys, (3,), 5)
rows = np.array([1, 3])
assert len(jax.devices()) == 2


def gaussian(run, weight, table, x, keys):
    return run(from_eps(SCHEDULE, lambda x, t: weight * jnp.sin(x)), table, x, keys)


def categorical(run, weight, table, x, keys):
    return run(lambda x, t: jax.nn.softmax(weight * x + t[:, None, None] / 1000), table, x, keys)


def same(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), a, b)


def kept(run, rows):
    return lambda f, table, x, keys: run(f, table, x, keys, lambda step: (step.x, step.x0), rows)


records = (EACH, (PartitionSpec(None, "batch"),) * 2)
cases = {
    "sample": (gaussian, sampling.sample, ddim(SCHEDULE, TAU, 0.7), x, EACH),
    "history": (gaussian, sampling.sample, plms(SCHEDULE, TAU), x, EACH),
    "run": (gaussian, kept(sampling.run, None), ddim(SCHEDULE, TAU, 0.7), x, records),
    "rows": (gaussian, kept(sampling.run, rows), plms(SCHEDULE, TAU), x, records),
    "discrete": (categorical, discrete.sample, discrete.table(SCHEDULE, TAU, 0.3), one_hot, EACH),
    "discrete rows": (categorical, kept(discrete.run, rows), discrete.table(SCHEDULE, TAU, 0.3), one_hot, records),
}
for name, (family, run, table, start, out) in cases.items():
    whole = functools.partial(family, run)
    arguments = (jnp.float32(0.5), table, start, keys)
    split = jax.shard_map(whole, mesh=MESH, in_specs=(ALL, ALL, EACH, EACH), out_specs=out)
    same(jax.jit(split)(*arguments), jax.jit(whole)(*arguments))
    print("split over the batch:", name)

# One x for both devices, and each its own keys, or its own weights: what varies comes in with the first row.
for name, specs in {"keys": (ALL, ALL, ALL, EACH), "weights": (EACH, ALL, ALL, ALL)}.items():

    def whole(w, table, x, keys):
        return gaussian(sampling.sample, w[0], table, x, keys[0])[None]

    split = jax.shard_map(whole, mesh=MESH, in_specs=specs, out_specs=EACH)
    weights, table, two = jnp.array([0.5, -0.2]), ddim(SCHEDULE, TAU, 0.7), jax.random.split(jax.random.key(3), 2)
    for device, found in enumerate(jax.jit(split)(weights, table, x, two)):
        w, k = (weights[device:], two) if name == "weights" else (weights, two[device:])
        np.testing.assert_allclose(found, jax.jit(whole)(w, table, x, k)[0], rtol=1e-5, atol=1e-6)
    print("split over the", name)
