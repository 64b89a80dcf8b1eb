"""Whole runs of the loop on a tiny network."""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddim_jax import configuration, weights
from ddim_jax.data import batches, sources
from ddim_jax.diffusion import schedule as schedules
from ddim_jax.models.network import Network
from ddim_jax.runs import train_config
from ddim_jax.training import chips, loop, planning
from ddim_jax.training.checkpoints import Checkpoints
from ddim_jax.training.log import Log
from ddim_jax.training.loop import DivergedError
from ddim_jax.training.step import make_optimizer
from ddim_jax.training.task import Task
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]


def config(**training):
    result = tiny.get_config()
    result.training.update(dict(sample_every=10**9) | training)  # no pictures, which take another program
    return result


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight steps without a break: the folder and the last state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train_config(config(sample_every=8), workdir)


@pytest.mark.slow
def test_what_a_run_leaves_behind(whole):
    workdir, state = whole
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(line["loss"] > 0 for line in lines)
    assert all(line["images_per_second"] > line["steps_per_second"] > 0 for line in lines)
    assert not any("mfu" in line for line in lines)  # the peak of a processor is not known
    # Warm-up over 2 steps to 1e-3: the rates of steps 1, 2, 3, ... are 0, 0.5e-3, 1e-3, ...
    np.testing.assert_allclose([line["learning_rate"] for line in lines], [0.5e-3, 1e-3, 1e-3, 1e-3], rtol=1e-6)
    assert (workdir / "samples" / "step_0000008.png").exists()
    assert list((workdir / "tensorboard").glob("events.*"))
    assert configuration.load(workdir / "config.json").training.steps == 8
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 8
        assert_same(checkpoints.restore(state)[0], state)


@pytest.mark.slow
def test_the_step_is_compiled_once(tmp_path, caplog):
    train_config(config(), tmp_path / "before")  # which compiles the small programs that all runs share
    with jax.log_compiles():
        train_config(config(), tmp_path / "run")
    names = [record.getMessage().split(" with ")[0] for record in caplog.records if "Compiling" in record.getMessage()]
    assert len(names) == 2, names  # the first state, and the step: not again for the state that it returned


