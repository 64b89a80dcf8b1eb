"""Two hosts of which one is slow, has a wrong clock or a full disk, or sees other files. See kills.py for what they train."""

import os
import pathlib
import shutil

import numpy as np
import pytest

from tests.reliability import kills

STEPS = 40

# One process of a run, in which `change()` has been called.
PROGRAM = """
import os, resource, signal, sys, time
import numpy as np
from tests.reliability import kills
workdir, *numbers, process = sys.argv[1:]
slow = process == "1"
{change}
kills.main("run", workdir, *numbers, process)
"""


def run(workdir, change="", steps=STEPS):
    return kills.start(workdir, steps, 1, 2, ("-c", PROGRAM.format(change=change)))


def said(workdir, process):
    return pathlib.Path(f"{workdir}_{process}.log").read_text()


def assert_same(a, b):
    assert kills.logged(a) == kills.logged(b)
    expected, found = kills.state(a), kills.state(b)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("hosts") / "whole"
    kills.finish(workdir, run(workdir))
    return workdir


SLOW = """
from ddim_jax.training import stalls
stalls.LEAST = 1.0

class Streamed:
    values = kills.task().source
    __len__ = lambda self: len(self.values)
    def __getitem__(self, i):
        if slow and i == 100:
            time.sleep(5)
        return self.values[i]

task = kills.task()._replace(source=Streamed())
kills.task = lambda: task
"""


@pytest.mark.slow
def test_a_slow_host_is_waited_for_and_the_stall_is_said(whole, tmp_path):
    """An example, which comes once in 32 steps, takes 5 s to read on one of them. Both say where they wait; no bit is another."""
    kills.finish(tmp_path / "run", run(tmp_path / "run", SLOW))
    assert_same(whole, tmp_path / "run")
    for process in range(2):
        assert "Timeout (0:00:01" in said(tmp_path / "run", process) and "in train" in said(tmp_path / "run", process)


CLOCK = """
real = time.time
time.time = lambda: real() + {seconds} * (process == "1" or {both})
"""
YEAR = 365 * 24 * 3600


@pytest.mark.slow
def test_a_wrong_clock_changes_nothing(whole, tmp_path):
    """Of one host it is a year ahead; then both jump back two, and what was saved last looks oldest. The newest is by step."""
    workdir = tmp_path / "run"
    kills.finish(workdir, run(workdir, CLOCK.format(seconds=YEAR, both=False), steps=STEPS // 2))
    for path in sorted((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name)):
        for each in (path, *path.rglob("*")):
            os.utime(each, (1e9 - int(path.name),) * 2)
    kills.finish(workdir, run(workdir, CLOCK.format(seconds=-2 * YEAR, both=True)))
    assert_same(whole, workdir)
    newest = max(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))
    assert newest == STEPS


FULL = """
import subprocess
os.dup2(subprocess.Popen(["cat"], stdin=subprocess.PIPE).stdin.fileno(), 2)  # what it says goes to a disk that has room
from ddim_jax.training.log import Log
write = Log.write

def write_and_fill(self, step, more):
    write(self, step, more)
    if step == 18 and process == "{host}":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond the limit fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

Log.write = write_and_fill
"""


@pytest.mark.slow
def test_a_full_disk_of_the_host_that_writes_ends_both_and_the_run_goes_on_later(whole, tmp_path):
    """From step 18 on. Training goes on without a checkpoint; at its end both say where it stands, and neither waits."""
    workdir = tmp_path / "run"
    processes = run(workdir, FULL.format(host=0))
    for process in processes:
        process.wait(200)
    assert "a checkpoint could not be written" in said(workdir, 0) and "training goes on, and this one is tried" in said(
        workdir, 0
    )
    for number, process in enumerate(processes):
        assert process.returncode and "OSError: the last checkpoint could not be written" in said(workdir, number)
        assert "Make room or mend the disk, and start again: the run goes on from step 10" in said(workdir, number)
    kills.finish(workdir, run(workdir))
    assert_same(whole, workdir)


@pytest.mark.slow
def test_a_full_disk_of_another_host_is_in_nobodys_way(whole, tmp_path):
    """The first host writes for all."""
    kills.finish(tmp_path / "run", run(tmp_path / "run", FULL.format(host=1)))
    assert_same(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("missing", [["40"], ["30", "40"]], ids=["an older one", "none"])
def test_hosts_that_see_different_newest_checkpoints_end_alike(whole, tmp_path, missing):
    """Host 1 has a folder of its own, as of a disk that is not shared. Both say so, and change nothing."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.copytree(whole, f"{workdir}_1")
    for step in missing:
        shutil.rmtree(f"{workdir}_1/checkpoints/{step}")
    processes = run(workdir, "workdir += '_1' * slow", steps=60)
    for process in processes:
        process.wait(200)
    expected = f"host 0 sees 40, host 1 sees {30 if missing == ['40'] else 'none'}"
    for number, process in enumerate(processes):
        assert process.returncode and expected in said(workdir, number), said(workdir, number)
