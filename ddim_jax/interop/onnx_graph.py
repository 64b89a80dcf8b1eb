"""A function of JAX as an ONNX graph: its jaxpr, read equation by equation.

The jaxpr says what a network computes whatever it was written with, so this file need not know the U-Net and does not age with
it; other people's networks come along. A converter from outside (jax2onnx) asks for older libraries than ours, and the U-Net
written out by hand would be a second network to keep the same as the first.

Constants are computed here, the weights put into the order that ONNX wants. Broadcasting is left to the operators of ONNX,
which do it as NumPy does: a value may have the size 1 where its jaxpr says more, until an operator needs all of it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from ddim_jax.common.extras import require

OPSET, IR_VERSION = 18, 8  # of ONNX 1.13 (2022), which every runtime of today reads
LARGEST = 2**31  # bytes of one file of protobuf

# Primitives that are one operator of ONNX with the same inputs.
_SAME = {
    **{name: name.capitalize() for name in ("abs", "add", "ceil", "cos", "div", "erf", "exp", "floor", "log", "max")},
    **{name: name.capitalize() for name in ("min", "mul", "neg", "pow", "sign", "sin", "sqrt", "sub", "tanh")},
    **{"eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "logistic": "Sigmoid"},
}
_REDUCE = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd", "reduce_sum": "ReduceSum"}
_CALLS = {"checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit", "remat", "remat2"}
_UNCHANGED = {"copy", "copy_p", "optimization_barrier", "stop_gradient"}


class _Constant(NamedTuple):
    """A value that does not depend on the inputs."""

    array: np.ndarray
    name: str  # of the parameter that it was made of, or "constant"


class _Tensor(NamedTuple):
    """A value of the graph."""

    name: str
    shape: tuple  # as the jaxpr has it, or 1 where it is still to be broadcast


def convert(
    function: Callable[..., jax.Array],
    params: Any,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    output: str,
) -> Any:
    """function(params, **inputs) as an onnx.ModelProto for a batch of any size.

    params: arrays in any pytree; they become initializers, called by their place in it. What is a matrix or more, and is held
            by float16 exactly, is stored in float16 and cast where it is used, if it came as float16.
    inputs: of each array [batch, ...]: its shape after the batch, and its dtype.
    output: what to call the result, one array.

    Raises ValueError, which names them, for operations that are not known here, and for more than one file can hold.
    """
    require("onnx", "export")
    (batch,) = export.symbolic_shape("batch")
    shapes = {name: jax.ShapeDtypeStruct((batch, *shape), dtype) for name, (shape, dtype) in inputs.items()}
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    size = sum(leaf.size * np.dtype(leaf.dtype).itemsize for _, leaf in leaves)
    if size >= LARGEST:
        raise ValueError(f"the network has {size / 1e9:.1f} GB of parameters; a file of ONNX holds less than 2: store float16")
    wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), params)
    jaxpr = jax.make_jaxpr(lambda params, given: function(params, **given))(wide, shapes)
    _refuse_unknown(jaxpr.jaxpr, jaxpr.jaxpr.invars[len(leaves) :])
    graph = _Graph(batch, {name: (shapes[name].dtype, (None, *shape)) for name, (shape, _) in inputs.items()})
    values: list = [_Constant(np.asarray(leaf), jax.tree_util.keystr(path, simple=True, separator=".")) for path, leaf in leaves]
    values += [_Tensor(name, shapes[name].shape) for name in sorted(shapes)]  # as JAX sorts a dict
    (result,) = graph.run(jaxpr.jaxpr, [_Constant(np.asarray(c), "constant") for c in jaxpr.consts], values)
    (aval,) = jaxpr.out_avals
    return graph.model(graph.full(result, aval.shape), output, aval)


def _refuse_unknown(jaxpr: Any, inputs: Collection) -> None:
    """Raises ValueError where what depends on the inputs goes through primitives that nothing here translates, all named."""
    found: set[str] = set()

    def visit(jaxpr: Any, moving: set) -> list[bool]:  # whether each result depends on the inputs
        for equation in jaxpr.eqns:
            name, moves = equation.primitive.name, [not hasattr(v, "val") and v in moving for v in equation.invars]
            if name in _CALLS or equation.params.get("branches_platforms"):
                inner, _ = _inner(equation)
                results = visit(inner, {v for v, moved in zip(inner.invars, moves[-len(inner.invars) :], strict=True) if moved})
                moving |= {v for v, moved in zip(equation.outvars, results, strict=True) if moved}
            elif any(moves) or not _is_static(equation):
                moving |= set(equation.outvars)
                if name not in _KNOWN:
                    found.add(name)
        return [not hasattr(v, "val") and v in moving for v in jaxpr.outvars]

    visit(jaxpr, set(inputs))
    if found:
        raise ValueError(
            f"the network has operations of JAX that the export to ONNX does not know: {', '.join(sorted(found))}. Write it "
            "without them, or export it as StableHLO, which has all of them"
        )


def _inner(equation: Any) -> tuple[Any, Sequence]:
    """(the jaxpr within a call, its constants); of ways for several platforms the one for CPUs, whose inputs are the last."""
    if platforms := equation.params.get("branches_platforms"):
        branch = equation.params["branches"][next(i for i, each in enumerate(platforms) if each is None or "cpu" in each)]
        return branch.jaxpr, branch.consts
    found = next(equation.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in equation.params)
    return (found.jaxpr, found.consts) if hasattr(found, "consts") else (found, ())


class _Graph:
    """Nodes and constants of a graph, one after the other as a jaxpr is read."""

    def __init__(self, batch: Any, inputs: Mapping[str, tuple[np.dtype, tuple]]):
        import onnx

        self._onnx = onnx
        self._batch, self._inputs = batch, inputs
        self._nodes: list = []
        self._initializers: list = []
        self._names = set(inputs)
        self._made: dict[tuple, str] = {}  # constants, and the batch's size, which are shared
        self._kept: list[np.ndarray] = []  # so that no other array takes the identity of one of these
        self._scope = ""

    # What becomes of values.

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, whose name it returns."""
        name = self._new(f"{self._scope}{kind}")
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        """The name of a constant that stands in the file."""
        key = (name, array.dtype.str, array.shape, array.tobytes()) if array.size < 32 else (id(array),)
        if key not in self._made:
            self._made[key] = self._new(name)
            self._kept.append(array)
            self._initializers.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), self._made[key]))
            if array.dtype == np.float16:
                self._made[key] = self.op("Cast", self._made[key], to=self.kind(np.float32))
        return self._made[key]

    def whole(self, *numbers: int) -> str:
        """A constant of whole numbers, such as axes and shapes."""
        return self.constant(np.array(numbers, np.int64))

    def kind(self, dtype: Any) -> int:
        """ONNX's number of a dtype."""
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def tensor(self, value: _Constant | _Tensor) -> _Tensor:
        """A value of the graph, which a constant becomes."""
        if isinstance(value, _Tensor):
            return value
        return _Tensor(self.constant(value.array, value.name), value.array.shape)

    def full(self, value: _Constant | _Tensor, shape: tuple) -> str:
        """The name of a value with all of its shape, broadcast where it was not yet."""
        held = self.tensor(value)
        return held.name if held.shape == tuple(shape) else self.op("Expand", held.name, self._shape(shape))

    def reshape(self, value: str, shape: tuple) -> str:
        """A value of full shape in another."""
        if sum(not _is_known(size) for size in shape) > 1:
            raise ValueError(f"the network makes the shape {shape}, with the size of the batch in it twice: ONNX cannot say that")
        return self.op("Reshape", value, self.whole(*(size if _is_known(size) else -1 for size in shape)))

    def _shape(self, shape: tuple) -> str:
        """A shape as a value, which holds the batch's size where that is not known before."""
        if all(map(_is_known, shape)):
            return self.whole(*shape)
        if any(not _is_known(size) and size != self._batch for size in shape):
            raise ValueError(f"the network makes the shape {shape}; of the batch ONNX can say its size alone")
        if ("batch",) not in self._made:
            self._made["batch",] = self.op("Shape", next(iter(self._inputs)), start=0, end=1)
        return self.op("Concat", *(self.whole(s) if _is_known(s) else self._made["batch",] for s in shape), axis=0)

    def _new(self, wanted: str) -> str:
        name, i = wanted, 1
        while name in self._names:
            name, i = f"{wanted}_{i}", i + 1
        self._names.add(name)
        return name

    # The jaxpr.

    def run(self, jaxpr: Any, consts: Sequence, values: Sequence) -> list:
        """The values that a jaxpr gives for these."""
        known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

        def look(v: Any) -> Any:
            return _Constant(np.asarray(v.val, v.aval.dtype), "constant") if hasattr(v, "val") else known[v]

        for equation in jaxpr.eqns:
            given = list(map(look, equation.invars))
            known |= zip(equation.outvars, self._equation(equation, given), strict=True)
        return list(map(look, jaxpr.outvars))

    def _equation(self, equation: Any, given: list) -> Sequence:
        name, shape = equation.primitive.name, getattr(equation.outvars[0].aval, "shape", ())
        if name in _CALLS or equation.params.get("branches_platforms"):
            inner, consts = _inner(equation)
            return self.run(inner, [_Constant(np.asarray(c), "constant") for c in consts], given[-len(inner.invars) :])
        if name in _UNCHANGED:
            return given
        if _folds(equation, given):
            return _computed(equation, given)
        scopes = str(equation.source_info.name_stack)
        self._scope = f"{scopes}/" if scopes else ""
        if name in _SAME:
            return [self.elementwise(_SAME[name], *given)]
        if name in _REDUCE:
            axes = equation.params["axes"]
            full = self.full(given[0], equation.invars[0].aval.shape)
            return [_Tensor(self.op(_REDUCE[name], full, self.whole(*axes), keepdims=0), shape)]
        return _TRANSLATE[name](self, equation, given)

    def elementwise(self, kind: str, *given: Any, **attributes: Any) -> _Tensor:
        """An operator on values that are broadcast as NumPy does."""
        held = [self.tensor(value) for value in given]
        return _Tensor(self.op(kind, *(value.name for value in held), **attributes), _joined([value.shape for value in held]))

    def model(self, result: str, output: str, aval: Any) -> Any:
        """The finished model, checked."""
        helper = self._onnx.helper
        result_node = helper.make_node("Identity", [result], [output], "output")

        def info(name: str, dtype: Any, shape: Sequence) -> Any:
            sizes = [size if isinstance(size, int) else "batch" for size in shape]
            return helper.make_tensor_value_info(name, self.kind(dtype), sizes)

        graph = helper.make_graph(
            [*self._nodes, result_node],
            "network",
            [info(name, *of) for name, of in self._inputs.items()],
            [info(output, aval.dtype, aval.shape)],
            self._initializers,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        self._onnx.checker.check_model(made)
        return made


def _is_known(size: Any) -> bool:
    return isinstance(size, int | np.integer)


def _joined(shapes: Sequence[tuple]) -> tuple:
    """The shape of several that are broadcast: numbers, and arrays of one rank."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in sizes if not (_is_known(size) and size == 1)), 1) for sizes in zip(*padded))


def _is_static(equation: Any) -> bool:
    """Whether the shapes that an equation gives do not depend on the batch."""
    return all(_is_known(size) for var in equation.outvars for size in getattr(var.aval, "shape", ()))


def _folds(equation: Any, given: Sequence[Any]) -> bool:
    """Whether an equation is computed here: of constants alone, unless what it gives is larger than they are."""
    if not all(isinstance(value, _Constant) for value in given) or not _is_static(equation):
        return False
    larger = sum(math.prod(var.aval.shape) for var in equation.outvars) > sum(value.array.size for value in given)
    return equation.primitive.name not in _KNOWN or not larger


def _computed(equation: Any, given: Sequence[_Constant]) -> list[_Constant]:
    """What an equation makes of constants. One that is only moved keeps its dtype, and its parameter's name."""
    name = next((value.name for value in given if value.name != "constant"), "constant")
    moved = equation.primitive.name in ("broadcast_in_dim", "reshape", "squeeze", "split", "transpose")
    arrays = [value.array if moved else _as_used(value.array) for value in given]
    made = equation.primitive.bind(*arrays, **equation.params)
    made = made if equation.primitive.multiple_results else [made]
    keys = [jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended) for array in made]  # random keys, no arrays of NumPy
    return [_Constant(array if is_key else np.asarray(array), name) for array, is_key in zip(made, keys)]


