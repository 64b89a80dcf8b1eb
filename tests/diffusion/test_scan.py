"""Records of the rows that a sampler passes through, in both families, and the scan's memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import THREE, mixture

from ddim_jax.diffusion import discrete, sampling
from ddim_jax.diffusion.process import from_eps, noise_scale, signal_scale
from ddim_jax.diffusion.schedule import linear, subsequence
from ddim_jax.diffusion.solvers import ddim, dpmpp_2m

SCHEDULE, S, K = linear(), 6, 4
TAU = subsequence(1000, S, "trailing")
KEY = jax.random.key(2)
ROWS = [[0], [5], [0, 2, 3], list(range(S))]


def gaussian(record, rows=None, table=ddim(SCHEDULE, TAU, 0.7)):
    x = jax.random.normal(jax.random.key(0), (3, 2))
    return sampling.run(from_eps(SCHEDULE, mixture(SCHEDULE, **THREE)), table, x, KEY, record, rows)


def categorical(record, rows=None):
    x = discrete.noise(jax.random.split(jax.random.key(0), 3), (2,), K)
    return discrete.run(
        lambda x, t: jax.nn.softmax(x + t[:, None, None] / 1000), discrete.table(SCHEDULE, TAU, 0.3), x, KEY, record, rows
    )


def everything(step):
    return {"x": step.x, "rest": (step.i, step.x0, step.eps)}


@pytest.mark.slow
@pytest.mark.parametrize("run", [gaussian, categorical])
def test_records_of_chosen_rows_are_those_of_all_rows(run):
    x, every = jax.jit(functools.partial(run, everything))()
    np.testing.assert_array_equal(every["rest"][0], np.arange(S))
    np.testing.assert_array_equal(every["x"][-1], x)
    for rows in ROWS:
        again, chosen = jax.jit(functools.partial(run, everything, np.array(rows)))()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[np.array(rows)], rtol=1e-6), chosen, every)
        np.testing.assert_allclose(again, x, rtol=1e-6)


def test_a_record_sees_both_halves_of_x_at_the_rows_t_and_x_after_it():
    """Eq. 9 and 12: x before the row is signal x0 + noise eps at its t, and x after it the table's sum."""
    table = dpmpp_2m(SCHEDULE, TAU)
    x, seen = gaussian(lambda step: step, table=table)
    before = np.concatenate([jax.random.normal(jax.random.key(0), (1, 3, 2)), seen.x[:-1]])
    for i, (t, s) in enumerate(zip(table.t, table.s)):
        halves = signal_scale(SCHEDULE, t) * seen.x0[i] + noise_scale(SCHEDULE, t) * seen.eps[i]
        np.testing.assert_allclose(halves, before[i], rtol=1e-4, atol=1e-5)
        past = table.x0[i, 0] * seen.x0[i] + (table.x0[i, 1] * seen.x0[i - 1] if i else 0)
        np.testing.assert_allclose(seen.x[i], past + table.eps[i, 0] * seen.eps[i], rtol=1e-4, atol=1e-5)


def test_over_categories_a_record_sees_the_probabilities_of_x0():
    x, seen = categorical(lambda step: step)
    before = np.concatenate([discrete.noise(jax.random.split(jax.random.key(0), 3), (2,), K)[None], seen.x[:-1]])
    for i, t in enumerate(TAU[:0:-1]):
        np.testing.assert_allclose(seen.x0[i], jax.nn.softmax(before[i] + t / 1000), rtol=1e-6)
    assert seen.eps is None and np.all(seen.x.sum(-1) == 1)


def test_memory_is_for_the_records_that_are_kept():
    """100 rows of 4 x 10,000 float32 are 16 MB; 2 of them, x and the history of predictions are below 4 MB."""
    table, x = ddim(SCHEDULE, subsequence(1000, 100, "trailing")), jnp.zeros((4, 10_000))
    run = lambda rows: jax.jit(
        lambda x: sampling.run(from_eps(SCHEDULE, lambda x, t: 0.1 * x), table, x, None, lambda step: step.x, rows)
    )
    bytes_of = lambda rows: (m := run(rows).lower(x).compile().memory_analysis()).temp_size_in_bytes + m.output_size_in_bytes
    assert bytes_of(None) > 16e6
    assert bytes_of(np.array([3, 90])) < 4e6


@pytest.mark.parametrize("run", [gaussian, categorical])
@pytest.mark.parametrize(
    "rows, says",
    [
        ([0, 6], r"rows must rise strictly from at least 0 to at most 5, the last of the table; got \[0 6\]"),
        ([2, 2], r"rows must rise strictly"),
        ([-1, 2], r"rows must rise strictly"),
        ([0.5], r"rows must be whole numbers \[R\], R >= 1"),
        ([], r"rows must be whole numbers \[R\], R >= 1"),
        (3, r"rows must be whole numbers \[R\], R >= 1"),
    ],
)
def test_rows_that_are_not_in_the_table(run, rows, says):
    with pytest.raises(ValueError, match=says):
        run(everything, rows)
