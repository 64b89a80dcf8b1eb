"""Ends a run at random moments, again and again, and compares what it comes to with a run that nobody touched.

    python -m tests.reliability.kills one 100            # a process is killed 100 times (SIGKILL)
    python -m tests.reliability.kills two 20 SIGTERM 1   # of two hosts, by turns, 20 times; 1 step a call

The network is so small that a run is nearly all log, checkpoints and starting, which is what is to be hit. Its program is
compiled once, by the run that nobody touches.
"""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
STEPS = {1: 40, 20: 200}  # between two kills, by the steps a call
PATIENCE = 10  # seconds that a host whose partner was killed may take to end by itself


class Found(NamedTuple):
    """What became of a run that was ended so often."""

    ended: int  # times, by the signal
    starting: int  # of those, before the process had logged anything
    saving: int  # of those, with a checkpoint half written
    alone: int  # hosts that ended by themselves soon after the other was killed


def task():
    """A network of two layers that drops units, on 256 examples: what is random in a step is of its seed and number."""
    import jax
    import jax.numpy as jnp

    from ddim_jax.diffusion import schedule
    from ddim_jax.models.network import Network
    from ddim_jax.training.step import make_optimizer
    from ddim_jax.training.task import Task

    def init(key, example):
        return {name: 0.1 * jax.random.normal(key, (8, 4096) if name == "up" else (4096, 8)) for name in ("up", "down")}

    def apply(params, x, step, condition, key):
        hidden = jnp.tanh(x @ params["up"])
        return (hidden * jax.random.bernoulli(key, 0.9, hidden.shape)) @ params["down"]

    values = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    return Task(Network(init, apply), schedule.linear(), values, make_optimizer(1e-3), ema_decay=0.9)


def train(workdir, steps, per_call, address, process):
    """One process of the run; of one host alone where `address` is empty."""
    import jax

    from ddim_jax.training import loop

    if address:
        jax.distributed.initialize(address, 2, process)
    loop.train(
        task(), workdir, steps=steps, batch_size=8, steps_per_call=per_call, log_every=max(2, per_call),
        checkpoint_every=8 + 2 * per_call,
    )  # fmt: skip


def start(workdir, steps, per_call, hosts, program=("-m", "tests.reliability.kills", "run")):
    """The processes of a run, whose outputs go to files beside its folder. A `program` is told what `train` is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}" if hosts > 1 else ""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if address:
        environment["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    command = [sys.executable, *program, workdir, steps, per_call, address]
    processes = []
    for process in range(hosts):
        with open(f"{workdir}_{process}.log", "w") as output:
            line = [str(each) for each in (*command, process)]
            processes.append(subprocess.Popen(line, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT))
    return processes


def finish(workdir, processes, timeout=600.0):
    """Waits for processes that must succeed."""
    for number, process in enumerate(processes):
        process.wait(timeout)
        assert process.returncode == 0, pathlib.Path(f"{workdir}_{number}.log").read_text()[-3000:]


def logged(workdir):
    """The records of the log, as far as it is written, without what is of time."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: value for name, value in record.items() if "second" not in name} for record in records]


def last_step(workdir):
    return max((record["step"] for record in logged(workdir)), default=0)


def state(workdir):
    from ddim_jax.training.checkpoints import Checkpoints

    with Checkpoints(pathlib.Path(workdir) / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.load().arrays


def end_and_resume(folder, count, number=signal.SIGKILL, hosts=1, per_call=1, seed=None):
    """Ends a run `count` times by a signal, starts it again each time, and asserts that it comes to what it would have come to.

    Of two hosts one is hit, by turns. Moments are spread over the steps of the run, and of SIGKILL to one process every fifth
    is in its start. SIGTERM must lose nothing, and both hosts end well.
    """
    draw = random.Random(seed)
    folder, steps = pathlib.Path(folder), STEPS[per_call] * (count + 1)
    whole, hit = folder / "whole", folder / "hit"
    began = time.monotonic()
    processes = start(whole, steps, per_call, hosts)
    while not last_step(whole) and processes[0].poll() is None:
        time.sleep(0.05)
    to_start = time.monotonic() - began
    finish(whole, processes)

    ended = starting = saving = alone = 0
    for turn in range(count):
        moment, host = int(steps * (turn + draw.random()) / (count + 1)), turn % hosts
        processes = start(hit, steps, per_call, hosts)
        if number == signal.SIGKILL and hosts == 1 and turn % 5 == 4:
            time.sleep(draw.uniform(0, to_start))
            starting += 1
        else:
            before = last_step(hit)
            while last_step(hit) < max(moment, before + 1) and processes[0].poll() is None:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.3))
        if any(process.poll() is not None for process in processes):  # it was at its end
            finish(hit, processes)
            continue
        reached = last_step(hit)
        processes[host].send_signal(number)
        ended += 1
        if number == signal.SIGTERM:
            finish(hit, processes, 120)
            assert state(hit)["step"] >= reached
            continue
        processes[host].wait()
        saving += any("tmp" in path.name for path in (hit / "checkpoints").glob("*"))
        for other in set(processes) - {processes[host]}:
            try:
                other.wait(PATIENCE)
                alone += 1
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()
    finish(hit, start(hit, steps, per_call, hosts))

    assert logged(hit) == logged(whole) and last_step(hit) == steps
    expected, found = state(whole), state(hit)
    assert expected.keys() == found.keys() and expected["step"] == steps
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    return Found(ended, starting, saving, alone)


def main(kind, *arguments):
    if kind == "run":
        workdir, steps, per_call, address, process = arguments
        return train(workdir, int(steps), int(per_call), address, int(process))
    count, name, per_call = (*arguments, "SIGKILL", "1")[:3] if len(arguments) == 1 else arguments
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/cache")
        began = time.monotonic()
        hosts = {"one": 1, "two": 2}[kind]
        found = end_and_resume(folder, int(count), signal.Signals[name], hosts, int(per_call))
        print(f"{kind}, {name}, {per_call} steps a call, {time.monotonic() - began:.0f} s: {found}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