def _as_used(array: np.ndarray) -> np.ndarray:
    """float16, in which weights are stored, as the float32 that is computed with."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _permuted(graph: _Graph, value: Any, order: Sequence[int]) -> Any:
    """A value with its axes in another order, a constant at once."""
    if list(order) == list(range(len(order))):
        return value
    if isinstance(value, _Constant):
        return _Constant(value.array.transpose(order), value.name)
    return _Tensor(graph.op("Transpose", value.name, perm=list(order)), tuple(value.shape[axis] for axis in order))


def _whole(graph: _Graph, value: Any, shape: tuple) -> Any:
    """A value with all of its shape, which a constant has."""
    return value if isinstance(value, _Constant) else _Tensor(graph.full(value, shape), tuple(shape))


# One function for each of the other primitives: (graph, equation, its values) -> what it gives.


def _broadcast_in_dim(graph, equation, given):
    """The size 1 where the result is larger than what is given: see the head of this file."""
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    if isinstance(given[0], _Constant):
        sizes = [1] * len(shape)
        for axis, to in enumerate(kept):
            sizes[to] = given[0].array.shape[axis]
        return [graph.tensor(_Constant(given[0].array.reshape(sizes), given[0].name))]
    held = given[0]
    sizes = tuple(held.shape[kept.index(axis)] if axis in kept else 1 for axis in range(len(shape)))
    return [held if sizes == held.shape else _Tensor(graph.reshape(held.name, sizes), sizes)]


def _reshape(graph, equation, given):
    shape = equation.outvars[0].aval.shape
    if equation.primitive.name == "reshape" and equation.params["dimensions"] is not None:
        raise ValueError("the network reshapes in another order of axes, which the export to ONNX does not know")
    return [_Tensor(graph.reshape(graph.full(given[0], equation.invars[0].aval.shape), shape), shape)]


def _transpose(graph, equation, given):
    return [_permuted(graph, given[0], equation.params["permutation"])]


def _concatenate(graph, equation, given):
    full = [graph.full(value, var.aval.shape) for value, var in zip(given, equation.invars)]
    return [_Tensor(graph.op("Concat", *full, axis=equation.params["dimension"]), equation.outvars[0].aval.shape)]


def _split(graph, equation, given):
    if len(equation.outvars) == 1:
        return given
    axis, held = equation.params["axis"], graph.tensor(given[0])
    if held.shape[axis] == 1:
        return [held] * len(equation.outvars)
    ends = np.cumsum([0, *equation.params["sizes"]]).tolist()
    pieces = zip(ends, ends[1:])
    return [_cut(graph, held, [axis], [begin], [end], [1]) for begin, end in pieces]


def _slice(graph, equation, given):
    shape, params = equation.invars[0].aval.shape, equation.params
    strides = params["strides"] or (1,) * len(shape)
    cuts = zip(shape, params["start_indices"], params["limit_indices"], strides)
    axes = [axis for axis, (size, begin, end, stride) in enumerate(cuts) if (begin, end, stride) != (0, size, 1)]
    if not axes:
        return given
    bounds = [[each[axis] for axis in axes] for each in (params["start_indices"], params["limit_indices"], strides)]
    if not all(_is_known(size) for each in bounds for size in each):
        raise ValueError("the network cuts its batch in pieces, which the export to ONNX does not know")
    held = graph.tensor(_whole(graph, given[0], shape))
    return [_cut(graph, held, axes, *bounds)._replace(shape=equation.outvars[0].aval.shape)]


def _cut(graph, held, axes, begins, ends, strides):
    shape = list(held.shape)
    for axis, begin, end, stride in zip(axes, begins, ends, strides):
        shape[axis] = -(-(end - begin) // stride)
    given = (graph.whole(*each) for each in (begins, ends, axes, strides))
    return _Tensor(graph.op("Slice", held.name, *given), tuple(shape))


def _pad(graph, equation, given):
    low, high, between = zip(*equation.params["padding_config"])
    if any(between) or min(*low, *high) < 0:
        raise ValueError("the network pads between its values, or by less than nothing: the export to ONNX does not know that")
    full = graph.full(given[0], equation.invars[0].aval.shape)
    name = graph.op("Pad", full, graph.whole(*low, *high), graph.tensor(given[1]).name)
    return [_Tensor(name, equation.outvars[0].aval.shape)]


def _conv(graph, equation, given):
    params, (data, kernel) = equation.params, given
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise ValueError("the network has a transposed convolution (lhs_dilation), which the export to ONNX does not know")
    low, high = zip(*params["padding"])
    if min(*low, *high) < 0:
        raise ValueError("the network has a convolution with padding below 0, which the export to ONNX does not know")
    spec, (data_shape, kernel_shape) = params["dimension_numbers"], (var.aval.shape for var in equation.invars)
    data = _permuted(graph, _whole(graph, data, data_shape), spec.lhs_spec)
    kernel = _permuted(graph, _whole(graph, kernel, kernel_shape), spec.rhs_spec)
    made = graph.op(
        "Conv",
        graph.tensor(data).name,
        graph.tensor(kernel).name,
        pads=[*low, *high],
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    shape = equation.outvars[0].aval.shape
    order = [spec.out_spec.index(axis) for axis in range(len(shape))]
    return [_permuted(graph, _Tensor(made, tuple(shape[axis] for axis in spec.out_spec)), order)]


def _dot_general(graph, equation, given):
    (contract, batch), shape = equation.params["dimension_numbers"], equation.outvars[0].aval.shape
    sides = []
    for side, (value, var) in enumerate(zip(given, equation.invars)):
        sizes, mine, shared = var.aval.shape, list(contract[side]), list(batch[side])
        free = [axis for axis in range(len(sizes)) if axis not in mine + shared]
        value = _permuted(graph, _whole(graph, value, sizes), shared + (mine + free if side else free + mine))
        inner, outer = math.prod(sizes[axis] for axis in mine), [sizes[axis] for axis in free]
        sides.append((value, [sizes[axis] for axis in shared], inner, outer))
    (left, shared, inner, rows), (right, _, _, columns) = sides
    # MatMul takes any number of rows' axes where the right side is one matrix; else one of rows and one of columns.
    rows = rows if not shared and rows else [math.prod(rows)]
    left = _in_shape(graph, left, (*shared, *rows, inner))
    right = _in_shape(graph, right, (*shared, inner, math.prod(columns)))
    made = _Tensor(graph.op("MatMul", graph.tensor(left).name, graph.tensor(right).name), (*shared, *rows, math.prod(columns)))
    return [_in_shape(graph, made, shape)]


def _in_shape(graph, value, shape):
    """A value, of full shape, in another, a constant at once."""
    if isinstance(value, _Constant):
        return _Constant(value.array.reshape(shape), value.name)
    return value if value.shape == tuple(shape) else _Tensor(graph.reshape(value.name, shape), tuple(shape))


def _gather(graph, equation, given):
    """Rows of a table by their number, as `table[index]` and `jnp.take` write them, and one part at a known place."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    table, index = (var.aval.shape for var in equation.invars)
    if isinstance(given[1], _Constant) and len(index) == 1:
        begins = dict(zip(numbers.start_index_map, given[1].array.tolist()))
        axes = [axis for axis in begins if sizes[axis] != table[axis]]
        ends = [begins[axis] + sizes[axis] for axis in axes]
        if all(_is_known(table[axis]) and 0 <= begins[axis] and end <= table[axis] for axis, end in zip(axes, ends)):
            held = graph.tensor(_whole(graph, given[0], table))
            part = _cut(graph, held, axes, [begins[axis] for axis in axes], ends, [1] * len(axes)) if axes else held
            return [_in_shape(graph, part, equation.outvars[0].aval.shape)]
    axis = numbers.start_index_map[0] if numbers.start_index_map else 0
    count = len(index) - 1
    behind = (*range(axis), *range(axis + count, count + len(table) - 1))
    whole = all(size == (1 if at == axis else table[at]) for at, size in enumerate(sizes))
    batches = (*numbers.operand_batching_dims, *numbers.start_indices_batching_dims)
    plain = numbers.start_index_map == numbers.collapsed_slice_dims == (axis,) and numbers.offset_dims == behind
    if not (plain and whole) or batches or index[-1] != 1:
        raise ValueError("the network picks values by computed numbers in a way (gather) that the export to ONNX does not know")
    place = graph.reshape(graph.full(given[1], index), index[:-1])
    rows = graph.op("Gather", graph.tensor(given[0]).name, place, axis=axis)
    return [_Tensor(rows, equation.outvars[0].aval.shape)]


