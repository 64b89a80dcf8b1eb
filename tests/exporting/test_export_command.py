"""The command: what it writes, and what it refuses in a line before anything is written."""

import json
import subprocess
import sys

import pytest

from ddim_jax import weights
from tests.exporting.networks import random_weights


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    weights.save(path, random_weights())
    return path


def export(*arguments):
    command = [sys.executable, "-m", "experiments.export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_writes_a_folder(source, tmp_path):
    result = export(source, tmp_path / "out", "--to=onnx", "--dtype=float16")
    assert result.returncode == 0, result.stderr
    assert "onnxruntime beside JAX: largest difference" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "network_float16.onnx", "tables.json"]
    assert json.loads((tmp_path / "out" / "model.json").read_text())["name"] == "small"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["SRC", "DST", "--to=tflite"], "value should be one of <onnx|stablehlo|page>"),
        (["SRC", "DST"], "Flag --to must have a value"),
        (["SRC", "--to=onnx"], "give two paths"),
        (["SRC", "DST", "--to=stablehlo", "--dtype=float16"], "--dtype is of --to=onnx and page"),
        (["SRC", "DST", "--to=onnx", "--serve"], "--serve, --port and --onnxruntime are of --to=page"),
        (["SRC", "DST", "--to=page", "--onnxruntime=NOWHERE.tgz"], "give npm's tarball of onnxruntime-web"),
        (["SRC", "FULL", "--to=onnx"], "already holds something"),
        (["NOWHERE", "DST", "--to=onnx"], "there is no file or folder"),
    ],
)
def test_what_is_refused(arguments, message, source, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    paths = {"SRC": source, "DST": tmp_path / "out", "FULL": tmp_path / "full", "NOWHERE": tmp_path / "nowhere"}
    result = export(*(paths.get(argument, argument) for argument in arguments))
    assert result.returncode in (1, 2) and "wrote" not in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line and "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
