"""experiments.benchmark, with a network so small that its figures mean nothing: that they are found, and what they are of."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments.profiling import share_of_products

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
LINE = ["-m", "experiments.benchmark", "--batch_size=4", "--repeats=1", "--steps=2", "--config.model.channels=32"]
LINE += ["--config.model.multipliers=(1,)", "--config.model.num_blocks=1", "--config.model.attention_sides=()"]


def test_every_figure(tmp_path):
    line = [sys.executable, *LINE, f"--output={tmp_path}/figures.json"]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "figures.json").read_text())
    about = found.pop("about")
    assert about["jax"] and about["device"].endswith("cpu")
    units = {name: entry["unit"] for name, entry in found.items()}
    assert units == {
        **{f"sampler, {name}, batch {n}": "us/step" for name in ("ddim", "ddim eta=1", "unipc") for n in (64, 256)},
        "sampling, float32, batch 4": "image-steps/s",
        "training, float32, batch 4": "images/s",
    }
    assert all(entry["ours"] > 0 and entry["first_call_seconds"]["ours"] > 0 for entry in found.values())
    assert all(0 <= entry["products_share"] <= 1 and entry["peak_bytes"] > 1e8 for entry in found.values())
    sampling, training = (entry for name, entry in found.items() if "float32" in name)
    assert sampling["from_cache_seconds"] < sampling["first_call_seconds"]["ours"]  # a network is traced, and not compiled
    assert training["flops_per_second"] / training["ours"] > 2 * sampling["flops_per_second"] / sampling["ours"]


def test_the_share_of_products_in_a_profile():
    """Products of large matrices take nearly all of the time beside one exponential; without them, nothing does."""
    x = jax.random.normal(jax.random.key(0), (1500, 1500))
    products, none = jax.jit(lambda x: jnp.exp(x @ x @ x @ x)), jax.jit(lambda x: jnp.exp(jnp.sin(x)))
    for run in (products, none):
        jax.block_until_ready(run(x))
    assert share_of_products(lambda: jax.block_until_ready(products(x))) > 0.7
    assert share_of_products(lambda: jax.block_until_ready(none(x))) == 0


def convolutions_and_sines(x):
    """A million sines, and 16 convolutions of 2.4 GFLOP each."""
    x, kernel = jnp.sin(x), jnp.ones((3, 3, 128, 128)) / 1152
    for _ in range(16):
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return x


@pytest.mark.slow
def test_the_share_of_convolutions_by_eigen():
    """Whose threads are in no profile: nearly all of the time is theirs. In a process of its own, for the flag."""
    by_eigen = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
    program = """
import jax
from experiments.profiling import share_of_products
from tests.experiments.test_benchmark import convolutions_and_sines
run, x = jax.jit(convolutions_and_sines), jax.random.normal(jax.random.key(0), (8, 32, 32, 128))
jax.block_until_ready(run(x))
print(share_of_products(lambda: jax.block_until_ready(run(x))))
"""
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, cwd=ROOT, env=os.environ | {"XLA_FLAGS": by_eigen}, check=True, capture_output=True, text=True)
    assert 0.85 < float(done.stdout) < 1


@pytest.mark.skipif(not importlib.util.find_spec("diffusers"), reason="the extra ddim_jax[peers] brings diffusers")
def test_interop_with_the_peer_beside_ours(tmp_path):
    """Both end at the same samples, else the command ends in an error. torch.compile is left out, which needs a compiler."""
    line = [sys.executable, *LINE, "--measure=sampling", "--measure=sampler", "--peer", f"--output={tmp_path}/figures.json"]
    environment = {**os.environ, "TORCH_COMPILE_DISABLE": "1"}
    subprocess.run(line, cwd=ROOT, env=environment, check=True, capture_output=True)
    found = json.loads((tmp_path / "figures.json").read_text())
    entry = found["sampling, float32, batch 4"]
    assert {"diffusers eager", "diffusers compiled"} < entry.keys()
    rates = [entry[name] for name in ("diffusers eager", "diffusers compiled")]
    assert entry["ratio"] == pytest.approx(entry["ours"] / max(rates))
    assert entry["from_cache_seconds"] < entry["first_call_seconds"]["ours"]  # which comes before the peer's
    entry = found["sampler, ddim, batch 64"]
    assert entry["ratio"] == pytest.approx(entry["diffusers"] / entry["ours"])
