"""How fast this trains and samples here; with --peer, side by side with diffusers in PyTorch.

    python -m experiments.benchmark --config=configs/cifar10.py --batch_size=8
    python -m experiments.benchmark --config=configs/cifar10.py --batch_size=128 --dtype=bfloat16 --peer --output=FILE.json

Of --measure:
    sampler   microseconds a step of the sampler alone, whose network costs nothing, at batches of 64 and of 256
    sampling  image-steps a second: the network asked once, and the step of DDIM
    training  images a second: loss, gradient, Adam, the averaged weights

Every figure is the median of --repeats, after a call that is not timed. The peer computes the same network with the same
weights, which is checked first. It takes turns with us, since machines are noisy, and each turn begins with a call that is not
timed. It is diffusers' UNet2DModel, channels last, as it is and by torch.compile (on GPUs with CUDA graphs, too), Adam fused: the
fastest of them counts.

Beside them: seconds of the first call, which traces and compiles, and of one whose program comes from JAX's folder of compiled
ones; the most memory that was in use by then; the share of time that goes into convolutions and products of matrices, by a
profile; and the arithmetic that is done a second (of chips whose peak is known, its share of that, the MFU).
"""

import contextlib
import functools
import importlib.metadata
import itertools
import json
import pathlib
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import config_flags

from ddim_jax import configuration, weights
from ddim_jax.commands import command
from ddim_jax.common import extras
from ddim_jax.common.files import check_writable, whole
from ddim_jax.diffusion import process, sampling, schedule, solvers
from ddim_jax.interop import to_diffusers
from ddim_jax.training import chips, loop, planning, rows
from experiments.profiling import share_of_products

MEASURES = ("sampler", "sampling", "training")
_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/cifar10.py", "Whose network, and how it is trained.", lock_config=True
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images at once.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "What layers compute in.")
_MEASURE = flags.DEFINE_multi_enum("measure", list(MEASURES), MEASURES, "What to measure; all by default.")
_STEPS = flags.DEFINE_integer("steps", 2, "How many steps a timed call takes.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "How many calls are timed.", lower_bound=1)
_PEER = flags.DEFINE_bool("peer", False, "Whether diffusers is measured, too (the extra peers).")
_OUTPUT = flags.DEFINE_string("output", None, "A .json file for the figures.")

Call = Callable[[], Any]  # ends when its work is done


def main(_):
    if _OUTPUT.value:
        check_writable(_OUTPUT.value)
    peer = extras.require("experiments.peer", "peers") if _PEER.value else None
    config = _CONFIG.value.copy_and_resolve_references()
    config.training.dtype = config.sampling.dtype = _DTYPE.value
    config.training.batch_size = _BATCH_SIZE.value
    configuration.check(config)
    found: dict[str, Any] = {"about": about(peer is not None)}
    print(", ".join(f"{name} {value}" for name, value in found["about"].items()))
    measures = {"sampler": measure_sampler, "sampling": measure_sampling, "training": measure_training}
    with tempfile.TemporaryDirectory() as folder:  # of compiled programs: a new one, so that each first call compiles
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", folder)
        for name, figures in itertools.chain.from_iterable(
            measures[each](config, peer) for each in dict.fromkeys(_MEASURE.value)
        ):
            found[name] = figures
            print(describe(name, figures), flush=True)
    if _OUTPUT.value:
        with whole(_OUTPUT.value) as part:
            part.write_text(json.dumps(found, indent=1) + "\n")


def about(peer: bool) -> dict[str, Any]:
    """What the figures were found with."""
    versions = ("jax", "flax", *(("torch", "diffusers") if peer else ()))
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        **{name: importlib.metadata.version(name) for name in versions},
    }


def measure_sampler(config, peer):
    """(name, entry) of the sampler alone: DDIM, DDIM at eta = 1 and UniPC of order 2, in 50 steps."""
    beta, tau = schedule.linear(), schedule.subsequence(1000, 50, "leading")
    tables = {"ddim": solvers.ddim(beta, tau), "ddim eta=1": solvers.ddim(beta, tau, 1.0), "unipc": solvers.unipc(beta, tau)}
    run = jax.jit(functools.partial(sampling.sample, process.from_eps(beta, lambda x, t: 0.5 * x)))
    for name, table in tables.items():
        for batch in (64, 256):
            x = jax.random.normal(jax.random.key(0), (batch, *configuration.image_shape(config)))
            key = jax.random.key(1)

            def ours():
                jax.block_until_ready(run(table, x, key))

            def peers():
                return peer.sampler(name, np.asarray(x), len(tau) - 1)

            yield f"sampler, {name}, batch {batch}", entry(ours, peer and peers, len(tau) - 1, "us/step", slower_is_more=True)


