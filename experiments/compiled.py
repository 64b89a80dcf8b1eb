"""What an accelerator's own compiler says of a network, on any machine: arithmetic, memory read and written, and memory held.

    pip install -c constraints.txt -e ".[tpu]"       # or .[cuda13], for GPUs
    python -m experiments.compiled --config=configs/cifar10.py --batch_size=256 --dtype=bfloat16
    python -m experiments.compiled --config=configs/cifar10.py --batch_size=256 --dtype=bfloat16 --topology=h100:1
    python -m experiments.compiled --config=configs/cifar10.py --batch_size=8 --dtype=float32 --topology=cpu

The last line asks the compiler for this machine's own processor.

One chip computes the network (forward), its loss with the gradient (gradient), or DDIM (sampler), whose loop counts as one step.
The bytes accessed are what the compiler counts, also in the memory on the chip, where it keeps what fits. Those in main memory
are counted in the compiled program: divided by the chip's bandwidth, they are the time that memory alone would take. For TPUs
each line takes minutes. A GPU is not asked which of several ways is the fastest for it, as it is where it is there.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import SingleDeviceSharding
from ml_collections import config_flags

from ddim_jax import configuration
from ddim_jax.commands import command
from ddim_jax.common.devices import processor
from ddim_jax.diffusion import losses, process, sampling, schedule, solvers
from ddim_jax.training import chips, planning

PARTS = ("forward", "gradient", "sampler")
_CONFIG = config_flags.DEFINE_config_file("config", "configs/cifar10.py", "Whose network.", lock_config=True)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images at once.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ("float32", "bfloat16"), "What layers compute in.")
_REMAT = flags.DEFINE_bool("remat", False, "Whether the gradient computes activations again.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:2x2", "TPUs or GPUs, like h100:1, one of which is compiled for; or cpu, for the processor."
)
_PART = flags.DEFINE_multi_enum("part", list(PARTS), PARTS, "What to compile; all by default.")


def main(_):
    device = processor() if _TOPOLOGY.value == "cpu" else chips.absent(_TOPOLOGY.value)[0]
    batch, there = _BATCH_SIZE.value, SingleDeviceSharding(device)
    print(f"one {device.device_kind}, batch {batch}, {_DTYPE.value}")
    for name, function, arguments in parts(_CONFIG.value.copy_and_resolve_references()):
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), arguments)
        began = time.perf_counter()
        compiled = jax.jit(function).lower(*shapes).compile()
        seconds, cost, memory = time.perf_counter() - began, compiled.cost_analysis(), compiled.memory_analysis()
        flops = cost["flops"] if cost else planning.flops(jax.jit(function), *arguments)  # JAX counts none for GPUs
        accessed = [f"{cost['bytes accessed'] / batch / 1e6:.4g} MB accessed"] if cost else []
        text = compiled.as_text()
        if device.platform != "cpu":
            accessed.append(f"{planning.main_memory_traffic(text) / batch / 1e6:.4g} MB in main memory")
        operations = planning.operations(text)
        print(
            f"{name}: {', '.join([f'{flops / batch / 1e9:.4g} GFLOP', *accessed])} an image, "
            f"{memory.temp_size_in_bytes / 1e6:,.0f} MB of temporaries, {operations['fusion']} fusions and "
            f"{operations['copy']} copies, compiled in {seconds:.0f} s",
            flush=True,
        )


def parts(config: Any) -> Iterator[tuple[str, Callable, tuple]]:
    """(name, function, its arguments as shapes) of those that the flags choose."""
    network = configuration.make_network(config, _DTYPE.value, _REMAT.value)
    params, beta = configuration.parameter_shapes(config), schedule.linear()
    x = jax.ShapeDtypeStruct((_BATCH_SIZE.value, *configuration.image_shape(config)), jnp.float32)
    step = jax.ShapeDtypeStruct((_BATCH_SIZE.value,), jnp.int32)
    table = solvers.ddim(beta, schedule.subsequence(1000, 2, "leading"))

    def forward(params: Any, x: jax.Array, step: jax.Array) -> jax.Array:
        return network.apply(params, x, step, {}, None)

    def loss(params: Any, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
        return losses.denoising_loss(beta, process.number_from_zero(lambda x, step: forward(params, x, step)), x0, t, eps).mean()

    def sample(params: Any, x: jax.Array) -> jax.Array:
        predict = process.from_eps(beta, process.number_from_zero(lambda x, step: forward(params, x, step)))
        return sampling.sample(predict, table, x, None)

    made: dict[str, tuple[Callable, tuple]] = {
        "forward": (forward, (params, x, step)),
        "gradient": (jax.value_and_grad(loss), (params, x, step, x)),
        "sampler": (sample, (params, x)),
    }
    return ((name, *made[name]) for name in dict.fromkeys(_PART.value))


if __name__ == "__main__":
    command.run(main)
