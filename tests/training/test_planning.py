"""What a run takes, against what one counts by hand."""

import functools
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import celeba, cifar10, demo, lsun_bedroom, lsun_church
from ddim_jax import configuration
from ddim_jax.diffusion import schedule
from ddim_jax.models.network import Network
from ddim_jax.training import chips, planning
from ddim_jax.training.planning import Collective, Plan
from ddim_jax.training.task import Task
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
WITHOUT_LIBTPU = pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
HAS_CUDA = importlib.util.find_spec("jax_plugins") is not None and importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
WITH_CUDA = pytest.mark.skipif(not HAS_CUDA, reason='needs JAX for CUDA: pip install -c constraints.txt -e ".[cuda13]"')
WITH_LIBTPU = pytest.mark.skipif(not HAS_LIBTPU, reason='needs libtpu: pip install -c constraints.txt -e ".[tpu]"')


def products(layers, width=32):
    """A task whose network is x [B, width] times `layers` matrices of its own."""

    def init(key, example):
        return [jnp.zeros((width, width)) for _ in range(layers)]

    def apply(params, x, step, condition, key):
        return functools.reduce(jnp.matmul, params, x)

    return Task(Network(init, apply), schedule.linear(10), np.zeros((100, width), np.float32), optax.sgd(0.1))


def plan(task, batch_size):
    return planning.plan(task, batch_size, jax.devices()[:1])


def test_parameters_and_bytes_of_products():
    found = plan(products(3), 8)
    assert found.parameters == 3 * 32 * 32
    # What goes in: parameters and their average, the data set, 8 indices, and the state's step and seed.
    assert found.dataset == 4 * 100 * 32
    assert found.arguments == 2 * 4 * found.parameters + found.dataset + 4 * 8 + 2 * 4
    assert found.num_bytes >= found.arguments and found.collectives == {} and found.devices == 1


@pytest.mark.slow
def test_flops_of_products():
    """A product [B, n] x [n, n] takes 2 B n n, and two more of that size for its gradients."""

    def flops(layers, batch_size):
        return plan(products(layers), batch_size).flops

    # The differences leave out what the rest takes: by parameter (the optimizer), and by example (noise, the loss).
    of_layers = (flops(4, 24) - flops(2, 24)) - (flops(4, 8) - flops(2, 8))
    assert of_layers == 3 * 2 * (24 - 8) * 32 * 32 * (4 - 2)


def test_the_rate_at_the_peak(monkeypatch):
    """As many devices as there are, each of a peak that the table has; None where it has none, as of processors."""
    task, devices = products(3), 2 * jax.devices()[:1]
    assert planning.peak_rate(task, 8, devices) is None
    monkeypatch.setitem(chips.CHIPS, devices[0].device_kind, chips.Chip(peak=1e9, memory=1e9))
    assert planning.peak_rate(task, 8, devices) == pytest.approx(2 * 1e9 / plan(task, 8).flops)


def test_a_configuration_is_checked_for_the_devices_of_its_run():
    """Not for those here: what each of 16 takes is divided, and whether it fits is for the compiler to say."""
    config = tiny.get_config()
    config.training.update(batch_size=10**8, accumulate=5)
    with pytest.raises(ValueError, match="config.training.batch_size=100000000 takes at least .* ask for less"):
        configuration.check(config)
    configuration.check(config, 16)
    config.training.update(batch_size=16, accumulate=2)
    configuration.check(config)
    with pytest.raises(ValueError, match="accumulate is 2, which does not divide the 1 examples of a device"):
        configuration.check(config, 16)
    config.training.update(batch_size=24, accumulate=1)
    with pytest.raises(ValueError, match="batch_size is 24, which the 16 devices do not divide; try 32"):
        configuration.check(config, 16)


def test_the_data_set_and_what_is_streamed():
    held = products(1)
    streamed = held._replace(source=[held.source[0]])
    found, other = plan(held, 8), plan(streamed, 8)
    assert other.dataset is None
    assert found.arguments - other.arguments == found.dataset + 4 * 8 - 4 * 8 * 32  # indices in place of examples


