"""Accelerators: what their vendors say of them, and those that are not there, for which programs are compiled on any machine."""

import importlib.metadata
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from ddim_jax.common import extras


class Chip(NamedTuple):
    """What a vendor says of one device, as JAX counts them."""

    peak: float  # FLOP/s of dense products in bfloat16
    memory: float  # bytes


# By jax.Device.device_kind. TPUs: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e. GPUs: nvidia.com/en-us/data-center/h100
# (whose figure is twice as high, for sparse matrices), /h200 and /a100.
CHIPS = {
    "TPU v4": Chip(275e12, 32 * 2**30),
    "TPU v5 lite": Chip(197e12, 16 * 2**30),
    "TPU v5": Chip(459e12, 95 * 2**30),
    "TPU v6 lite": Chip(918e12, 32 * 2**30),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80e9),
    "NVIDIA H200": Chip(989e12, 141e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40e9),
}
_LIBTPU = {  # of libtpu where it only compiles
    "TPU_SKIP_MDS_QUERY": "1",  # it asks no Google server what machine this is
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # nor complains that nobody says it; the topology decides
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile at once
}


class _GPU(NamedTuple):
    """What the compiler asks of a GPU: docs.nvidia.com/cuda/cuda-c-programming-guide, and the pages above."""

    kind: str
    capability: int  # the major number of its compute capability; the minor one is 0
    multiprocessors: int
    lanes: int  # of float32, of a multiprocessor
    shared: int  # KiB, of a multiprocessor; a block of threads may have all but one
    cache: int  # MiB, level 2
    bandwidth: float  # bytes/s
    clock: float  # GHz


_GPUS = {
    "h100": _GPU("NVIDIA H100 80GB HBM3", 9, 132, 128, 228, 50, 3.35e12, 1.98),
    "h200": _GPU("NVIDIA H200", 9, 132, 128, 228, 50, 4.8e12, 1.98),
    "a100": _GPU("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164, 40, 2.04e12, 1.41),
}


def peak(devices: Sequence[jax.Device]) -> float | None:
    """FLOP/s of dense products in bfloat16, of all these devices of one kind together; None where that is not known."""
    chip = CHIPS.get(devices[0].device_kind)
    return len(devices) * chip.peak if chip else None


def absent(topology: str) -> list[jax.Device]:
    """The chips of a TPU slice, or GPUs of one machine, to compile for where they are not. This process then runs on CPUs alone.

    topology: of TPUs, generation and chips a side, like "v5e:4x4", "v5p:2x2x4" or "v4:2x2x4" (which is sold as v4-32); of GPUs,
              kind and number: "h100:8", "h200:1", "a100:8" (of 80 GB).

    Raises ModuleNotFoundError without the compiler (libtpu, or JAX's plug-in for CUDA), and ValueError for any other topology.
    """
    kind, _, count = topology.partition(":")
    if kind in _GPUS and not re.fullmatch(r"[1-9]\d?", count):
        raise _unknown(topology, "of GPUs it has kind and number")
    jax.config.update("jax_platforms", "cpu")  # the devices at hand may be in use
    return _gpus(_GPUS[kind], int(count)) if kind in _GPUS else _tpus(topology)


def _unknown(topology: str, why: str) -> ValueError:
    expected = f"TPUs like v5e:4x4, v5p:2x2x4 or v4:2x2x4, or GPUs like {', '.join(f'{kind}:8' for kind in _GPUS)}"
    return ValueError(f"there is no topology {topology!r}; expected {expected} ({why})")


def _tpus(topology: str) -> list[jax.Device]:
    extras.require("libtpu", "tpu")
    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
    # The two cores of a v4 are one device to JAX, if not to libtpu as it comes.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith(("INVALID_ARGUMENT", "NOT_FOUND")):
            raise
        raise _unknown(topology, str(error).splitlines()[0]) from error


def _gpus(gpu: _GPU, count: int) -> list[jax.Device]:
    extras.require("jax_plugins.xla_cuda13", "cuda13")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # JAX looks for no driver, which is with the GPU
    jax.config.update("jax_enable_compilation_cache", False)  # a kept program could be read only where the GPU is
    major, minor, *_ = importlib.metadata.version("nvidia-cudnn-cu13").split(".")
    target = f"""
        platform_name: "CUDA"
        device_description_str: "{gpu.kind}"
        dnn_version_info {{ major: {major} minor: {minor} }}
        runtime_version {{ major: 13 minor: 0 patch: 0 }}
        gpu_device_info {{
            cuda_compute_capability {{ major: {gpu.capability} }}
            core_count: {gpu.multiprocessors}
            fpus_per_core: {gpu.lanes}
            clock_rate_ghz: {gpu.clock}
            memory_bandwidth: {gpu.bandwidth:.0f}
            device_memory_size: {CHIPS[gpu.kind].memory:.0f}
            l2_cache_size: {gpu.cache << 20}
            shared_memory_per_core: {gpu.shared << 10}
            shared_memory_per_block_optin: {gpu.shared - 1 << 10}
            shared_memory_per_block: {48 << 10}
            registers_per_core_limit: {64 << 10}
            registers_per_block_limit: {64 << 10}
            threads_per_core_limit: 2048
            threads_per_block_limit: 1024
            threads_per_warp: 32
            block_dim_limit_x: {2**31 - 1}
            block_dim_limit_y: {2**16 - 1}
            block_dim_limit_z: {2**16 - 1}
        }}"""
    return topologies.get_topology_desc(platform="cuda", target_config=target, topology=f"1x1x{count}").devices
