"""Several devices, and several processes, do together what one does alone."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddim_jax.training.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]

GRADIENTS = """
import functools, jax, jax.numpy as jnp, numpy as np, optax
from ddim_jax.diffusion import schedule
from ddim_jax.models.unet import UNet
from ddim_jax.training import preparing
from ddim_jax.training.step import init_state, train_step

assert jax.local_device_count() == 8
unet = UNet(channels=32, multipliers=(1,), num_blocks=1, attention_sides=(), dropout=0.0)
batch = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1), np.uint8)
rng = np.random.default_rng(1)
shapes = jax.eval_shape(unet.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1, jnp.int32))["params"]
params = jax.tree.map(lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
optimizer = optax.trace(decay=0.0)  # keeps the last gradient as its state
state = jax.device_get(init_state(params, optimizer, 5))
step = functools.partial(
    train_step, apply_fn=lambda p, x, t, condition, key: unet.apply({"params": p}, x, t), optimizer=optimizer,
    schedule=schedule.linear(), ema_decay=0.9, prepare=functools.partial(preparing.images, flip=True),
)
alone, alone_metrics = jax.jit(step)(state, batch)
mapped = jax.pmap(functools.partial(step, axis_name="d"), axis_name="d", in_axes=(None, 0), out_axes=None)
together, together_metrics = mapped(state, batch.reshape(8, 2, 4, 4, 1))
a, b = (jax.tree.leaves(jax.device_get(s.opt_state.trace)) for s in (alone, together))
largest = max(np.abs(leaf).max() for leaf in a)
for one, many in zip(a, b):  # some gradients are 0 in exact arithmetic (attention's key bias), so rounding is of the largest
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-6 * largest)
np.testing.assert_allclose(together_metrics["loss"], alone_metrics["loss"], rtol=1e-5)
np.testing.assert_allclose(together_metrics["grad_norm"], alone_metrics["grad_norm"], rtol=1e-4)
"""


def python(*arguments, **environment):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def succeed(*processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output


@pytest.mark.slow
def test_gradients_of_eight_devices_are_those_of_one():
    succeed(python("-c", GRADIENTS, JAX_NUM_CPU_DEVICES="8"))


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide(tmp_path):
    process = python(
        "-m", "experiments.train", "--config=tests/tiny.py", f"--workdir={tmp_path}/run", "--config.training.batch_size=9",
        JAX_NUM_CPU_DEVICES="8",
    )  # fmt: skip
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "batch_size is 9, which the 8 devices here do not divide; try 16" in output
    assert not (tmp_path / "run").exists()


def together(workdir, steps, every=2, hooks_every=1, mapping="pmap"):
    """Two processes of two devices each, that train one network."""
    return two_processes(
        "-m", "experiments.train", "--config=tests/tiny.py", f"--workdir={workdir}", "--multihost",
        "--config.model.dropout=0.0", f"--config.training.steps={steps}", f"--config.training.checkpoint_every={every}",
        f"--config.training.sample_every={hooks_every}", f"--config.training.held_out_every={hooks_every}",
        f"--config.training.mapping={mapping}",
    )  # fmt: skip


def final_state(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.load().arrays


def two_processes(*arguments):
    """Two processes of two devices each, which find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        python(
            *arguments,
            JAX_NUM_CPU_DEVICES="2", JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
            SLURM_JOB_ID="1", SLURM_STEP_NODELIST="127.0.0.1", SLURM_NTASKS="2",  # which JAX looks for, as for a TPU pod
            SLURM_PROCID=str(process), SLURM_LOCALID=str(process), JAX_COORDINATOR_PORT=str(port),
        )
        for process in range(2)
    ]  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_and_resume_as_one_does(tmp_path):
    """Each with two devices; dropout is off, since it is drawn for a device. Hooks are run by both, which share the work."""
    succeed(*together(tmp_path / "two", steps=2))
    succeed(*together(tmp_path / "two", steps=4, hooks_every=10**9))
    succeed(*together(tmp_path / "mapped", steps=2, hooks_every=10**9, mapping="shard_map"))
    succeed(*together(tmp_path / "mapped", steps=4, hooks_every=10**9))
    two, mapped = (final_state(tmp_path / name) for name in ("two", "mapped"))
    for name, array in two.items():  # the other mapping is the same program on each device
        np.testing.assert_array_equal(mapped[name], array, err_msg=name)
    succeed(
        python(
            "-m", "experiments.train", "--config=tests/tiny.py", f"--workdir={tmp_path}/one", "--config.model.dropout=0.0",
            "--config.training.steps=4", "--config.training.sample_every=1", "--config.training.held_out_every=1",
        )
    )  # fmt: skip
    lines = {name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("two", "one")}
    held_out = {name: {r["step"]: r["held_out_loss"] for r in each if "held_out_loss" in r} for name, each in lines.items()}
    two, one = ([record for record in lines[name] if "loss" in record] for name in ("two", "one"))
    assert [record["step"] for record in two] == [2, 4] and list(held_out["two"]) == [1, 2]
    # At a rate of 0 the first step moves nothing: the hooks see the same parameters, and what they find is rounding apart.
    np.testing.assert_allclose(held_out["two"][1], held_out["one"][1], rtol=1e-5)
    np.testing.assert_allclose(held_out["two"][2], held_out["one"][2], rtol=1e-2)
    grids = [np.asarray(Image.open(tmp_path / name / "samples" / "step_0000001.png"), int) for name in ("two", "one")]
    assert np.abs(grids[0] - grids[1]).max() <= 1 and np.ptp(grids[0]) > 100
    # The rate is 0 in the first step, so both gradients of the first two are of the same parameters: rounding alone.
    # Adam then divides gradients near 0 by their own size, rounding included.
    np.testing.assert_allclose([two[0][m] for m in ("loss", "grad_norm")], [one[0][m] for m in ("loss", "grad_norm")], rtol=1e-5)
    np.testing.assert_allclose(two[1]["loss"], one[1]["loss"], rtol=1e-2)
