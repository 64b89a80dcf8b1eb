"""experiments.benchmark, with a network so small that its figures mean nothing: that they are found, and what they are of."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
LINE = ["-m", "experiments.benchmark", "--batch_size=4", "--repeats=1", "--steps=2", "--config.model.channels=32"]
LINE += ["--config.model.multipliers=(1,)", "--config.model.num_blocks=1", "--config.model.attention_sides=()"]


def test_every_figure(tmp_path):
    line = [sys.executable, *LINE, f"--output={tmp_path}/figures.json"]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "figures.json").read_text())
    about = found.pop("about")
    assert about["jax"] and about["device"].endswith("cpu")
    units = {name: entry["unit"] for name, entry in found.items()}
    assert units == {
        **{f"sampler, {name}, batch {n}": "us/step" for name in ("ddim", "ddim eta=1", "unipc") for n in (64, 256)},
        "sampling, float32, batch 4": "image-steps/s",
        "training, float32, batch 4": "images/s",
    }
    assert all(entry["ours"] > 0 and entry["first_call_seconds"]["ours"] > 0 for entry in found.values())


@pytest.mark.skipif(not importlib.util.find_spec("diffusers"), reason="the extra ddim_jax[peers] brings diffusers")
def test_interop_with_the_peer_beside_ours(tmp_path):
    """Both end at the same samples, else the command ends in an error. torch.compile is left out, which needs a compiler."""
    line = [sys.executable, *LINE, "--measure=sampling", "--measure=sampler", "--peer", f"--output={tmp_path}/figures.json"]
    environment = {**os.environ, "TORCH_COMPILE_DISABLE": "1"}
    subprocess.run(line, cwd=ROOT, env=environment, check=True, capture_output=True)
    found = json.loads((tmp_path / "figures.json").read_text())
    entry = found["sampling, float32, batch 4"]
    assert {"diffusers eager", "diffusers compiled"} < entry.keys()
    rates = [entry[name] for name in ("diffusers eager", "diffusers compiled")]
    assert entry["ratio"] == pytest.approx(entry["ours"] / max(rates))
    entry = found["sampler, ddim, batch 64"]
    assert entry["ratio"] == pytest.approx(entry["diffusers"] / entry["ours"])
