"""Discrete data (appendix A): the same family over K categories, where noise is a category drawn evenly.

    q(x_t | x_0) = Cat(a_t x_0 + (1 - a_t) 1/K)
    q(x_s | x_t, x_0) = Cat(std x_t + (a_s - std a_t) x_0 + ((1 - a_s) - (1 - a_t) std) 1/K)
    p(x_s | x_t) = q(x_s | x_t, f(x_t))

x are one-hot, [B, ..., K], and f gives probabilities of that shape. The paper's sigma, `std` here as elsewhere, is the
probability with which x_t is kept: at most (1 - a_s) / (1 - a_t), where the way down adds no noise; at 0 every value is drawn
anew. Steps t, s are whole numbers or [B]; std is a number, [B] or [B, 1, ...]. The schedule may end at alpha_bar[T] = 0: x_T
is then even noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddim_jax.diffusion.process import EpsFn, check_shape, check_std, noise_scale, per_example, signal_scale
from ddim_jax.diffusion.scan import Record, Step, scan_rows
from ddim_jax.diffusion.schedule import Array, Schedule, Steps, library, pairs

ProbabilityFn = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, ..., K] one-hot, t [B]) -> f [B, ..., K], sums to 1


class CategoricalTable(NamedTuple):
    """The steps of a sampler: x_s ~ Cat(keep x_t + x0 f(x_t) + noise 1/K), three weights that sum to 1."""

    t: Array  # [S] int
    s: Array  # [S] int
    keep: Array  # [S] float64
    x0: Array  # [S] float64
    noise: Array  # [S] float64


def marginal(schedule: Schedule, x0: Array, t: Steps) -> jax.Array:
    """The probabilities [B, ..., K] of x_t given x0 [B, ..., K]."""
    return signal_scale(schedule, t, x0) ** 2 * x0 + noise_scale(schedule, t, x0) ** 2 / x0.shape[-1]


def keep_limit(schedule: Schedule, t: Steps, s: Steps) -> Any:
    """(1 - a_s) / (1 - a_t), the largest std of the step t -> s: above it a probability would be negative."""
    return (noise_scale(schedule, s) / noise_scale(schedule, t)) ** 2


def weights(schedule: Schedule, t: Steps, s: Steps, std: ArrayLike, like: Array | None = None) -> tuple[Any, Any, Any]:
    """The weights of x_t, x_0 and 1/K in q(x_s | x_t, x_0), which sum to 1.

    t, s: whole numbers 0..T, s < t, or arrays of one shape.
    std:  the weight of x_t: a number, or an array of that shape, or with `like` also [B, 1, ...].
    like: x [B, ..., K] that the results are to multiply, or None (the default) for float64 on the host.
    """
    std = std if like is None else per_example(std, like, "std")
    signal_t, signal_s = signal_scale(schedule, t, like) ** 2, signal_scale(schedule, s, like) ** 2
    noise_t, noise_s = noise_scale(schedule, t, like) ** 2, noise_scale(schedule, s, like) ** 2
    return std, signal_s - std * signal_t, noise_s - std * noise_t


def posterior(schedule: Schedule, x_t: Array, x0: Array, t: Steps, s: Steps, std: ArrayLike) -> jax.Array:
    """The probabilities [B, ..., K] of x_s given x_t and x0; with f(x_t) for x0, those of the generative process.

    x_t: [B, ..., K], one-hot.
    x0:  [B, ..., K], one-hot or probabilities.
    t:   a whole number in 1..T, or [B].
    s:   a whole number below t, or [B].
    std: the probability with which x_t is kept: a number, [B] or [B, 1, ...].

    Raises ValueError where std is negative or above `keep_limit`, as far as it is known.
    """
    check_std(std, keep_limit(schedule, t, s), "for these steps it must lie between 0 and (1 - a_s) / (1 - a_t)")
    keep, x0_weight, noise = weights(schedule, t, s, std, x_t)
    return keep * x_t + x0_weight * x0 + jnp.maximum(noise, 0) / x_t.shape[-1]  # at the limit, rounding takes it below 0


def table(schedule: Schedule, tau: ArrayLike, eta: float = 0.0) -> CategoricalTable:
    """The sampler over tau [S+1]: eta = 0 keeps as much of x_t as can be, as DDIM does; 1 draws every value anew.

    std is (1 - eta) times its limit. Raises ValueError for an eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; for discrete data it must lie between 0 and 1")
    t, s = pairs(schedule, tau)
    keep, x0, noise = weights(schedule, t, s, (1 - eta) * keep_limit(schedule, t, s))
    noise = library(noise).maximum(noise, 0)  # at eta = 0, rounding takes it below 0, and its log would be NaN
    return CategoricalTable(t, s, keep, x0, noise)


