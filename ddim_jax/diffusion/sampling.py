"""One `lax.scan` that runs any table of `solvers`: sampling, encoding, reconstruction and interpolation.

Nothing here is compiled by itself: call it inside your own `jax.jit`, with the table and the network's parameters as
arguments. Then another eta, another tau or another solver of the same number of steps compiles nothing. `go_on` takes a part
of a table, so that one program may serve any number of steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddim_jax.common import draws
from ddim_jax.diffusion.process import Predict, check_shape, per_example
from ddim_jax.diffusion.scan import Record, Step, scan_rows, varying
from ddim_jax.diffusion.schedule import Array, Schedule, is_known
from ddim_jax.diffusion.solvers import StepTable, ddim, encode

Carry = tuple[jax.Array, ...]  # what a row hands on: x [B, ...], and the last predictions of x_0 and of eps, [B, K, ...] each


class Trajectory(NamedTuple):
    """All that a sampler passed through, in the order it did."""

    x: jax.Array  # [S+1, B, ...]: x at each step, the input first
    x0: jax.Array  # [S, B, ...]: the x_0 predicted at each step but the last


def sample(predict: Predict, table: StepTable, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Takes x through every step of the table: from latents x_T to samples x_0 [B, ...], or back with an encoding table.

    predict: (x [B, ...], t [B]) -> Prediction, both halves of the shape of x; see `process.make_predictor`.
    table:   the steps, as a solver of `solvers` writes them.
    x:       [B, ...], where the first row starts. It is computed in float32 or more, and predictions in its precision.
    key:     a typed random key, or one for each example [B], whose sample then does not depend on the rest of the batch. A
             table without noise ignores it; None (the default) is for those.

    Raises ValueError where there is noise to draw and no key, which includes every table that is an argument of compiled code,
    whose weights cannot be seen there; where the keys do not fit the batch; and where a prediction has another shape than x.
    """
    x, _ = run(predict, table, x, key, lambda step: None)
    return x


def trajectory(predict: Predict, table: StepTable, x: jax.Array, key: jax.Array | None = None) -> Trajectory:
    """As `sample`, with every x and every prediction of x_0 on the way: memory is for S of each; see `run` for less."""
    _, (xs, x0s) = run(predict, table, x, key, lambda step: (step.x, step.x0))
    return Trajectory(jnp.concatenate([x[None], xs]), x0s)


def run(
    predict: Predict, table: StepTable, x: jax.Array, key: jax.Array | None, record: Record, rows: ArrayLike | None = None
) -> tuple[jax.Array, Any]:
    """As `sample`, with what `record` keeps of the rows on the way: returns (x [B, ...], records).

    predict: (x [B, ...], t [B]) -> Prediction, both halves of the shape of x; see `process.make_predictor`.
    table:   the steps, as a solver of `solvers` writes them.
    x:       [B, ...], where the first row starts: latents x_T, or images for an encoding table.
    key:     a typed random key, or one for each example [B], or None for a table without noise.
    record:  Step -> what to keep of a row, any pytree of arrays. A `Step` holds the row's number i, x after the row, and the
             predicted x0 and eps. Records of several rows are stacked: [R, ...].
    rows:    int [R], rising: the rows to keep a record of, so that memory is for R records. None (the default) keeps all S.

    Raises ValueError as `sample` does, and for rows that do not rise or lie outside the table.
    """
    (x, *_), records = go_on(predict, table, begin(table, x), key, record, rows)
    return x, records


def begin(table: StepTable, x: Array) -> Carry:
    """What the first row of a table is given: x [B, ...] in float32 or more, and zeros for predictions before it; see `go_on`."""
    x = jnp.asarray(x)
    x = x.astype(np.promote_types(x.dtype, np.float32))  # the weights would lose too much in less
    return x, *(jnp.zeros((x.shape[0], column.shape[1], *x.shape[1:]), x.dtype) for column in (table.x0, table.eps))


