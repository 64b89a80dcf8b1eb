"""The one scan under both samplers: it takes a carry through the rows of a table and keeps what `record` says of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class Step(NamedTuple):
    """One row of a table as a record sees it."""

    i: jax.Array  # scalar int: the number of the row, from 0
    x: jax.Array  # [B, ...]: x after the row, at the step s that it leads to
    x0: jax.Array  # [B, ...]: the x_0 that was predicted at the row's t
    eps: jax.Array | None  # [B, ...]: the eps that was predicted there; None over categories, where there is none


Record = Callable[[Step], Any]  # what to keep of a row: any pytree of arrays


def scan_rows(
    advance: Callable[..., tuple[Any, Step]],
    carry: Any,
    table: NamedTuple,
    record: Record,
    rows: ArrayLike | None = None,
    first: ArrayLike = 0,
) -> tuple[Any, Any]:
    """The carry after all rows of the table, and the records of the chosen ones stacked: a pytree of arrays [R, ...].

    advance: (carry, number of the row, the row) -> (the next carry, Step).
    carry:   any pytree of arrays, as it is before the first row.
    table:   a named tuple of arrays [S, ...], whose first is `t`.
    record:  see `Record`; it is called for the chosen rows alone.
    rows:    int [R], rising, the rows whose records are kept; None keeps all. Memory is for R records, not for S.
    first:   the number of the first row, where `table` is a part of a longer one. Chosen `rows` are of a whole table.

    Raises ValueError for rows that do not rise or lie outside the table.
    """
    columns = (first + jnp.arange(table[0].shape[0]), jax.tree.map(jnp.asarray, table))

    def visit(carry, row):
        carry, step = advance(carry, *row)
        return carry, record(step)

    def after_a_row():
        return jax.eval_shape(visit, carry, jax.tree.map(lambda column: column[0], columns))

    if rows is None:
        return jax.lax.scan(visit, varying(carry, after_a_row), columns)
    rows = _checked(rows, table[0].shape[0])

    def visit_and_keep(carry_and_kept, row):
        carry, kept = carry_and_kept
        carry, step = advance(carry, *row)

        def keep(kept):
            place = jnp.sum(rows < step.i)
            return jax.tree.map(lambda every, new: every.at[place].set(new), kept, record(step))

        return (carry, jax.lax.cond(jnp.any(rows == step.i), keep, lambda kept: kept, kept)), None

    kept = jax.tree.map(lambda one: jnp.zeros((len(rows), *one.shape), one.dtype), after_a_row()[1])
    (carry, kept), _ = jax.lax.scan(visit_and_keep, varying((carry, kept), after_a_row), columns)
    return carry, kept


def _checked(rows, num_rows) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or not len(rows) or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows must be whole numbers [R], R >= 1, the rows of the table to record; got {rows}")
    past = isinstance(num_rows, int) and rows[-1] >= num_rows  # a number of rows that is exported as a symbol is not known
    if rows[0] < 0 or np.any(np.diff(rows) <= 0) or past:
        raise ValueError(f"rows must rise strictly from at least 0 to at most {num_rows - 1}, the last of the table; got {rows}")
    return rows


def varying(carry: Any, after_a_row: Callable[[], Any]) -> Any:
    """The carry in the type that it has after a row, which a scan must not change, and in which branches must agree.

    Inside `jax.shard_map` a type says over which axes of the mesh an array varies: after a row, over those of x, of the keys
    and of all that the network holds.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return carry
    axes = frozenset().union(*(a.manual_axis_type.varying for a in jax.tree.leaves(after_a_row())))

    def cast(a):
        missing = tuple(sorted(axes - jax.typeof(a).manual_axis_type.varying))
        return jax.lax.pcast(a, missing, to="varying") if missing else a

    return jax.tree.map(cast, carry)