def _iota(graph, equation, given):
    shape, axis = equation.params["shape"], equation.params["dimension"]
    if not _is_known(shape[axis]):
        raise ValueError("the network counts the examples of its batch (iota), which the export to ONNX does not know")
    counted = np.arange(shape[axis], dtype=equation.params["dtype"]).reshape(
        [-1 if at == axis else 1 for at in range(len(shape))]
    )
    return [graph.tensor(_Constant(counted, "constant"))]


def _select_n(graph, equation, given):
    if len(given) != 3 or equation.invars[0].aval.dtype != np.bool_:
        raise ValueError("the network chooses among more than two values (select_n), which the export to ONNX does not know")
    return [graph.elementwise("Where", given[0], given[2], given[1])]


def _logical(kind):
    def translate(graph, equation, given):
        if equation.outvars[0].aval.dtype != np.bool_:
            raise ValueError(f"the network has {equation.primitive.name} of the bits of numbers, which the export does not know")
        return [graph.elementwise(kind, *given)]

    return translate


def _round(graph, equation, given):
    if equation.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise ValueError("the network rounds halves away from 0, which the export to ONNX does not know; jnp.round does not")
    return [graph.elementwise("Round", given[0])]


def _number(equation, value):
    return _Constant(np.asarray(value, equation.outvars[0].aval.dtype), "constant")