def sample(f: ProbabilityFn, table: CategoricalTable, x: jax.Array, key: jax.Array) -> jax.Array:
    """Takes one-hot x [B, ..., K] through the table with one scan, from x_T to a sample x_0.

    f:     (x [B, ..., K], t [B]) -> the probabilities of x_0 [B, ..., K].
    table: the steps, as `table` of this module writes them.
    x:     [B, ..., K] one-hot, where the first row starts; see `noise`.
    key:   one typed random key, or one for each example [B], whose sample then does not depend on the rest of the batch.

    Raises ValueError where f gives another shape than that of x.
    """
    return run(f, table, x, key, lambda step: None)[0]


def run(
    f: ProbabilityFn, table: CategoricalTable, x: jax.Array, key: jax.Array, record: Record, rows: ArrayLike | None = None
) -> tuple[jax.Array, Any]:
    """As `sample`, with what `record` keeps of the rows on the way: returns (x [B, ..., K], records).

    f:      (x [B, ..., K], t [B]) -> the probabilities of x_0 [B, ..., K].
    table:  the steps, as `table` of this module writes them.
    x:      [B, ..., K] one-hot, where the first row starts.
    key:    one typed random key, or one for each example [B].
    record: Step -> what to keep of a row, any pytree of arrays; `x0` of a Step is f(x_t), and its `eps` is None.
    rows:   int [R], rising: the rows to keep a record of, so that memory is for R records. None (the default) keeps all S.

    Raises ValueError where f gives another shape than that of x, and for rows that do not rise or lie outside the table.
    """
    (x,), records = go_on(f, table, begin(table, x), key, record, rows)
    return x, records


def begin(table: CategoricalTable, x: Array) -> tuple[jax.Array]:
    """What the first row of a table is given, as `sampling.begin`: x [B, ..., K]."""
    x = jnp.asarray(x)
    return (x.astype(np.promote_types(x.dtype, np.float32)),)  # the weights would lose too much in less


def go_on(
    f: ProbabilityFn,
    table: CategoricalTable,
    carry: tuple[jax.Array],
    key: jax.Array,
    record: Record,
    rows: ArrayLike | None = None,
    first: ArrayLike = 0,
) -> tuple[tuple[jax.Array], Any]:
    """As `run`, through a part of a table: returns (carry, records). See `sampling.go_on` for carry, rows and first."""
    (x,) = carry
    keys = key if key.ndim else jax.random.split(key, x.shape[0])

    def advance(carry, i, w):
        (x,) = carry
        x0 = f(x, jnp.full(x.shape[0], w.t))
        check_shape(x0, x, "the predicted f(x)")
        x0 = jnp.asarray(x0, x.dtype)
        probabilities = w.keep * x + w.x0 * x0 + w.noise / x.shape[-1]
        x = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, i), probabilities)
        return (x,), Step(i, x, x0, None)

    weights = {column: jnp.asarray(getattr(table, column), x.dtype) for column in ("keep", "x0", "noise")}
    return scan_rows(advance, carry, table._replace(**weights), record, rows, first)


