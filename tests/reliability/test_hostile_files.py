"""Files of `hostile` are refused in a message that can be printed, within seconds and little memory; nothing in them runs."""

import json
import subprocess
import sys

import pytest

from tests.reliability import hostile

SECONDS, MEMORY = 20, 2 << 30  # that a file may take, and bytes beyond what importing took

# Reads the files that are named on standard input, one after the other. What takes too long ends the process, even within C.
CHILD = """
import json, pathlib, resource, signal, sys
import jax
from ddim_jax import interop
from tests.reliability import hostile

folder, names = json.load(sys.stdin)
hostile.base(pathlib.Path(folder))
paths = []
for i, name in enumerate(names):
    place = pathlib.Path(folder) / f"{i}_{len(names)}"
    place.mkdir()
    paths.append(hostile.CASES[name].write(place))
jax.numpy.zeros(1).block_until_ready()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), used + int(sys.argv[2])))
for name, path in zip(names, paths, strict=True):
    signal.alarm(int(sys.argv[1]))
    try:
        interop.load(path)
        end = (name, "nothing", "it was read")
    except BaseException as error:
        end = (name, next(c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins"), str(error))
    signal.alarm(0)
    print(json.dumps(end), flush=True)
"""


def ends_of(names, folder):
    """{name: (kind of error, message)} of each file."""
    ends = {}
    while len(ends) < len(names):
        left = [name for name in names if name not in ends]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(SECONDS), str(MEMORY)],
            input=json.dumps([str(folder), left]),
            capture_output=True,
            text=True,
        )
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        ends |= {name: (kind, message) for name, kind, message in found}
        assert done.returncode <= 0, done.stderr  # it is ended by signals alone
        if len(found) < len(left):  # at the next one, the process ended
            ends[left[len(found)]] = (f"status {done.returncode}", done.stderr[-300:])
    return ends


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("kind", ["zip", "old", "ours", "diffusers"])
def test_a_hostile_file_is_refused(kind, tmp_path, monkeypatch):
    names = [name for name in hostile.CASES if name.startswith(kind)]
    faults = []
    for name, (error, message) in ends_of(names, tmp_path).items():
        printable = all(line.isprintable() and line.isascii() for line in message.replace(str(tmp_path), "").splitlines())
        if error != "ValueError" or hostile.CASES[name].message not in message or not printable or len(message) > 2500:
            faults.append(f"{name}: {error}: {message[:300]!a}; expected {hostile.CASES[name].message!a}")
    assert not faults, f"{len(faults)} of {len(names)}\n" + "\n".join(faults)
    assert not list(tmp_path.rglob(hostile.CODE))


@pytest.mark.slow
def test_files_that_are_as_they_should_be_are_read(tmp_path):
    """What the hostile files were made of, so that each is refused for its fault and for nothing else."""
    from ddim_jax import interop
    from ddim_jax.common import pickles

    base = hostile.base(tmp_path)
    for path in (base / "ours.safetensors", base / "theirs"):
        assert interop.load(path).shape == (28, 28, 1)
    content = hostile.whole({"a": hostile.tensor()})
    for data in (hostile.zipped(content), hostile.legacy(content)):
        (tmp_path / "x.pt").write_bytes(data)
        assert pickles.load(tmp_path / "x.pt")["a"].read().tolist() == 4 * [0.0]
