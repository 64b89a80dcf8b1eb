"""A trained network, and a sampler with it, as StableHLO that needs none of this package: see `save` and docs/export.md."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ddim_jax.common.extras import require
from ddim_jax.common.files import whole_folder
from ddim_jax.common.seeds import named
from ddim_jax.diffusion import process, sampling, solvers
from ddim_jax.inference.generate import STREAM, example_keys
from ddim_jax.inference.model import Model
from ddim_jax.interop import described

PLATFORMS = ("cpu", "cuda", "tpu")
HISTORY = 4  # predictions that the sampler keeps, as many as any solver's table has weights for
_TOLERANCE = 1e-4  # of the largest |output|


class Checked(NamedTuple):
    """What was found of the exported functions, read back on this machine, before they were written."""

    network: float  # the largest difference of the network to JAX's, as it runs here
    sampler: float  # and of samples of 4 steps with noise


def save(folder: str | os.PathLike, model: Model, prediction: str, name: str) -> Checked:
    """Writes network.stablehlo, sampler.stablehlo, model.json and tables.json into a new folder: whole or not at all.

    Both files are what `jax.export` serialises, for cpu, cuda and tpu, with the parameters inside, and a batch of any size:

        network(x float32 [batch, H, W, C], step int32 [batch], [label int32 [batch]]) -> float32 [batch, H, W, C]
        sampler(x, table, seed uint32, [label]) -> float32 [batch, H, W, C]

    with the label of networks that are told one. `table` is a dict of the columns t int32 [S], x0, eps float32 [S, 4] and noise
    float32 [S], for any S, as tables.json has them. x_0 is clipped where the model's own settings say so.

    Raises ValueError for a model that cannot be exported, FileExistsError where the folder holds something, and
    ModuleNotFoundError without flatbuffers; ArithmeticError where what is read back gives something else.
    """
    described.check(model)
    require("flatbuffers", "export")
    network, sampler = _exported(_network(model), _network_shapes(model)), _exported(_sampler(model), _sampler_shapes(model))
    found = check(network, sampler, model)
    with whole_folder(folder) as part:
        (part / "network.stablehlo").write_bytes(network)
        (part / "sampler.stablehlo").write_bytes(sampler)
        described.write(part, model, prediction, name, "network.stablehlo", HISTORY)
    return found


def check(network: bytes, sampler: bytes, model: Model) -> Checked:
    """Both functions, read back, beside the model. Raises ArithmeticError where they differ by more than rounding."""
    steps = np.array([0, (model.schedule.num_steps - 1) // 2, model.schedule.num_steps - 1], np.int32)
    told = model.told(len(steps), model.classes)
    generator = model.generator()
    x, keys = generator.latents(0, np.arange(len(steps)))
    table = solvers.ddim(model.schedule, model.tau(min(4, model.schedule.num_steps)), 0.5)
    found = []
    for content, given, expected in (
        (network, (x, steps), jax.jit(model.network.apply)(model.params, x, steps, told, None)),
        (sampler, (x, columns(table), np.uint32(0)), generator.sample(model.params, table, x, keys, told)),
    ):
        got = export.deserialize(bytearray(content)).call(*given, *told.values())
        found.append(float(jnp.max(jnp.abs(got - expected))))
        if not found[-1] <= _TOLERANCE * max(1, float(jnp.max(jnp.abs(expected)))):
            raise ArithmeticError(
                f"what was exported differs from JAX by {found[-1]:.1e} when it is read back: it is not written"
            )
    return Checked(*found)


def columns(table: solvers.StepTable) -> dict[str, np.ndarray]:
    """The table of any solver as the exported sampler takes it."""

    def padded(weights: Any) -> np.ndarray:
        return np.pad(np.asarray(weights, np.float32), ((0, 0), (0, HISTORY - np.shape(weights)[1])))

    steps, noise = np.asarray(table.t, np.int32), np.asarray(table.noise, np.float32)
    return {"t": steps, "x0": padded(table.x0), "eps": padded(table.eps), "noise": noise}


def _network(model: Model) -> Any:
    def network(x: jax.Array, step: jax.Array, *label: jax.Array) -> jax.Array:
        return model.network.apply(model.params, x, step, dict(zip(["label"], label)), None)

    return network


def _sampler(model: Model) -> Any:
    network = _network(model)

    def sampler(x: jax.Array, table: dict[str, jax.Array], seed: jax.Array, *label: jax.Array) -> jax.Array:
        predict = model.process.predictor(process.number_from_zero(lambda x, step: network(x, step, *label)))
        predict = process.clip_x0(model.schedule, predict) if model.defaults.clip else predict
        keys = example_keys(named(jax.random.key(seed), STREAM), jnp.arange(x.shape[0]))[:, 1]
        rows = solvers.StepTable(table["t"], table["t"], table["x0"], table["eps"], table["noise"])  # nothing is computed of s
        return sampling.sample(predict, rows, x, keys)

    return sampler


def _network_shapes(model: Model) -> tuple:
    (batch,) = export.symbolic_shape("batch")
    told = [jax.ShapeDtypeStruct((batch,), jnp.int32)] if model.num_classes else []
    return (jax.ShapeDtypeStruct((batch, *model.shape), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32), *told)


def _sampler_shapes(model: Model) -> tuple:
    batch, steps = export.symbolic_shape("batch, steps")
    weights, noise = (jax.ShapeDtypeStruct((steps, *more), jnp.float32) for more in ((HISTORY,), ()))
    table = {"t": jax.ShapeDtypeStruct((steps,), jnp.int32), "x0": weights, "eps": weights, "noise": noise}
    told = [jax.ShapeDtypeStruct((batch,), jnp.int32)] if model.num_classes else []
    x = jax.ShapeDtypeStruct((batch, *model.shape), jnp.float32)
    return (x, table, jax.ShapeDtypeStruct((), jnp.uint32), *told)


def _exported(function: Any, shapes: tuple) -> bytes:
    return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(*shapes).serialize())
