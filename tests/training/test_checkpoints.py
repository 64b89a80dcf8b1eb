"""What is done with checkpoints that somebody or something has changed: never used silently, never deleted."""

import errno
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddim_jax.training import checkpoints as module
from ddim_jax.training.checkpoints import Checkpoints, DamagedCheckpoint, copied
from ddim_jax.training.step import TrainState

ROOT = pathlib.Path(__file__).parents[2]
NOTES = {"log": {"steps": 1, "sums": {"loss": 0.1}}, "config": {"name": "β"}}


def state_at(step):
    """Other numbers at each step, in arrays that a file can hide nothing in (a zero byte flipped is another number)."""
    draw = np.random.default_rng(step).normal
    params = {"kernel": draw(size=(17, 33)).astype(np.float32), "half": jnp.asarray(draw(size=5), jnp.bfloat16)}
    ema = jax.tree.map(lambda a: a + a, params)
    return TrainState(np.int32(step), params, ema, {"count": np.int32(step), "mu": params}, np.int32(7))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pristine") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        for step in (38, 44):
            checkpoints.save(copied(state_at(step)), NOTES)
    return directory


@pytest.fixture
def directory(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def restored(directory, expected_notes=NOTES):
    """The state, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Checkpoints(directory) as checkpoints:
            state, notes = checkpoints.restore(jax.eval_shape(lambda: state_at(0)))
    assert notes == expected_notes
    return state, [str(each.message) for each in caught if "checkpoint" in str(each.message)]


def test_a_state_and_its_notes_come_back(pristine):
    state, warned = restored(pristine)
    assert_same(state, state_at(44))
    assert state.params["half"].dtype == jnp.bfloat16 and not warned


def test_a_checkpoint_of_another_network_does_not_fit(pristine):
    other = state_at(0)._replace(params={"kernel": np.zeros((17, 34), np.float32), "half": np.zeros(5)})
    with Checkpoints(pristine, read_only=True) as checkpoints:
        with pytest.raises(ValueError, match=r"params.kernel: float32\[17, 33\], expected float32\[17, 34\]"):
            checkpoints.restore(other)


def test_the_average_alone_is_read_without_the_rest(directory):
    shutil.rmtree(directory / "44" / "rest")
    with Checkpoints(directory, read_only=True) as checkpoints:
        arrays, notes = checkpoints.load(["average"])
    assert_same(arrays, {"ema.kernel": state_at(44).ema["kernel"], "ema.half": state_at(44).ema["half"]})
    assert notes == NOTES


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << 3
    path.write_bytes(data)


HOW = {
    "first byte flipped": lambda path: flip(path, 0),
    "middle byte flipped": lambda path: flip(path, 0.5),
    "last byte flipped": lambda path: flip(path, 1),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeros after a power loss": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
    "a folder in its place": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.slow
def test_no_damage_to_a_file_is_silent(pristine, tmp_path):
    """Every file of the newest checkpoint, each in eight ways: it is as it was saved, or the one before is used, and said."""
    files = [path.relative_to(pristine) for path in sorted((pristine / "44").rglob("*")) if path.is_file()]
    assert len(files) >= 7
    outcomes = dict.fromkeys(("harmless", "stepped over"), 0)
    for number, (file, how) in enumerate((file, how) for file in files for how in HOW):
        if not (pristine / file).stat().st_size:
            continue
        directory = tmp_path / str(number) / "checkpoints"
        shutil.copytree(pristine, directory)
        HOW[how](directory / file)
        state, warned = restored(directory)
        if int(state.step) == 44:
            assert_same(state, state_at(44))
            outcomes["harmless"] += 1
            continue
        assert_same(state, state_at(38))
        assert any("step 44 is damaged" in line and "step 38 is used" in line for line in warned), (file, how, warned)
        aside = directory.with_name("damaged_checkpoints") / "44"
        assert aside.is_dir() and not (directory / "44").exists(), (file, how)
        outcomes["stepped over"] += 1
    assert outcomes["stepped over"] >= 20, outcomes


def swapped(directory):
    (directory / "38").rename(directory / "x")
    (directory / "44").rename(directory / "38")
    (directory / "x").rename(directory / "44")


def copied_by_hand(directory):
    shutil.rmtree(directory / "44")
    shutil.copytree(directory / "38", directory / "44")


def half_copied(directory):
    (directory / "50").mkdir()
    shutil.copytree(directory / "44" / "average", directory / "50" / "average")


@pytest.mark.parametrize(
    "change, used, message",
    [
        (copied_by_hand, 38, "step 44 is damaged (it is of step 38, in a folder that was renamed)"),
        (half_copied, 44, "step 50 is damaged"),
        (lambda directory: (directory / "50").mkdir(), 44, "step 50 is damaged"),
    ],
    ids=["copied", "half copied", "empty"],
)
def test_folders_that_somebody_changed_are_stepped_over(directory, change, used, message):
    change(directory)
    state, warned = restored(directory)
    assert_same(state, state_at(used))
    assert any(message in line for line in warned), warned
    with Checkpoints(directory) as checkpoints:  # and are in the way of none
        checkpoints.save(copied(state_at(50)), NOTES)
    assert_same(restored(directory)[0], state_at(50))


def test_where_none_is_whole_nothing_is_changed(directory):
    swapped(directory)
    with pytest.raises(DamagedCheckpoint) as raised:
        restored(directory)
    assert re.search(
        r"step 44: it is of step 38.*step 38: it is of step 44.*To begin anew give another folder", str(raised.value)
    )
    assert {path.name for path in directory.iterdir() if path.is_dir()} == {"38", "44"}


def test_a_reader_steps_over_and_moves_nothing(directory):
    shutil.rmtree(directory / "44" / "record")
    with Checkpoints(directory, read_only=True) as checkpoints, pytest.warns(UserWarning, match="step 44 .*step 38 is used"):
        assert checkpoints.load().arrays["step"] == 38
    assert (directory / "44").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        MemoryError(),
        ValueError("UNAVAILABLE: Error reading 'x': CURL error[56] Failure when receiving data"),  # as TensorStore words it
        ValueError("DEADLINE_EXCEEDED: Error reading 'x'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_storage_that_fails_is_no_damage(directory, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    with Checkpoints(directory) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", fails)
        with pytest.raises((OSError, MemoryError)):
            checkpoints.load()
    assert (directory / "44").exists() and not directory.with_name("damaged_checkpoints").exists()


def test_hosts_that_see_different_checkpoints(directory, monkeypatch):
    monkeypatch.setattr(module, "of_all_hosts", lambda value: [value, -1 if value == 44 else value])
    with Checkpoints(directory) as checkpoints, pytest.raises(ValueError, match="host 0 sees 44, host 1 sees none"):
        checkpoints.load()


def test_the_newest_two_are_kept_and_every_hundredth(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep_every=100) as checkpoints:
        for step in (100, 150, 200, 250, 275):
            checkpoints.save(copied(state_at(step)))
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [100, 200, 250, 275]


def test_the_record_is_under_a_checksum(directory):
    """A configuration that was edited within a checkpoint is not taken."""
    (file,) = [path for path in (directory / "44" / "record").iterdir() if "config" in path.read_text()]
    edited = json.loads(file.read_text())
    edited["record"] = edited["record"].replace('"sums": {"loss": 0.1}', '"sums": {"loss": 0.2}')
    file.write_text(json.dumps(edited))
    state, warned = restored(directory)
    assert state.step == 38 and "its record is not the one that was saved" in warned[0]


FULL_DISK = """
import resource, signal, sys, time, warnings
from ddim_jax.training.checkpoints import Checkpoints, copied
from tests.training.test_checkpoints import state_at

def let_files_grow_to(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond the limit fails, as on a full disk
warnings.simplefilter("always")
with Checkpoints(sys.argv[1]) as checkpoints:
    for step, size in ((1, -1), (2, 500), (3, -1), (4, 500)):
        time.sleep(3)  # for the save before, which is written behind
        let_files_grow_to(size)
        checkpoints.save(copied(state_at(step)))
"""


@pytest.mark.slow
def test_a_save_that_fails_does_not_end_the_training_but_the_last_one_is_told(tmp_path):
    """The disk is full while step 2 and 4 are written. The last line says what to do, and the whole ones are there."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "checkpoints")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1 and "a checkpoint could not be written" in done.stderr
    assert "training goes on, and this one is tried" in done.stderr
    assert "OSError: the last checkpoint could not be written" in done.stderr and "goes on from step 3" in done.stderr, (
        done.stderr
    )
    assert_same(restored(tmp_path / "checkpoints", {})[0], state_at(3))


def test_a_disk_without_room_is_told_before_the_first_step(tmp_path, monkeypatch):
    """Of 1 MB, checkpoints of 400 kB: two and the one that is being written take 1.2 MB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1_000_000))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.check_room({"a": np.zeros(83_000, np.float32)})
        with pytest.raises(OSError, match="has 1.0 MB free, and the checkpoints of this run take 1.2 MB more: make room"):
            checkpoints.check_room({"a": np.zeros(100_000, np.float32)})