@pytest.mark.slow
def test_no_data_set_need_be_there():
    for config, held in [(cifar10, True), (celeba, True), (lsun_bedroom, False), (lsun_church, False), (demo, True)]:
        config = config.get_config()
        source = configuration.stand_in_source(config)
        task = configuration.make_bare_task(config, source)
        state, dataset, example = planning._shapes(task)
        assert (dataset is not None) == held
        if config.model.num_classes:
            assert jax.tree.map(np.shape, source) == {"image": (4500, 28, 28, 1), "label": (4500,)}
    config = cifar10.get_config()
    assert configuration.stand_in_source(config).nbytes == 50_000 * 32 * 32 * 3
    config.data.update(name="folder")
    (one,) = configuration.stand_in_source(config)
    assert one.shape == (32, 32, 3) and one.dtype == np.uint8


def test_stand_in_of_digits_is_like_the_digits():
    config = demo.get_config()
    real, stand_in = configuration.make_source(config), configuration.stand_in_source(config)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), real) == jax.tree.map(lambda a: (a.shape, a.dtype), stand_in)


@pytest.mark.parametrize("config, count", [(cifar10, 35_746_307), (celeba, 78_700_803), (lsun_church, 113_673_219)])
def test_parameters_of_the_paper(config, count):
    """The numbers of the published checkpoints (configs/*.py), as the state that is planned for has them."""
    config = config.get_config()
    task = configuration.make_bare_task(config, configuration.stand_in_source(config))
    params = planning._shapes(task)[0].params
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count


def test_collectives_are_read_off_the_text():
    """Lines as XLA's text has them (jaxlib 0.12), for CPUs, GPUs and TPUs."""
    hlo = """
  %all-reduce.3 = (f32[1,1,64,3]{3,2,1,0:T(8,128)}, bf16[5]{0}, /*index=2*/f32[]{:T(128)S(6)}) all-reduce(%a, %b, %c), x={}
  %get = f32[1,1,64,3]{3,2,1,0} get-tuple-element((f32[1,1,64,3], bf16[5], f32[]) %all-reduce.3), index=0
  %s = f32[8]{0} all-reduce-start(f32[8]{0} %p), metadata={op_name="pmean"}
  ROOT %d = f32[8]{0} all-reduce-done(f32[8]{0} %s)
  %g = (pred[4]{0}, pred[16]{0}) all-gather-start(pred[4]{0} %m)
  %h = pred[16]{0} all-gather-done((pred[4]{0}, pred[16]{0}) %g)
  %fusion = f32[7]{0} fusion(%x), metadata={op_name="a all-reduce(b)"}
"""
    assert planning.collectives(hlo) == {
        "all-reduce": Collective(2, 4 * 192 + 2 * 5 + 4 + 4 * 8),
        "all-gather": Collective(1, 16),
    }


def test_traffic_of_the_main_memory_is_read_off_the_text():
    """Lines as the TPU's compiler writes them (libtpu 0.0.50), shortened; S(1) is the memory on the chip."""
    hlo = """HloModule jit_f, is_scheduled=true

%fused (param_0: f32[64,32]) -> f32[64,32] {
  %param_0 = f32[64,32]{1,0:T(8,128)} parameter(0)
  ROOT %add.1 = f32[64,32]{1,0:T(8,128)} add(%param_0, %param_0)
}

%body (arg: (f32[64,32], s32[])) -> (f32[64,32], s32[]) {
  %arg = (f32[64,32]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %got = f32[64,32]{1,0:T(8,128)} get-tuple-element(%arg), index=0
  %inside = f32[64,32]{1,0:T(8,128)} fusion(%got), kind=kLoop, calls=%fused
  ROOT %out = (f32[64,32]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%inside, %got)
}

ENTRY %main (x.1: f32[64,32]) -> f32[64,32] {
  %x.1 = f32[64,32]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %copy-start = (f32[64,32]{1,0:T(8,128)S(1)}, f32[64,32]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x.1)
  %copy-done = f32[64,32]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[64,32]{1,0:T(8,128)}), f32[16,32]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x.1)
  %both = (bf16[64,32]{1,0:T(8,128)(2,1)}, /*index=1*/f32[64]{0:T(128)S(1)}) fusion(%copy-done), kind=kOutput, calls=%fused
  %first = bf16[64,32]{1,0:T(8,128)(2,1)} get-tuple-element(%both), index=0
  %there = (f32[64,32]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%x.1, %first)
  %loop = (f32[64,32]{1,0:T(8,128)}, s32[]{:T(128)}) while(%there), condition=%absent, body=%body
  ROOT %after = f32[64,32]{1,0:T(8,128)} get-tuple-element(%loop), index=0
}
"""
    x = 4 * 64 * 32
    copied, sliced, written, in_the_loop = x, x // 4, x // 2, 2 * x
    assert planning.main_memory_traffic(hlo) == copied + sliced + written + in_the_loop
    assert planning.operations(hlo) == {"fusion": 2, "copy-start": 1, "copy-done": 1, "slice-start": 1}


