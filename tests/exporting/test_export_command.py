"""The command: what it writes, and what it refuses in a line before anything is written."""

import json
import signal
import subprocess
import sys
import urllib.request

import pytest

from ddim_jax import weights
from ddim_jax.common.files import digest
from ddim_jax.page import runtime
from ddim_jax.page.build import STATIC
from tests.exporting.networks import random_weights


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    weights.save(path, random_weights())
    return path


def export(*arguments):
    command = [sys.executable, "-m", "experiments.export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def serving(source, tmp_path):
    """The command as it serves a page of these weights, and what it had said by then."""
    try:
        runtime.files()
    except ValueError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "experiments.export", source, tmp_path / "page", "--to=page", "--serve", "--port=0"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells have what runs in the background ignore
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    signal.signal(signal.SIGINT, before)
    said = []
    for line in process.stdout:
        said.append(line)
        if "Ctrl+C ends it" in line:
            break
    yield process, said
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_it_writes_a_folder(source, tmp_path):
    result = export(source, tmp_path / "out", "--to=onnx", "--dtype=float16")
    assert result.returncode == 0, result.stderr
    assert "onnxruntime beside JAX: largest difference" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "network_float16.onnx", "tables.json"]
    assert json.loads((tmp_path / "out" / "model.json").read_text())["name"] == "small"


@pytest.mark.slow
def test_a_page_is_written_whole_and_served(serving, tmp_path):
    """Each of its files is answered as it lies in the folder, at 127.0.0.1 alone, until Ctrl+C."""
    process, said = serving
    assert "onnxruntime beside JAX: largest difference" in said[0], said
    folder = tmp_path / "page"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert names == own | {"model.json", "tables.json", "network.onnx"} | {f"onnxruntime/{name}" for name in runtime.FILES}
    assert {"index.html", "onnxruntime/LICENSE.txt"} < own
    assert json.loads((folder / "model.json").read_text())["sha256"] == digest(folder / "network.onnx")
    address, _, where = said[-1].partition(" shows ")
    assert address.startswith("http://127.0.0.1:") and where.startswith(f"{folder};")
    for name in names:
        with urllib.request.urlopen(address + name, timeout=30) as answer:
            assert answer.read() == (folder / name).read_bytes(), name
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.read() == (folder / "index.html").read_bytes()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
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