def draw(keys: jax.Array, probabilities: jax.Array) -> jax.Array:
    """One-hot draws from probabilities [B, ..., K], each example with its own of keys [B]."""
    category = jax.vmap(lambda key, p: jax.random.categorical(key, jnp.log(p)))(keys, probabilities)
    return jax.nn.one_hot(category, probabilities.shape[-1], dtype=probabilities.dtype)


def noise(keys: jax.Array, shape: tuple[int, ...], categories: int) -> jax.Array:
    """x_T where alpha_bar[T] = 0: one-hot [B, *shape, K], even, each example with its own of keys [B]."""
    return draw(keys, jnp.full((keys.shape[0], *shape, categories), 1 / categories))


def kl(schedule: Schedule, x_t: Array, x0: Array, f: Array, t: Steps, s: Steps, std: ArrayLike) -> jax.Array:
    """KL(q(x_s | x_t, x_0) || q(x_s | x_t, f)) of each value in nats: [B, ...]. At most (a_s - std a_t) (-log f at x_0).

    x_t:  [B, ..., K], one-hot.
    x0:   [B, ..., K], one-hot.
    f:    [B, ..., K], probabilities of x_0.
    t, s: whole numbers, 0 <= s < t <= T, or [B].
    std:  the probability with which x_t is kept: a number, [B] or [B, 1, ...].

    Raises ValueError as `posterior` does.
    """
    q, p = (posterior(schedule, x_t, x, t, s, std) for x in (x0, f))
    return jnp.sum(jax.scipy.special.rel_entr(q, p), axis=-1)


def cross_entropy(schedule: Schedule, logits_fn: ProbabilityFn, x0: Array, t: Array, keys: jax.Array) -> jax.Array:
    """Mean over an example's values of -log f(x_t) at x_0, the bound on each KL up to its weight: [B], in nats.

    schedule:  the noise schedule.
    logits_fn: (x_t [B, ..., K], t [B]) -> the logits [B, ..., K] of f.
    x0:        [B, ..., K], one-hot.
    t:         int [B] in 1..T.
    keys:      typed random keys [B], which draw x_t.

    Raises ValueError where the logits have another shape than x_t.
    """
    x_t = draw(keys, marginal(schedule, x0, t))
    logits = logits_fn(x_t, jnp.asarray(t))
    check_shape(logits, x_t, "what the network predicts")
    loss = -jnp.sum(x0 * jax.nn.log_softmax(logits), axis=-1)
    return jnp.mean(loss, axis=range(1, loss.ndim))


def by_category(network: EpsFn) -> EpsFn:
    """A network of images [B, H, W, C K] as one of one-hot values [B, H, W, C, K]."""
    return lambda x, t: network(x.reshape(*x.shape[:-2], -1), t).reshape(x.shape)


def drawn_loss(schedule: Schedule, network: EpsFn, x0: Array, t: Array, keys: jax.Array, *, categories: int) -> jax.Array:
    """`cross_entropy` of each example's values in `categories` bins, x_t drawn from its own key: [B], in nats.

    schedule:   the noise schedule.
    network:    (x [B, H, W, C K], t [B]) -> logits [B, H, W, C K], K numbers for each of C channels.
    x0:         [B, H, W, C] in [-1, 1].
    t:          int [B] in 1..T.
    keys:       typed random keys [B].
    categories: K, the number of bins.
    """
    return cross_entropy(schedule, by_category(network), one_hot(x0, categories), t, keys)


def one_hot(x: Array, categories: int) -> jax.Array:
    """Values [-1, 1] in `categories` bins of one width: [B, H, W, C] -> one-hot [B, H, W, C, K]."""
    bins = jnp.clip(jnp.floor((x + 1) / 2 * categories), 0, categories - 1)
    return jax.nn.one_hot(bins.astype(jnp.int32), categories, dtype=x.dtype)


def to_values(x: Array) -> jax.Array:
    """One-hot [B, H, W, C, K] to values from -1, the first category, to 1, the last: [B, H, W, C]."""
    return 2 * jnp.argmax(x, axis=-1).astype(x.dtype) / (x.shape[-1] - 1) - 1
