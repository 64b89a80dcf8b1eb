"""What a run takes, before it is paid for: its step is compiled for the devices that it will run on, from shapes alone."""

import collections
import functools
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddim_jax.common.devices import processor
from ddim_jax.data import sources
from ddim_jax.training import chips, rows
from ddim_jax.training.loop import AXIS, check_batch_size, first_state, make_step, mapped_steps, train_steps
from ddim_jax.training.task import Task

# Names in the text of compiled programs.
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_CONTROL = ("while", "conditional", "call")  # run other computations, and move nothing themselves
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$", re.M)


class Collective(NamedTuple):
    """The operations of one kind that a device takes part in, in a step."""

    operations: int
    num_bytes: int  # of their results


class Plan(NamedTuple):
    """One optimizer step, as the compiler sees it; bytes are of one device."""

    kind: str  # of the devices
    devices: int
    batch_size: int
    parameters: int
    flops: float  # of a step, over all devices
    arguments: int  # bytes: parameters, their average, the optimizer's state, the data set where it is in memory, the batch
    dataset: int | None  # bytes of those that are the data set; None where it is streamed
    temporaries: int  # bytes that the step needs besides: activations above all
    program: int  # bytes of the program
    collectives: Mapping[str, Collective]
    seconds: float  # that it took to compile

    @property
    def num_bytes(self) -> int:
        """All that a device holds while it takes a step; the state after it takes the place of the state before it."""
        return self.arguments + self.temporaries + self.program


