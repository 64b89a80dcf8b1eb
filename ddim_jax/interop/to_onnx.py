"""A trained network as an ONNX file, with all that another program needs to sample from it: see `save` and docs/export.md."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddim_jax.common.extras import require
from ddim_jax.common.files import whole_folder
from ddim_jax.inference.model import Model
from ddim_jax.interop import described, onnx_graph

DTYPES = {"float32": "network.onnx", "float16": "network_float16.onnx"}  # of the weights, with the name of the file
_TOLERANCE = 1e-4  # of the largest |output|, which float32 in another order of sums stays well below


class Checked(NamedTuple):
    """What was found of an exported network before it was written."""

    error: float  # the largest difference to JAX, of the same weights
    largest: float  # the largest |output|
    rounding: float  # the largest difference to the network as it was before its weights were rounded; 0 for float32


def save(folder: str | os.PathLike, model: Model, prediction: str, name: str, dtype: str = "float32") -> Checked:
    """Writes the network, model.json and tables.json into a new folder: whole or not at all.

    The network takes x [batch, H, W, C], step int32 [batch] from 0, and label int32 [batch] or what else it is told, and gives
    `prediction`; the batch is of any size. It computes in float32. With a dtype of float16 its kernels are stored so, and cast
    where they are used; biases and scales, which are few, stay float32, as in `weights.save`.

    Raises ValueError for a model that cannot be exported, FileExistsError where the folder holds something, and
    ModuleNotFoundError without onnx and onnxruntime; ArithmeticError where onnxruntime does not give what JAX gives.
    """
    described.check(model)
    file = DTYPES[dtype]
    params = jax.tree.map(np.asarray, model.params) if dtype == "float32" else jax.tree.map(_halved, model.params)
    content = onnx_graph.convert(_function(model), params, inputs(model), "prediction").SerializeToString()
    found = check(content, model, params)
    with whole_folder(folder) as part:
        (part / file).write_bytes(content)
        described.write(part, model, prediction, name, file)
    return found


def inputs(model: Model) -> dict[str, tuple[tuple[int, ...], str]]:
    """What the network takes: of each name the shape after the batch, and the dtype."""
    told = {"label": ((), "int32")} if model.num_classes else {}
    return {"x": (model.shape, "float32"), "step": ((), "int32")} | told


def check(content: bytes, model: Model, params: Any) -> Checked:
    """The network of a file beside JAX's with these parameters: batches of 1 and 4, the first and the last step among others.

    Raises ArithmeticError where they differ by more than rounding.
    """
    ort = require("onnxruntime", "export")
    try:
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, all onnxruntime's own
        raise ValueError(f"onnxruntime cannot run the network: {str(error).splitlines()[0]}") from error
    function = jax.jit(_function(model))
    rng, last, found = np.random.default_rng(0), model.schedule.num_steps - 1, Checked(0.0, 0.0, 0.0)
    wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    for steps in ([last // 2], [0, last // 10, last // 3, last]):
        given: dict[str, Any] = {"x": rng.standard_normal((len(steps), *model.shape), np.float32)}
        given["step"] = np.array(steps, np.int32)
        if model.num_classes:
            classes = int(model.network.null.get("label", model.num_classes - 1))
            given["label"] = np.linspace(classes, 0, len(steps)).astype(np.int32)  # "not told" first
        expected, before = (np.asarray(function(p, **given)) for p in (wide, model.params))
        got = session.run(None, given)[0]
        differences = [float(np.max(np.abs(a - expected))) for a in (got, before)]
        found = Checked(*map(max, found, (differences[0], float(np.max(np.abs(expected))), differences[1])))
    if not found.error <= _TOLERANCE * max(1, found.largest):
        raise ArithmeticError(
            f"onnxruntime differs from JAX by {found.error:.1e}, of outputs up to {found.largest:.1e}: the network is not written"
        )
    return found


def _function(model: Model) -> Any:
    def function(params: Any, x: jax.Array, step: jax.Array, **condition: jax.Array) -> jax.Array:
        return model.network.apply(params, x, step, condition, None)

    return function


def _halved(array: Any) -> np.ndarray:
    """A kernel in float16; biases and scales as they are. Raises ValueError where float16 is too narrow."""
    array = np.asarray(array)
    if np.squeeze(array).ndim < 2:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.all(np.isfinite(half)):
        raise ValueError(f"the network has a weight of {np.max(np.abs(array)):.1e}, which float16 cannot hold: export float32")
    return half
