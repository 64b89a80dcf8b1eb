"""A run that stands still says where."""

import collections
import contextlib
import faulthandler
import statistics
import sys
import time
from collections.abc import Iterator

LEAST = 60.0  # seconds
TIMES = 20  # the median of the calls so far


class Stalls:
    """Where no call ends for TIMES as long as most calls took, and LEAST seconds, the stack of each thread goes to stderr, once.

    Use as a context, which ends with the run. Python's faulthandler does the work, in a thread that needs no lock of Python's.
    """

    def __init__(self) -> None:
        self._took: collections.deque[float] = collections.deque(maxlen=100)
        self._since = time.perf_counter()

    def __enter__(self) -> "Stalls":
        return self

    def __exit__(self, *error: object) -> None:
        faulthandler.cancel_dump_traceback_later()

    def call_ended(self) -> None:
        """To be told of each call. The watch begins with the fourth: the first compiles, and says little of the others."""
        now = time.perf_counter()
        self._took.append(now - self._since)
        self._since = now
        if len(self._took) > 3:
            patience = max(LEAST, TIMES * statistics.median(self._took))
            faulthandler.dump_traceback_later(patience, file=sys.__stderr__ or sys.stderr)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """While something is done that is no call, and may take long."""
        faulthandler.cancel_dump_traceback_later()
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began