def plan(task: Task, batch_size: int, devices: Sequence[jax.Device]) -> Plan:
    """Compiles one step of a task for devices, which need not be there (see `chips.absent`), and says what it takes.

    No example is read but the first, for its shape, and no parameter is drawn.

    task:       what is to be trained; see `Task`.
    batch_size: examples a step, over all devices, which must divide it.
    devices:    all that share the work.

    Raises ValueError for a batch size that the devices do not divide, and for a step that does not fit into their memory.
    """
    check_batch_size(batch_size, len(devices))
    state, dataset, example = _shapes(task)
    batch, count = _batch(example, len(devices), 1, batch_size // len(devices)), jax.ShapeDtypeStruct((), np.int32)
    everywhere = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    whole = [_laid_out(tree, everywhere) for tree in (state, dataset, task.teacher)]
    mapped: Any = mapped_steps(task, devices=devices)
    lowered = mapped.lower(*whole, batch, count)
    start = time.perf_counter()
    compiled = _compile(lowered, devices[0], batch_size)
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    found = Plan(
        kind=devices[0].device_kind,
        devices=len(devices),
        batch_size=batch_size,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        flops=step_flops(task, batch_size),
        dataset=None if dataset is None else sum(leaf.nbytes for leaf in jax.tree.leaves(dataset)),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
        collectives=collectives(compiled.as_text()) if len(devices) > 1 else {},
        seconds=seconds,
    )
    chip = chips.CHIPS.get(found.kind)
    if chip and found.num_bytes > chip.memory:
        raise _too_large(devices[0], batch_size, f"{_bytes(found.num_bytes)} of {_bytes(chip.memory)}")
    return found


def step_flops(task: Task, batch_size: int) -> float:
    """FLOPs of one step, over all devices: XLA's count for the step as it is written, with what `remat` computes twice.

    It takes as long as to trace the step once more: seconds. NaN where JAX_PLATFORMS leaves out the processor, which counts.
    """
    state, dataset, example = _shapes(task)
    # As one device takes the whole step at once, before a compiler pads it, hides its convolutions in calls or puts it in loops.
    alone = jax.jit(functools.partial(train_steps, step_fn=make_step(task._replace(accumulate=1))))
    batch, count = _batch(example, 1, batch_size), jax.ShapeDtypeStruct((), np.int32)
    return flops(alone, state, dataset, task.teacher, batch, count)


def flops(jitted: Any, *arguments: Any) -> float:
    """XLA's count of the FLOPs of what `jax.jit` gave, for these arguments; NaN where JAX_PLATFORMS leaves out the processor.

    They are of the program as it is for TPUs: for processors some of it is written in another way (`models.products`).
    """
    with jax.default_device(processor()):  # JAX's clients of accelerators count only what is compiled
        cost = jitted.trace(*arguments).lower(lowering_platforms=("tpu",)).cost_analysis()
    return (cost or {}).get("flops", math.nan)


def peak_rate(task: Task, batch_size: int, devices: Sequence[jax.Device]) -> float | None:
    """The steps a second that these devices would take at their peak in bfloat16; None where that is not known."""
    rate = chips.peak(devices)
    flops = step_flops(task, batch_size) if rate else math.nan
    return None if rate is None or math.isnan(flops) else rate / flops


def collectives(hlo: str) -> dict[str, Collective]:
    """What a compiled program, as text, sends between devices: its collective operations by kind. One in a loop counts once."""
    found: dict[str, Collective] = {}
    # Where an operation is in two halves, X-start and X-done, the second has the shape of the result.
    for shape, kind in re.findall(rf"= (\([^=]*?\)|\S+) ({'|'.join(_COLLECTIVES)})(?:-done)?\(", _plain(hlo)):
        before = found.get(kind, Collective(0, 0))
        size = sum(num_bytes for num_bytes, _ in _arrays(shape))
        found[kind] = Collective(before.operations + 1, before.num_bytes + size)
    return found


def operations(hlo: str) -> collections.Counter[str]:
    """How often a compiled program, as text, runs each operation of its own: fusion, copy, ... One in a loop counts once."""
    return collections.Counter(operation for operation, _, _ in _instructions(hlo))


def main_memory_traffic(hlo: str) -> int:
    """Bytes that a compiled program of a TPU or GPU, as text, reads and writes in the chip's main memory (HBM).

    What XLA counts as accessed includes what a TPU's compiler keeps in the memory on the chip, marked S(1) in the text, which is
    many times as fast. Arrays count whole, without the padding of their tiles; a loop counts once, a branch always.
    """
    total = 0
    for operation, shape, arguments in _instructions(hlo):
        if operation.endswith("-start"):  # an array, or a part of it, from one memory into another: its type has both
            (first, first_main), (second, second_main) = _arrays(shape)[:2]
            total += min(first, second) * (first_main + second_main)
        elif not operation.endswith("-done"):
            total += sum(num_bytes for each in (shape, *arguments) for num_bytes, main in _arrays(each) if main)
    return total


def describe(plan: Plan, steps: int) -> str:
    """A plan as lines for people, with the time that `steps` steps take at 20, 40 and 60% of the chips' peak."""
    chip = chips.CHIPS.get(plan.kind)
    held = "no data set: it is streamed, or its size is not known" if plan.dataset is None else f"data set {_bytes(plan.dataset)}"
    of = f" of {_bytes(chip.memory)}" if chip else ""
    sent = ", ".join(f"{each.operations} {kind} of {_bytes(each.num_bytes)} in all" for kind, each in plan.collectives.items())
    lines = {
        "devices": f"{plan.devices} x {plan.kind}, {plan.batch_size} examples a step",
        "parameters": f"{plan.parameters:,}",
        "FLOPs a step": f"{plan.flops:.3g}, {plan.flops / plan.devices:.3g} a device",
        "bytes a device": f"{_bytes(plan.num_bytes)}{of}: {_bytes(plan.arguments)} of arguments ({held}), "
        f"{_bytes(plan.temporaries)} of temporaries, {_bytes(plan.program)} of program",
        "collectives a step": sent or "none",
        "compiled in": f"{plan.seconds:.0f} s",
    }
    if chip:
        hours = {share: steps * plan.flops / (plan.devices * chip.peak * share) / 3600 for share in (0.2, 0.4, 0.6)}
        lines[f"{steps:,} steps"] = ", ".join(f"{each:.3g} hours at {share:.0%}" for share, each in hours.items()) + (
            f" of {chip.peak / 1e12:.0f} TFLOP/s a device"
        )
    else:
        lines[f"{steps:,} steps"] = f"{steps * plan.flops:.3g} FLOPs; the peak of {plan.kind} is not known here"
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _shapes(task: Task) -> tuple[Any, Any, Any]:
    """The state, the data set (None where it is streamed) and what stands for one example in a batch: shapes."""
    state = jax.eval_shape(functools.partial(first_state, task, 0), task.initial)
    if sources.in_memory(task.source):
        return state, rows.from_arrays(task.source), jax.ShapeDtypeStruct((), np.int32)
    return state, None, task.source[0]


def _batch(example: Any, *lead: int) -> Any:
    """Examples [*lead, ...] as shapes alone."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), example)


def _laid_out(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays as shapes alone, with where they lie."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _compile(lowered: Any, device: jax.Device, batch_size: int) -> Any:
    """The compiled program. Raises ValueError where the compiler says that it does not fit."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = next(line for line in str(error).splitlines() if "RESOURCE_EXHAUSTED" in line)
        raise _too_large(device, batch_size, said.strip()) from error


def _too_large(device: jax.Device, batch_size: int, said: str) -> ValueError:
    return ValueError(
        f"a step of {batch_size} examples does not fit into the memory of a {device.device_kind} ({said}); try "
        "--config.training.remat, a smaller batch_size or more devices"
    )


def _instructions(hlo: str) -> Iterator[tuple[str, str, list[str]]]:
    """(operation, its type, those of its arguments) of what a compiled program, as text, runs one by one, also in its loops."""
    hlo = _plain(hlo)
    computations = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?\{\n(.*?)^\}", hlo, re.M | re.S))
    left = re.findall(r"^ENTRY %?([\w.\-]+)", hlo, re.M)
    while left:
        shapes: dict[str, str] = {}
        for name, shape, operation, rest in _INSTRUCTION.findall(computations[left.pop()]):
            shapes[name] = shape
            arguments, how = (re.findall(r"%([\w.\-]+)", part) for part in rest.split(")", 1))
            if operation in _CONTROL:
                left += [each for each in how if each in computations]
            elif operation not in _FREE:
                yield operation, shape, [shapes[each] for each in arguments]


def _plain(hlo: str) -> str:
    """The text of a compiled program without its comments."""
    return re.sub(r"/\*.*?\*/", "", hlo)


def _arrays(shape: str) -> list[tuple[int, bool]]:
    """(bytes, whether it lies in the main memory) of each array in a type as XLA writes it."""
    found = re.findall(r"\b([a-z]+\d\w*|pred)\[([\d,]*)\](\{[^}]*\})?", shape)
    sizes = (math.prod(map(int, filter(None, sides.split(",")))) * _num_bytes(dtype) for dtype, sides, _ in found)
    return [(size, "S(" not in layout) for size, (_, _, layout) in zip(sizes, found)]


def _num_bytes(dtype: str) -> int:
    """Of one number of a type as XLA names it: f32, bf16, s8, pred, f8e4m3fn."""
    return 1 if dtype == "pred" else max(1, int(re.findall(r"\d+", dtype)[0]) // 8)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