def measure_sampling(config, peer):
    """(name, entry) of DDIM with the network."""
    batch, steps = _BATCH_SIZE.value, _STEPS.value
    params = random_params(config)
    generator = configuration.make_model(config, params, _DTYPE.value).generator()
    table = solvers.ddim(configuration.make_schedule(config), schedule.subsequence(config.diffusion.num_steps, steps, "leading"))
    params, x = jax.device_put(params), generator.latents(0, np.arange(batch))[0]

    def ours():
        return jax.block_until_ready(generator.sample(params, table, x))

    def peers():
        with exported(config, params) as folder:
            return peer.sampling(folder, np.asarray(x), steps, _DTYPE.value, np.asarray(ours()))

    network = jax.jit(lambda params, x: generator.network.apply(params, x, np.zeros(batch, np.int32), {}, None))
    found = entry(ours, peer and peers, batch * steps, "image-steps/s")
    yield f"sampling, {_DTYPE.value}, batch {batch}", found | arithmetic(found, planning.flops(network, params, x) / batch)


def measure_training(config, peer):
    """(name, entry) of the optimizer's step."""
    batch, steps = _BATCH_SIZE.value, _STEPS.value
    images = np.random.default_rng(0).integers(0, 256, (max(64, batch), *configuration.image_shape(config)), np.uint8)
    source = {"image": images} | ({"label": np.zeros(len(images), np.int32)} if config.model.num_classes else {})
    task = configuration.make_bare_task(config, source if len(source) > 1 else images)
    params = random_params(config)
    state = loop.on_every_device(loop.first_state(task, 0, params))
    dataset, compiled = loop.on_every_device(rows.from_arrays(task.source)), loop.mapped_steps(task)
    per_call = configuration.run_arguments(config)["steps_per_call"]
    index = np.zeros((jax.local_device_count(), per_call, batch // jax.device_count()), np.int32)

    def ours():
        nonlocal state
        for _ in range(max(1, steps // per_call)):
            state, metrics = compiled(state, dataset, None, index, per_call)
        jax.block_until_ready((state, metrics))

    done = batch * per_call * max(1, steps // per_call)

    def peers():
        with exported(config, params) as folder:
            return peer.training(folder, images[:batch], done // batch, _DTYPE.value, config)

    found = entry(ours, peer and peers, done, "images/s")
    yield f"training, {_DTYPE.value}, batch {batch}", found | arithmetic(found, planning.step_flops(task, batch) / batch)


def random_params(config) -> Any:
    """Parameters under which every layer counts."""
    draw = np.random.default_rng(0)
    shapes = configuration.parameter_shapes(config)
    return jax.tree.map(lambda leaf: draw.normal(0, 0.02, leaf.shape).astype(np.float32), shapes)


@contextlib.contextmanager
def exported(config, params) -> Iterator[pathlib.Path]:
    """A folder of diffusers that holds the network, for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "peer"
        to_diffusers.save(path, weights.Weights(config, jax.device_get(params)))
        yield path


def entry(
    ours: Call, peers: Callable[[], Mapping[str, Call]] | None, amount: int, unit: str, slower_is_more: bool = False
) -> dict[str, Any]:
    """The figures of calls that each do `amount`, timed in turn: a rate, or with slower_is_more the microseconds for one.

    The peers are made once our first call was timed and its memory was read.
    """
    first = {"ours": seconds(ours)}
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use") or 1024 * resource.getrusage(
        resource.RUSAGE_SELF
    ).ru_maxrss
    calls = {"ours": ours, **(peers() if peers else {})}
    first |= {name: seconds(call) for name, call in calls.items() if name != "ours"}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_REPEATS.value):
        for name, call in calls.items():
            if len(calls) > 1:
                call()  # the first one after another's call waits for memory
            times[name].append(seconds(call))
    medians = {name: statistics.median(each) for name, each in times.items()}
    found: dict[str, Any] = {"unit": unit, "first_call_seconds": first, "peak_bytes": memory}
    found |= {name: 1e6 * each / amount if slower_is_more else amount / each for name, each in medians.items()}
    if len(calls) > 1:
        found["ratio"] = min(each for name, each in medians.items() if name != "ours") / medians["ours"]
    found["products_share"] = share_of_products(ours)
    jax.clear_caches()
    found["from_cache_seconds"] = seconds(ours)
    return found


def arithmetic(found: Mapping[str, Any], flops: float) -> dict[str, float]:
    """What an entry's rate is in FLOP/s, and of chips whose peak is known its share of that; `flops` are of one image."""
    rate, peak = found["ours"] * flops, chips.peak(jax.devices())
    return {"flops_per_second": rate} | ({"mfu": rate / peak} if peak else {})


def seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def describe(name: str, entry: Mapping[str, Any]) -> str:
    """Lines for people."""
    rates = [f"{each} {entry[each]:,.4g}" for each in entry["first_call_seconds"]]
    more = [f"{each} {entry[each]:.2f}" for each in ("ratio", "mfu") if each in entry]
    about = [f"first call {entry['first_call_seconds']['ours']:.1f} s, from the cache {entry['from_cache_seconds']:.1f} s"]
    about += [f"{entry['peak_bytes'] / 1e9:.2f} GB", f"{entry['products_share']:.0%} of the time in products"]
    about += [f"{entry['flops_per_second'] / 1e12:.3g} TFLOP/s"] if "flops_per_second" in entry else []
    return f"{name}, {entry['unit']}: {', '.join([*rates, *more])}\n    {', '.join(about)}"


if __name__ == "__main__":
    command.run(main)
