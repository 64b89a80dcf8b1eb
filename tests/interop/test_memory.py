"""Conversion holds one copy of the parameters and little more."""

import subprocess
import sys

import pytest
import torch

from tests.interop import published

SCRIPT = """
import pathlib, re, sys
import jax
from ddim_jax import interop, weights
from ddim_jax.interop import to_diffusers

def peak():  # of this process alone; getrusage would begin with that of the one which started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

jax.numpy.zeros(1)
before = peak()
model = interop.read(sys.argv[1])
weights.save(sys.argv[2], model)
del model
to_diffusers.save(sys.argv[3], interop.read(sys.argv[2]))
interop.read(sys.argv[3])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_is_at_most_twice_the_checkpoint(tmp_path):
    """From the paper's format to ours, on to diffusers, and back in, at the full width of CelebA's network: 315 MB."""
    shape = dict(channels=128, multipliers=(1, 2, 2, 2, 4), num_blocks=2, attention_sides=(16,), size=64)
    with torch.device("meta"):
        shapes = published.Original(**shape).state_dict()
    checkpoint = tmp_path / "celeba.ckpt"
    torch.save({name: torch.ones(tensor.shape) for name, tensor in shapes.items()}, checkpoint)
    line = [sys.executable, "-c", SCRIPT, checkpoint, tmp_path / "ours.safetensors", tmp_path / "theirs"]
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 2 * checkpoint.stat().st_size, f"{int(done.stdout) / checkpoint.stat().st_size:.2f} times"