@pytest.mark.slow
def test_a_network_as_the_compiler_of_this_processor_sees_it():
    """Its arithmetic is that of the plain count, but for what XLA rewrites: within a tenth."""
    line = ["--config=tests/tiny.py", "--batch_size=8", "--dtype=float32", "--part=forward", "--topology=cpu"]
    done = python("-m", "experiments.compiled", *line)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^forward: ([\d.]+) GFLOP, .* ([1-9]\d*) fusions and \d+ copies", done.stdout, re.M)
    config = tiny.get_config()
    network, shapes = configuration.make_network(config), configuration.parameter_shapes(config)
    x, t = jax.ShapeDtypeStruct((8, 28, 28, 1), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32)
    counted = planning.flops(jax.jit(lambda params, x, t: network.apply(params, x, t, {}, None)), shapes, x, t)
    assert float(found[1]) == pytest.approx(counted / 8e9, rel=0.1)


EIGHT = """
import jax, json
from ddim_jax.training import planning
from tests.training.test_planning import products
assert jax.device_count() == 8
print(json.dumps(planning.plan(products(3), 16, jax.devices())._asdict()))
"""


@pytest.mark.slow
def test_eight_devices_reduce_their_gradients():
    """What they send is the gradient and the loss, 4 bytes a number; each holds a whole state and takes an eighth of a batch."""
    done = python("-c", EIGHT, JAX_NUM_CPU_DEVICES="8")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(num_bytes for _, num_bytes in found["collectives"].values()) == 4 * (3 * 32 * 32 + 1)
    assert set(found["collectives"]) == {"all-reduce"}
    alone = plan(products(3), 16)
    assert alone.arguments - found["arguments"] == 4 * (16 - 2)
    assert found["flops"] == alone.flops


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(ValueError, match="batch_size is 0, which the 1 devices do not divide; try 1"):
        plan(products(1), 0)


def test_a_step_that_does_not_fit(monkeypatch):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20G of 15.75G hbm.")

    with pytest.raises(ValueError, match="a step of 64 examples does not fit .* Used 20G of 15.75G hbm.*remat"):
        planning._compile(Lowered(), jax.devices()[0], 64)


def test_description():
    made = Plan("TPU v5 lite", 16, 128, 10**6, 4e12, 2 * 10**9, 10**6, 10**9, 0, {"all-reduce": Collective(2, 4 * 10**6)}, 60.0)
    lines = planning.describe(made, 800_000).splitlines()
    assert lines[0].endswith("16 x TPU v5 lite, 128 examples a step")
    assert "3 GB of 17.2 GB: 2 GB of arguments (data set 1 MB), 1 GB of temporaries" in lines[3]
    assert lines[4].endswith("2 all-reduce of 4 MB in all")
    # 800,000 x 4e12 FLOP at 20% of 16 x 197e12 FLOP/s are 5076 s.
    assert "1.41 hours at 20%, 0.705 hours at 40%, 0.47 hours at 60% of 197 TFLOP/s a device" in lines[-1]
    assert "(no data set: it is streamed, or its size is not known)" in planning.describe(made._replace(dataset=None), 10)
    assert "the peak of cpu is not known" in planning.describe(made._replace(kind="cpu"), 10)


