"""A few of the kills of kills.py, which a person gives a larger count; see there."""

import signal

import pytest

from tests.reliability import kills


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_with_the_bits_of_one_that_was_not(tmp_path):
    """At random moments: while it starts, trains, logs and saves. The log is whole, too."""
    found = kills.end_and_resume(tmp_path, 10)
    assert found.ended >= 8 and found.starting == 2, found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("per_call", [1, 20])
def test_either_of_two_hosts_is_ended(tmp_path, number, per_call):
    """Each once. Told to stop (SIGTERM), both end well and nothing is lost."""
    assert kills.end_and_resume(tmp_path, 2, number, hosts=2, per_call=per_call).ended == 2