def go_on(
    predict: Predict,
    table: StepTable,
    carry: Carry,
    key: jax.Array | None,
    record: Record,
    rows: ArrayLike | None = None,
    first: ArrayLike = 0,
) -> tuple[Carry, Any]:
    """As `run`, through a part of a table, and with all that the next part needs: returns (carry, records).

    So one compiled program can take tables of any length, a part after the other. The arguments that are not named here are
    those of `run`.

    table: some rows of the whole table, one after the other.
    carry: of `begin`, or of the part before. Its first array is x.
    rows:  as of `run`, for a whole table alone, where first = 0.
    first: the number of the part's first row in the whole table: it decides the noise. A scalar of compiled code, too.

    Raises ValueError as `run` does.
    """
    x = carry[0]
    if key is None and (not is_known(table.noise) or np.any(np.asarray(table.noise) != 0)):
        raise ValueError(
            "this table may draw noise and no random key was given: pass key=jax.random.key(seed). A table that is an "
            "argument of compiled code always needs one, and ignores it if its noise weights are 0."
        )
    if key is not None and not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"the random key is {key!r}; make it with jax.random.key(seed), not jax.random.PRNGKey")
    if key is not None and key.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"there are random keys of shape {key.shape} for a batch of {x.shape[0]}: give one, or one for each example"
        )

    def advance(carry, i, w):
        x, x0s, epss = carry
        x0, eps = predict(x, jnp.full(x.shape[0], w.t))
        check_shape(x0, x, "the predicted x_0")
        check_shape(eps, x, "the predicted eps")
        x0, eps = jnp.asarray(x0, x.dtype), jnp.asarray(eps, x.dtype)
        x0s, epss = _push(x0s, x0), _push(epss, eps)
        after = _weighted(w.x0, x0s) + _weighted(w.eps, epss)
        if key is not None:  # drawing takes longer than all else here, so a row without noise draws none

            def noisy(x):
                return x + w.noise * _normal(key, i, x)

            after = jax.lax.cond(w.noise == 0, lambda x: x, noisy, varying(after, lambda: jax.eval_shape(noisy, after)))
        return (after, x0s, epss), Step(i, after, x0, eps)

    weights = {column: jnp.asarray(getattr(table, column), x.dtype) for column in ("x0", "eps", "noise")}
    return scan_rows(advance, carry, table._replace(**weights), record, rows, first)


def _push(history: jax.Array, newest: jax.Array) -> jax.Array:
    return jnp.concatenate([newest[:, None], history[:, :-1]], axis=1)


def _weighted(weights: jax.Array, history: jax.Array) -> jax.Array:
    return sum(weights[k] * history[:, k] for k in range(history.shape[1]))  # type: ignore[return-value]  # of at least one


def _normal(key: jax.Array, i: jax.Array, like: jax.Array) -> jax.Array:
    """The noise of step i: of the batch from one key, or of each example from its own."""
    if key.ndim == 0:
        return draws.normal(jax.random.fold_in(key, i), like.shape, like.dtype)
    return jax.vmap(lambda k: draws.normal(jax.random.fold_in(k, i), like.shape[1:], like.dtype))(key)


def reconstruct(predict: Predict, schedule: Schedule, tau: ArrayLike, x0: jax.Array) -> jax.Array:
    """Encodes x0 to latents and decodes them again over the same steps: [B, ...] (section 5.4, Table 2).

    predict:  (x [B, ...], t [B]) -> Prediction.
    schedule: the noise schedule.
    tau:      int [S+1], rising from 0.
    x0:       [B, ...].
    """
    return sample(predict, ddim(schedule, tau), sample(predict, encode(schedule, tau), x0))


def slerp(a: Array, b: Array, weight: ArrayLike) -> jax.Array:
    """Spherical interpolation between latents (appendix D.5): a [B, ...] at weight 0, b [B, ...] at 1, along an arc.

    The angle is that of each example by itself. `weight` is a number or [B]. Latents of one norm keep it. Parallel latents,
    and opposite ones, between which no arc is shortest, are joined by a line, as those of norm 0 are.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    axes, dtype = tuple(range(1, a.ndim)), a.dtype
    a, b = (x.astype(np.promote_types(x.dtype, np.float32)) for x in (a, b))
    weight = jnp.asarray(per_example(weight, a, "weight"))
    square = jnp.sum(a * a, axes, keepdims=True) * jnp.sum(b * b, axes, keepdims=True)
    cosine = jnp.sum(a * b, axes, keepdims=True) / jnp.sqrt(jnp.where(square == 0, 1, square))
    line = (jnp.abs(cosine) > 1 - 4 * jnp.finfo(a.dtype).eps) | (square == 0)  # what is left of the angle there is rounding
    angle = jnp.arccos(jnp.where(line, 0, cosine))
    arc = (jnp.sin((1 - weight) * angle) * a + jnp.sin(weight * angle) * b) / jnp.sin(angle)
    return jnp.where(line, (1 - weight) * a + weight * b, arc).astype(dtype)


def interpolate(a: Array, b: Array, num: int) -> jax.Array:
    """The line of num latents [num, ...] from a [...] to b [...], ends included, by `slerp`."""
    return jax.vmap(lambda weight: slerp(a[None], b[None], weight)[0])(jnp.linspace(0.0, 1.0, num))


def interpolate_grid(corners: Array, num: int) -> jax.Array:
    """The grid [num, num, ...] between corners [2 (top, bottom), 2 (left, right), ...]: down both sides, then across (D.5)."""
    left, right = (interpolate(corners[0, side], corners[1, side], num) for side in (0, 1))
    return jax.vmap(lambda a, b: interpolate(a, b, num))(left, right)