@pytest.mark.slow
def test_the_share_of_the_peak_is_logged_where_the_chip_is_known(tmp_path, monkeypatch):
    monkeypatch.setitem(chips.CHIPS, jax.devices()[0].device_kind, chips.Chip(peak=1e12, memory=1e9))
    run = config()
    train_config(run, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    flops = planning.step_flops(configuration.make_task(run), run.training.batch_size)
    for line in lines:
        assert line["mfu"] == pytest.approx(line["steps_per_second"] * flops / (jax.device_count() * 1e12))


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(whole, tmp_path):
    train_config(config(steps=4), tmp_path)
    assert_same(train_config(config(), tmp_path), whole[1])
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


@pytest.mark.slow
def test_resuming_drops_what_was_logged_after_the_checkpoint(whole, tmp_path):
    train_config(config(steps=4), tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 99.0}\n{"step": 8, "lo')  # logged by a process that was killed in mid-write
    train_config(config(), tmp_path)
    losses = {json.loads(line)["step"]: json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").open()}
    assert sorted(losses) == [2, 4, 6, 8] and losses[6] < 99


@pytest.mark.slow
def test_a_finished_run_has_nothing_left_to_do(whole, tmp_path):
    assert_same(train_config(config(), whole[0]), whole[1])


@pytest.mark.slow
def test_streamed_images_train_to_the_same_bits_as_those_in_memory(whole, tmp_path, monkeypatch):
    class Slow:  # the same digits, one by one
        digits = sources.mnist_5k("train")
        __len__ = lambda self: len(self.digits)
        __getitem__ = lambda self, i: self.digits[i]

    monkeypatch.setattr(sources, "load", lambda *names, **options: Slow())
    assert_same(train_config(config(), tmp_path), whole[1])


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """After step 4 the learning rate is one whose step overflows."""
    rate = optax.piecewise_constant_schedule(1e-3, {4: 1e33})
    monkeypatch.setattr(configuration, "make_optimizer", lambda *options: optax.adam(rate))
    good = train_config(config(steps=4), tmp_path)
    with pytest.raises(DivergedError, match="step 4 is kept.*smaller learning_rate"):
        train_config(config(), tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 4
        assert_same(checkpoints.restore(good)[0], good)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(batch_size=16), r"config.training.batch_size was 8, now 16"),
        (dict(learning_rate=0.5), r"config.training.learning_rate was 0.001, now 0.5.*--config.training.initial_weights="),
    ],
)
def test_another_configuration_does_not_go_on_with_a_run(whole, change, message):
    with pytest.raises(ValueError, match=message):
        train_config(config(**change), whole[0])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(steps=0), "config.training.steps is 0; it must lie between 1"),
        (dict(log_every=0), "config.training.log_every is 0; it must lie between 1"),
        (dict(batch_size=0), "batch_size is 0; it must lie between 1"),
        (dict(dtype="float17"), "config.training.dtype is 'float17'; expected one of float32, bfloat16"),
        (dict(seed=-1), "seed is -1; it must lie between 0"),
        (dict(ema_decay=1.5), "ema_decay is 1.5; it must lie between 0 and 1"),
    ],
)
def test_numbers_that_do_not_go_together(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train_config(config(**change), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_damaged_checkpoint_is_stepped_over(whole, tmp_path):
    """The run goes on from the one before it, to the same bits."""
    train_config(config(), tmp_path)
    for file in (tmp_path / "checkpoints" / "8" / "rest").rglob("*"):  # all of them: Orbax leaves some that nobody reads
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(
        UserWarning, match="the checkpoint of step 8 is damaged .*: step 4 is used. It lies in .*damaged_checkpoints/8"
    ):
        assert_same(train_config(config(), tmp_path), whole[1])
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


@pytest.mark.slow
def test_a_configuration_that_was_edited_is_not_sampled_with(whole, tmp_path):
    """By the checkpoint, which has it under its checksum; what is free to change may be edited."""
    (tmp_path / "checkpoints").symlink_to(whole[0] / "checkpoints")
    edited = configuration.load(whole[0] / "config.json")
    edited.training.log_every, edited.sampling.steps = 77, 3
    configuration.save(edited, tmp_path / "config.json")
    assert weights.from_workdir(tmp_path).config.sampling.steps == 3
    edited.diffusion.beta_end = 0.03
    configuration.save(edited, tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"not what its weights were trained with: config.diffusion.beta_end was 0.02, now 0.03"):
        weights.from_workdir(tmp_path)


@pytest.mark.slow
def test_a_run_without_its_config_json_goes_on(whole, tmp_path):
    """The checkpoint has it: the same command writes it anew."""
    train_config(config(steps=4), tmp_path)
    (tmp_path / "config.json").write_text('{"format": 3, "da')
    assert_same(train_config(config(), tmp_path), whole[1])
    assert configuration.load(tmp_path / "config.json").training.steps == 8


@pytest.mark.slow
def test_means_of_the_log_are_of_the_steps_before_a_stop_too(whole, tmp_path):
    """Stopped after step 3, between two records: the next one is of steps 3 and 4, as in a run without a break."""
    train_config(config(steps=3), tmp_path)
    train_config(config(), tmp_path)
    for a, b in zip((tmp_path / "metrics.jsonl").open(), (whole[0] / "metrics.jsonl").open(), strict=True):
        a, b = json.loads(a), json.loads(b)
        assert (a["step"], a["loss"], a["grad_norm"]) == (b["step"], b["loss"], b["grad_norm"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [b"\n", b"\0" * 60, b"{}\n", b'{"step": "2"}\n', b"[1]\n", b'{"step": 2,\n', b"\xff\xfe\n", b"null\n"]
)
def test_a_log_with_a_bad_line_is_no_hindrance(whole, tmp_path, line):
    """It is set aside, whole lines around it stay."""
    good = [b'{"step": 2, "loss": 1.0}\n', b'{"step": 4, "loss": 0.5}\n']
    (tmp_path / "metrics.jsonl").write_bytes(good[0] + line + (b"" if line.endswith(b"\n") else b"\n") + good[1])
    with pytest.warns(UserWarning, match="has 1 lines that are no records: they are set aside in metrics_damaged.jsonl"):
        Log(tmp_path, 4, 8, 1, True).__exit__()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(good)
    assert line.rstrip(b"\n") in (tmp_path / "metrics_damaged.jsonl").read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_under_the_other_mapping_to_the_same_bits(whole, tmp_path):
    train_config(config(steps=4, mapping="shard_map"), tmp_path)
    assert_same(train_config(config(mapping="pmap"), tmp_path), whole[1])


def test_a_trace_is_written_of_the_steps_that_are_asked_for(tmp_path, monkeypatch):
    """Of whole calls: steps 3 to 5 are in the calls that end at 4 and 6. The log has the seconds of data and checkpoints."""
    traced = []
    monkeypatch.setattr(jax.profiler, "trace", lambda folder: contextlib.closing(Traced(folder, traced)))
    loop.train(diverging([]), tmp_path, steps=8, batch_size=2, log_every=2, steps_per_call=2, checkpoint_every=4, profile=(3, 5))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert traced == [f"{tmp_path}/profile", "closed"]
    assert all(line["data_seconds"] >= 0 for line in lines) and any("checkpoint_seconds" in line for line in lines)


class Traced:
    def __init__(self, folder, traced):
        traced.append(folder)
        self.traced = traced

    def close(self):
        self.traced.append("closed")


def diverging(at):
    """A task whose loss is not a number at these steps, from 0, as its data says."""
    values = np.ones((64, 2), np.float32)
    order = [batches.batch_indices(64, 2, 0, step) for step in range(30)]
    for step in at:
        values[order[step]] = np.nan
    network = Network(lambda key, example: {"w": jnp.ones(())}, lambda params, x, step, condition, key: params["w"] * x)
    optimizer = make_optimizer(1e-3, skip_nonfinite=True)
    return Task(network, schedules.linear(), values, optimizer, skips_nonfinite=True)


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    """Steps 3 and 4 of 8: the log counts them, its means are of the others, and the run ends with finite parameters."""
    state = loop.train(diverging([2, 3]), tmp_path, steps=8, batch_size=2, log_every=4, checkpoint_every=3, steps_per_call=2)
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").open())
    assert first["skipped_steps"] == 2 and np.isfinite(first["loss"]) and "skipped_steps" not in second
    assert np.isfinite(state.ema["w"]) and state.step == 8


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path):
    with pytest.raises(DivergedError, match="of step 23 is nan, as in the 20 steps before, which were skipped"):
        loop.train(diverging(range(2, 25)), tmp_path, steps=30, batch_size=2, log_every=10, checkpoint_every=10)


@pytest.mark.slow
def test_a_second_process_says_who_holds_the_run_and_leaves(tmp_path):
    first = run(tmp_path, *LONG, wait=False)
    while steps_logged(tmp_path) < 30 and first.poll() is None:
        time.sleep(0.05)
    second = run(tmp_path, *LONG, wait=False)
    output, _ = second.communicate(timeout=100)
    assert second.returncode == 1
    (told,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path} is held by process {first.pid} of host {socket.gethostname()} since 20" in told
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    run(tmp_path, *LONG)  # a lock does not outlive its process
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == list(range(2, 202, 2))


def run(workdir, *overrides, wait=True):
    command = [sys.executable, "-m", "experiments.train", "--config=tests/tiny.py", f"--workdir={workdir}", *overrides]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if wait:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    return process


def steps_logged(workdir) -> int:
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) * 2 if path.exists() else 0


def final_state(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.load().arrays


LONG = ("--config.training.steps=200", "--config.training.sample_every=200", "--config.training.checkpoint_every=20")


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_resumes_to_the_bits_of_one_that_was_not(tmp_path):
    """At a random moment between checkpoints, in a process of its own, through the command. Of kills: tests/reliability."""
    run(tmp_path / "whole", *LONG)
    process = run(tmp_path / "stopped", *LONG, wait=False)
    moment = random.SystemRandom().randrange(30, 100)
    while steps_logged(tmp_path / "stopped") < moment and process.poll() is None:
        time.sleep(0.005)
    process.terminate()
    process.communicate(timeout=60)
    with Checkpoints(tmp_path / "stopped" / "checkpoints", read_only=True) as checkpoints:
        kept = checkpoints.latest_step()
    assert kept is not None and moment <= kept < 200, f"told to stop at step {moment}"  # it had the time to save where it was
    run(tmp_path / "stopped", *LONG)
    a, b = final_state(tmp_path / "whole"), final_state(tmp_path / "stopped")
    assert a.keys() == b.keys() and a["step"] == 200
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=f"{name}, told to stop at step {moment}")


def test_calls_end_where_something_is_due():
    """After 20 steps at most, at multiples of 30 (checkpoints) and 50 (the log), and at the end; from any start."""
    assert list(loop._call_ends(0, 125, 20, [30, 50])) == [20, 30, 50, 60, 80, 90, 100, 120, 125]
    assert list(loop._call_ends(47, 70, 20, [30, 50])) == [50, 60, 70]


def test_each_call_is_fed_the_batches_of_its_steps():
    """Calls of fewer steps are filled up: each [devices, 4, B / devices], of which the first steps count."""
    calls = list(loop._feed(np.zeros((20, 4, 4, 1), np.uint8), 8, 0, 3, [5, 8, 9], 4))
    assert [call.shape for call in calls] == [(1, 4, 8)] * 3
    together = np.concatenate([call[0, :count] for call, count in zip(calls, (2, 3, 1))])
    np.testing.assert_array_equal(together, [batches.batch_indices(20, 8, 0, step) for step in range(3, 9)])


@pytest.mark.slow
def test_several_steps_a_call_are_the_steps_of_single_ones(tmp_path):
    """3 steps a call, with checkpoints every 4: calls end at 3, 4, 6, 8.

    A program of its own, so that sums may be rounded otherwise: by about 1e-6 of the largest (float32, sums of thousands), at
    most 1e-5. That is compared in Adam's first moments, since where a gradient is rounding alone, Adam steps as far as ever.
    """
    task = configuration.make_task(config())._replace(hooks=())
    numbers = dict(steps=8, batch_size=8, log_every=100, checkpoint_every=4)
    one = loop.train(task, tmp_path / "one", **numbers)
    three = loop.train(task, tmp_path / "three", steps_per_call=3, **numbers)
    assert int(three.step) == int(one.step) == 8
    (moments, expected) = (jax.tree.leaves(end.opt_state[1][0].mu) for end in (three, one))
    largest = max(np.abs(leaf).max() for leaf in expected)
    for found, leaf in zip(moments, expected, strict=True):
        np.testing.assert_allclose(found, leaf, rtol=0, atol=1e-5 * largest)
    with Checkpoints(tmp_path / "three" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 8


@pytest.mark.slow
def test_a_run_goes_on_under_its_own_seed_alone(whole):
    task = configuration.make_task(config())._replace(hooks=())
    with pytest.raises(ValueError, match="has the seed 0, now it is 1"):
        loop.train(task, whole[0], steps=8, batch_size=8, seed=1)


@pytest.mark.parametrize(
    "numbers, message",
    [
        (dict(seed=-1), r"the seed is -1; expected a whole number from 0 to 2147483647"),
        (dict(steps_per_call=0), "expected whole numbers of at least 1"),
        (dict(batch_size=0), "batch_size is 0, which the 1 devices here do not divide; try 1"),
    ],
)
def test_numbers_of_a_run_that_cannot_work(tmp_path, numbers, message):
    task = configuration.make_task(config())._replace(hooks=())
    with pytest.raises(ValueError, match=message):
        loop.train(task, tmp_path, **(dict(steps=8, batch_size=8) | numbers))
    assert not list(tmp_path.iterdir())
