"""A folder that one process at a time may write to."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator

from ddim_jax.common.files import at, check_writable, in_bucket


@contextlib.contextmanager
def held(folder: str | os.PathLike) -> Iterator[None]:
    """Holds a folder for this process, by a lock on the file `lock` in it, which the system releases however the process ends.

    On a file system without locks, and in a bucket, it warns, and holds nothing.
    Raises ValueError for a bucket that cannot be written to, and BlockingIOError, which names the host, process and time, where
    another process holds it.
    """
    folder = at(folder)
    if in_bucket(folder):
        check_writable(folder, folder=True)
        warnings.warn(f"a bucket has no locks: see to it that no other process trains in {folder}", stacklevel=3)
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(f"{folder} is held by {_holder(file.read())}: wait for it, or give another folder") from None
        except OSError as error:
            warnings.warn(
                f"the file system of {folder} has no locks ({error}): see to it that no other process trains there", stacklevel=3
            )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": now}))
        file.flush()
        yield


def _holder(text: str) -> str:
    try:
        told = json.loads(text)
        return f"process {told['process']} of host {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):  # it is only just writing it
        return "another process"