def _cast(graph, equation, given):
    return [graph.elementwise("Cast", given[0], to=graph.kind(equation.params["new_dtype"]))]


_TRANSLATE: dict[str, Callable] = {
    "and": _logical("And"),
    "broadcast_in_dim": _broadcast_in_dim,
    "clamp": lambda g, e, v: [g.elementwise("Min", g.elementwise("Max", v[1], v[0]), v[2])],
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "convert_element_type": _cast,
    "dot_general": _dot_general,
    "erfc": lambda g, e, v: [g.elementwise("Sub", _number(e, 1), g.elementwise("Erf", v[0]))],
    "expand_dims": _reshape,
    "gather": _gather,
    "integer_pow": lambda g, e, v: [g.elementwise("Pow", v[0], _number(e, e.params["y"]))],
    "iota": _iota,
    "ne": lambda g, e, v: [g.elementwise("Not", g.elementwise("Equal", *v))],
    "not": _logical("Not"),
    "or": _logical("Or"),
    "pad": _pad,
    "reshape": _reshape,
    "round": _round,
    "rsqrt": lambda g, e, v: [g.elementwise("Reciprocal", g.elementwise("Sqrt", v[0]))],
    "select_n": _select_n,
    "slice": _slice,
    "split": _split,
    "square": lambda g, e, v: [g.elementwise("Mul", v[0], v[0])],
    "squeeze": _reshape,
    "transpose": _transpose,
}
_KNOWN = _TRANSLATE.keys() | _SAME.keys() | _REDUCE.keys() | _UNCHANGED
