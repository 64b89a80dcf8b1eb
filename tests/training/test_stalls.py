"""What a run that stands still says, in a process whose stderr is its own."""

import subprocess
import sys

SCRIPT = """
import sys, time
from ddim_jax.training import stalls

stalls.LEAST, stalls.TIMES = 0.5, 5

def waits_for_a_batch(seconds):
    time.sleep(seconds)

with stalls.Stalls() as watched:
    for _ in range(6):
        waits_for_a_batch(0.01)
        watched.call_ended()
    with watched.away():
        time.sleep(float(sys.argv[1]))
    watched.call_ended()
    waits_for_a_batch(float(sys.argv[2]))
time.sleep(1)
"""


def said(hook, wait):
    done = subprocess.run([sys.executable, "-c", SCRIPT, hook, wait], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_call_that_does_not_end_is_said_with_where_it_stands():
    assert said("0", "1").count("in waits_for_a_batch") == 1


def test_hooks_may_take_long_and_the_end_of_a_run_is_no_stall():
    assert said("1", "0.1") == ""