@pytest.mark.slow
@WITHOUT_LIBTPU
def test_without_libtpu():
    done = python("-m", "experiments.train", "--config=tests/tiny.py", "--dry_run", "--topology=v5e:2x4")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: No module named 'libtpu'; it comes with the extra 'tpu'. In the folder of your clone")
    assert done.stderr.endswith('-e ".[tpu]"\n') and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_topology_is_of_a_dry_run(tmp_path):
    done = python("-m", "experiments.train", "--config=tests/tiny.py", f"--workdir={tmp_path}/run", "--topology=v5e:2x4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: flag --topology=v5e:2x4: only a --dry_run can be of a --topology\n"


@pytest.mark.slow
def test_a_dry_run_of_a_data_set_that_is_not_there():
    done = python("-m", "experiments.train", "--config=tests/tiny.py", "--dry_run", "--config.data.name=lsun/bedroom")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "compiling for 1 x cpu, which takes minutes\n"
    shapes = configuration.parameter_shapes(tiny.get_config())
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert f"parameters          {parameters:,}\n" in done.stdout
    # 3,033,042 images of 28x28 are 2.4 GB, and so in memory by this configuration.
    assert "(data set 2.38 GB)" in done.stdout and "collectives a step  none\n" in done.stdout


def python(*arguments, **environment):
    """A process of its own: the environment of libtpu, and the number of devices, are of a whole process."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@WITH_LIBTPU
@pytest.mark.parametrize("topology", ["v5e", "v9:1x1", "v5e:3x5"])
def test_an_unknown_topology(topology):
    done = python("-c", f"from ddim_jax.training import chips; chips.absent({topology!r})")
    assert f"there is no topology {topology!r}; expected TPUs like v5e:4x4" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("topology", ["h100", "h100:0", "a100:2x2"])
def test_gpus_are_a_kind_and_a_number(topology):
    with pytest.raises(
        ValueError, match=f"there is no topology '{topology}'; expected TPUs like .*, or GPUs like h100:8, h200:8"
    ):
        chips.absent(topology)


@pytest.mark.skipif(HAS_CUDA, reason="JAX for CUDA is installed")
def test_without_jax_for_cuda():
    done = python("-c", "from ddim_jax.training import chips; chips.absent('h100:8')")
    assert done.stderr.splitlines()[-1].startswith(
        "ModuleNotFoundError: No module named 'jax_plugins'; it comes with the extra 'cuda13'"
    )


TOO_MUCH = """
import numpy as np, sys
from ddim_jax.training import chips, planning
from tests.training.test_planning import products
task = products(2)._replace(source=np.broadcast_to(np.float32(0), (10**9, 32)))  # 128 GB
planning.plan(task, 8, chips.absent(sys.argv[1]))
"""


@WITH_LIBTPU
def test_the_compiler_of_tpus_refuses_what_does_not_fit():
    """A v5e has 16 GiB, of which the compiler hands out 15.75."""
    done = python("-c", TOO_MUCH, "v5e:1x1")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "ValueError: a step of 8 examples does not fit into the memory of a TPU v5 lite (RESOURCE_EXHAUSTED"
    ), last
    assert "15.75G" in last and last.endswith("try --config.training.remat, a smaller batch_size or more devices")


COMPILED = """
import jax, jax.numpy as jnp, numpy as np, sys
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ddim_jax import configuration
from ddim_jax.inference import generate
from ddim_jax.training import chips, planning
from tests import tiny

config = tiny.get_config()
devices = chips.absent(sys.argv[1])
assert [each.device_kind for each in devices] == [sys.argv[2]] * int(sys.argv[3]), devices
task = configuration.make_bare_task(config, configuration.stand_in_source(config))
plan = planning.plan(task, 64, devices)
print(planning.describe(plan, 100))
assert plan.collectives["all-reduce"].num_bytes == 4 * (plan.parameters - 64 + 1), plan

# The sampler's scan, its batch split over the chips.
model = configuration.make_model(config, configuration.parameter_shapes(config))
mesh = Mesh(np.array(devices), ("batch",))
lay = lambda tree, *axes: planning._laid_out(tree, NamedSharding(mesh, PartitionSpec(*axes)))
generator, table = model.generator(), model.table()
x, keys = jax.eval_shape(lambda: generator.latents(0, np.arange(16)))
carry = lay(jax.eval_shape(model.process.begin, table, x), "batch")
arguments = lay(model.params), {}, {}, lay(jax.tree.map(jnp.asarray, table)), carry, lay(keys, "batch"), jnp.int32(0)
lowered = generator._compiled.lower(*arguments, record=generate._nothing, rows=None)
print(lowered.compile().memory_analysis())
"""


@pytest.mark.slow
@WITH_LIBTPU
@pytest.mark.parametrize(
    "topology, kind, count", [("v5e:2x4", "TPU v5 lite", 8), ("v4:2x2x1", "TPU v4", 4), ("v5p:2x2x1", "TPU v5", 4)]
)
def test_the_compiler_of_tpus_takes_training_and_sampling(topology, kind, count):
    """Of a network whose gradients are alike 64 times: biases that are added to each other, which XLA sends once.

    These are the biases of the second convolution and of the shortcut in 2 blocks, with 32 channels each.
    """
    done = python("-c", COMPILED, topology, kind, str(count))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@WITH_CUDA
def test_the_compiler_of_gpus_takes_training_and_sampling():
    """The same for eight GPUs."""
    done = python("-c", COMPILED, "h100:8", "NVIDIA H100 80GB HBM3", "8")
    assert done.returncode == 0, done.stderr


@WITH_CUDA
def test_what_does_not_fit_a_gpu():
    """Its compiler does not say so; what a vendor says of its memory does."""
    done = python("-c", TOO_MUCH, "a100:1")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "ValueError: a step of 8 examples does not fit into the memory of a NVIDIA A100-SXM4-80GB (128 GB of 80"
    ), last


IN_MEMORY = """
import jax.numpy as jnp, numpy as np
from ddim_jax.models.network import Network
from ddim_jax.training import chips, planning, preparing
from tests.training.test_planning import products
network = Network(lambda key, example: {"w": jnp.ones(())}, lambda params, x, step, condition, key: params["w"] * x)
task = products(1)._replace(network=network, prepare=preparing.images, source=np.broadcast_to(np.uint8(0), (50_000, 32, 32, 3)))
plan = planning.plan(task, 64, chips.absent("v5e:2x2"))
assert plan.dataset == 50_000 * 32 * 32 * 3
print(plan.temporaries / plan.dataset)
"""


@WITH_LIBTPU
def test_images_in_memory_are_looked_up_where_they_lie():
    """The chip copies none but those of the batch, 64 of 50,000. As an array [N, 32, 32, 3] they take 4 times the data set."""
    done = python("-c", IN_MEMORY)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.1


LARGE = """
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ddim_jax.training import chips, planning

there = SingleDeviceSharding(chips.absent("v5e:2x2")[0])
x = jax.ShapeDtypeStruct((2**20, 1024), jnp.float32, sharding=there)
print(planning.main_memory_traffic(jax.jit(lambda x: 2 * x + 1).lower(x).compile().as_text()) / x.size)
"""


@WITH_LIBTPU
def test_an_array_too_large_for_the_chip_is_read_and_written_in_main_memory():
    """2**30 numbers of 4 bytes: each is read once, and written once, 8 bytes a number."""
    done = python("-c", LARGE)
    assert done.stdout == "8.0\n", done.stderr


@pytest.mark.slow
@WITH_LIBTPU
def test_a_network_as_the_compiler_of_tpus_sees_it():
    """A gradient takes about three times the arithmetic of the network, by its input, its kernel and its output; a step, that."""
    done = python("-m", "experiments.compiled", "--config=tests/tiny.py", "--batch_size=64", "--dtype=float32")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "one TPU v5 lite, batch 64, float32"
    flops = {name: float(gigas) for name, gigas in re.findall(r"^(\w+): ([\d.]+) GFLOP", done.stdout, re.M)}
    assert 2.5 < flops["gradient"] / flops["forward"] < 3.5
    assert flops["sampler"] == pytest.approx(flops["forward"], rel=0.1)
    traffic = re.findall(r"([\d.]+) MB accessed, ([\d.]+) MB in main memory an image", done.stdout)
    assert len(traffic) == 3 and all(0 < float(main) <= float(accessed) for accessed, main in traffic)
