"""Processes that meet by flags, where JAX finds no cluster, and what is said of flags that cannot be."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MEET = """
import jax
from ddim_jax.commands import command
command.define_multihost()
def main(_):
    command.join()
    print(jax.process_index(), jax.process_count(), jax.device_count())
command.run(main)
"""
CLUSTERS = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "JAX_COORDINATOR")  # by which JAX would find others


def start(*arguments, **environment):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(CLUSTERS)} | environment
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "JAX_NUM_CPU_DEVICES": "2"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", MEET, *arguments], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("by_environment", [False, True])
def test_processes_meet_by_flags(by_environment):
    """Each sees two devices of its own and two of the other. JAX itself reads the address, and no more, from the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    where = {"JAX_COORDINATOR_ADDRESS": address} if by_environment else {}
    flags = ["--multihost", "--num_processes=2"] + ([] if by_environment else [f"--coordinator={address}"])
    processes = [start(*flags, f"--process_id={i}", **where) for i in range(2)]
    ends = [process.communicate(timeout=200) for process in processes]
    assert [out for out, _ in ends] == ["0 2 4\n", "1 2 4\n"], ends


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--multihost"], 1, "--multihost: coordinator_address should be defined. On TPUs, SLURM"),
        (
            ["--multihost", "--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
            1,
            "Got process_id=2, num_processes=2",
        ),
        (["--coordinator=localhost:1"], 2, "are of --multihost: give it, too"),
        (["--process_id=-1"], 2, "process_id"),
    ],
)
def test_processes_that_cannot_meet(arguments, status, message):
    process = start(*arguments)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (status, "")
    assert err.startswith("error: ") and message in err and len(err.splitlines()) == 1, err
