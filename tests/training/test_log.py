"""The record of a run, with a clock that the test sets: a first call of 100 s, which compiles, then 2 steps in 4 s a call."""

import json
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from ddim_jax.training import log
from ddim_jax.training.log import Log

CALL = {"loss": np.array([0.5, 0.25]), "grad_norm": np.array([1.0, 3.0])}


@pytest.fixture
def clock(monkeypatch):
    """A list of one number: the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    return now


def make(tmp_path, start=0, active=True):
    return Log(tmp_path, start=start, total=12, batch_size=64, active=active)


def train(made, clock, calls, first=False):
    """Calls of two steps, of which the first one ever takes 100 s."""
    for i in range(calls):
        clock[0] += 100 if first and i == 0 else 4
        made.add(CALL)


def records(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def events(tmp_path):
    """(step, tag, value or None for a picture) of all that lies in TensorBoard's files, which are TFRecords."""
    found = []
    for path in sorted((tmp_path / "tensorboard").glob("events.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                found.append((event.step, value.tag, value.simple_value if kind == "simple_value" else None))
    return found


def test_means_speed_and_time_left_do_not_count_the_first_call(tmp_path, clock, capfd):
    with make(tmp_path) as made:
        train(made, clock, 1, first=True)
        made.write(2, {"learning_rate": 0.125})
        train(made, clock, 2)
        with made.untimed():
            clock[0] += 50  # a hook
        made.write(6, {"learning_rate": 0.25})
        train(made, clock, 2)
        made.write(10, {})
    metrics = {"loss": 0.375, "grad_norm": 2.0}
    speed = {"steps_per_second": 0.5, "images_per_second": 32.0}
    assert records(tmp_path) == [
        {"step": 2, "learning_rate": 0.125} | metrics,
        {"step": 6, "learning_rate": 0.25} | metrics | speed,
        {"step": 10} | metrics | speed,
    ]
    # 6 steps are left at step 6, 2 at step 10, of 2 s each.
    assert capfd.readouterr().err.splitlines() == [
        "step 2 of 12: loss 0.3750",
        "step 6 of 12: loss 0.3750, 32 images/s, 00:12 left",
        "step 10 of 12: loss 0.3750, 32 images/s, 00:04 left",
    ]
    expected = {(record["step"], name, value) for record in records(tmp_path) for name, value in record.items() if name != "step"}
    assert set(events(tmp_path)) == expected


def test_the_share_of_the_peak_is_of_the_steps_that_are_timed(tmp_path, clock):
    """2 steps in 4 s, of 2 steps a second at the peak: a quarter. The first record, of the first call alone, has no speed."""
    with Log(tmp_path, start=0, total=12, batch_size=64, active=True, peak_rate=2.0) as made:
        train(made, clock, 1, first=True)
        made.write(2, {})
        train(made, clock, 2)
        made.write(6, {})
    first, second = records(tmp_path)
    assert "mfu" not in first and second["mfu"] == 0.25


def test_a_first_call_among_others_is_left_out_of_the_speed(tmp_path, clock):
    with make(tmp_path) as made:
        train(made, clock, 3, first=True)
        made.write(6, {})
    assert records(tmp_path)[0]["steps_per_second"] == 0.5  # 4 steps in 8 s, not 6 in 108


def test_a_pipe_gets_lines_and_a_terminal_a_bar(tmp_path, clock, capfd, monkeypatch):
    for terminal in (False, True):
        monkeypatch.setattr(log.sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with make(tmp_path) as made:
            train(made, clock, 3, first=True)
            made.write(6, {})
        said = capfd.readouterr().err
        assert ("\r" in said) == terminal and ("step 6 of 12: " in said) != terminal


def test_what_hooks_find_is_written_as_numbers_and_pictures(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    with make(tmp_path) as made:
        made.write_results(4, {"held_out_loss": np.float32(0.5), "samples": picture, "count": 3})
        made.write_results(8, {"samples": picture[:, :, :1]})  # a picture alone has no line
    assert records(tmp_path) == [{"step": 4, "held_out_loss": 0.5, "count": 3.0}]
    np.testing.assert_array_equal(Image.open(tmp_path / "samples" / "step_0000004.png"), picture)
    np.testing.assert_array_equal(Image.open(tmp_path / "samples" / "step_0000008.png"), picture[:, :, 0])
    assert sorted(events(tmp_path), key=str) == sorted(
        [(4, "held_out_loss", 0.5), (4, "count", 3.0), (4, "samples", None), (8, "samples", None)], key=str
    )


def test_a_resumed_run_drops_what_was_written_beyond_its_start(tmp_path, clock):
    with make(tmp_path) as made:
        for step in (2, 4):
            train(made, clock, 1)
            made.write(step, {})
            made.write_results(step, {"held_out_loss": 0.5})
    with make(tmp_path, start=2) as made:
        train(made, clock, 1)
        made.write(4, {})
    assert [record["step"] for record in records(tmp_path)] == [2, 2, 4]


@pytest.mark.parametrize("half", [b"", b'{"step": 4, "lo'])
def test_a_damaged_last_line_is_set_aside_but_not_one_that_was_cut(tmp_path, half):
    """A killed process leaves the second; the first, which ends as a line does, is told like any other."""
    good, bad = b'{"step": 2, "loss": 1.0}\n', b'{"step": 2, "lo\rss\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + bad + half)
    with pytest.warns(UserWarning, match="has 1 lines that are no records: they are set aside in metrics_damaged.jsonl"):
        make(tmp_path, start=2).__exit__()
    assert (tmp_path / "metrics.jsonl").read_bytes() == good
    assert (tmp_path / "metrics_damaged.jsonl").read_bytes() == bad


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path, clock, capfd):
    with make(tmp_path, active=False) as made:
        train(made, clock, 2, first=True)
        made.write(4, {})
        made.write_results(4, {"held_out_loss": 0.5, "samples": np.zeros((2, 2, 1), np.uint8)})
    assert not list(tmp_path.iterdir()) and not any(capfd.readouterr())
