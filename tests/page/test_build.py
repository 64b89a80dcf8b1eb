"""The page's folder and its server, without a browser."""

import hashlib
import http.client
import io
import json
import re
import socket
import tarfile
import threading
import urllib.error

import pytest

from ddim_jax.page import build, runtime, serve
from ddim_jax.page.build import STATIC
from ddim_jax.page.serving import server


@pytest.fixture
def package(tmp_path):
    """A folder that passes for an unpacked onnxruntime-web."""
    (tmp_path / "package" / "dist").mkdir(parents=True)
    for name in runtime.FILES:
        (tmp_path / "package" / "dist" / name).write_text(f"/* ONNX Runtime Web v{runtime.VERSION} */")
    return tmp_path / "package"


def export(folder, **changes):
    """An exported folder, of the form that docs/export.md gives, with a file of a few bytes for a network."""
    folder.mkdir()
    (folder / "network.onnx").write_bytes(b"network")
    model = {
        "format": 1,
        "name": "digits",
        "shape": [28, 28, 1],
        "prediction": "eps",
        "num_classes": None,
        "null_label": None,
        "clip_x0": False,
        "alpha_bar": [1.0, 0.9, 0.72, 0.504],
        "network": "network.onnx",
        "sha256": hashlib.sha256(b"network").hexdigest(),
        "made_by": "ddim_jax",
    }
    row = {"eta": 0.0, "steps": 1, "t": [3], "s": [0], "x0": [[1.0]], "eps": [[0.0]], "noise": [0.0]}
    tables = {"format": 1, "tables": [{"solver": "ddim", **row}, {"solver": "encode", "ask": "departure", **row}]}
    (folder / "model.json").write_text(json.dumps(model | changes))
    (folder / "tables.json").write_text(json.dumps(tables))
    return folder


def test_a_page_is_all_that_it_asks_for(tmp_path, package):
    build(export(tmp_path / "exported"), tmp_path / "page", package)
    found = {path.relative_to(tmp_path / "page").as_posix() for path in (tmp_path / "page").rglob("*") if path.is_file()}
    own = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert found == own | {"model.json", "tables.json", "network.onnx"} | {f"onnxruntime/{name}" for name in runtime.FILES}
    assert {"index.html", "onnxruntime/LICENSE.txt"} < own


@pytest.mark.parametrize(
    "path", [path for path in STATIC.rglob("*") if path.suffix in (".html", ".css", ".js")], ids=lambda p: p.name
)
def test_no_other_host_is_named(path):
    """But for the name of SVG's language, in the icon, which nobody fetches."""
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w-]+\.\w+", path.read_text())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": 2}, "is of format 2; expected 1"),
        ({"shape": [28, 28, 2]}, "a page shows images"),
        ({"shape": [2]}, "a page shows images"),
        ({"shape": [256, 256, 3]}, "take a browser minutes"),
        ({"prediction": "logits"}, "predicts 'logits'; a page takes networks that predict eps, x0 or v"),
        ({"network": "../network.onnx"}, "has no file ../network.onnx"),
        ({"sha256": "0"}, "is not the file that model.json was written with"),
    ],
)
def test_what_no_page_can_be_made_of(tmp_path, package, changes, message):
    with pytest.raises(ValueError, match=message):
        build(export(tmp_path / "exported", **changes), tmp_path / "page", package)
    assert not (tmp_path / "page").exists()


def test_a_folder_that_was_not_exported(tmp_path, package):
    (tmp_path / "exported").mkdir()
    with pytest.raises(ValueError, match=r"model.json cannot be read .*; expected a folder that `ddim-export --to=onnx`"):
        build(tmp_path / "exported", tmp_path / "page", package)
    folder = export(tmp_path / "whole")
    with pytest.raises(FileExistsError, match="already holds something"):
        build(folder, folder, package)


def test_tables_that_lack_a_solver(tmp_path, package):
    folder = export(tmp_path / "exported")
    (folder / "tables.json").write_text('{"tables": [{"solver": "ddim"}]}')
    with pytest.raises(ValueError, match="has no table of encode"):
        build(folder, tmp_path / "page", package)


def test_another_onnxruntime_is_refused(tmp_path, package):
    (package / "dist" / "ort.wasm.min.mjs").write_text("/* ONNX Runtime Web v1.2.3 */")
    with pytest.raises(ValueError, match=f"is not onnxruntime-web {runtime.VERSION}"):
        runtime.files(package)
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as tar:
        tar.add(package, "package")
    with pytest.raises(ValueError, match=f"is not npm's onnxruntime-web {runtime.VERSION}: its SHA-512 is another"):
        runtime.files(tmp_path / "other.tgz")
    with pytest.raises(ValueError, match=r"none.tgz cannot be read \(No such file or directory\)"):
        runtime.files(tmp_path / "none.tgz")


@pytest.mark.parametrize("cached", [b"", b"damaged"])
def test_without_a_network_and_a_cache(tmp_path, monkeypatch, cached):
    """A damaged file in the cache is as none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if cached:
        (tmp_path / "ddim_jax").mkdir()
        (tmp_path / "ddim_jax" / runtime.URL.rpartition("/")[2]).write_bytes(cached)

    def offline(url, timeout):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(runtime.urllib.request, "urlopen", offline)
    with pytest.raises(ValueError, match=r"could not be fetched from .* \(Network is unreachable\): go online") as caught:
        runtime.files()
    assert "\n" not in str(caught.value)


def test_what_was_fetched_is_kept(tmp_path, monkeypatch, package):
    """By a tarball that passes for the right one; the second time nothing is fetched."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(package, "package")
    monkeypatch.setattr(runtime, "_is_pinned", lambda found: found == content.getvalue())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetched = []

    def urlopen(url, timeout):
        fetched.append(url)
        return io.BytesIO(content.getvalue())

    monkeypatch.setattr(runtime.urllib.request, "urlopen", urlopen)
    assert runtime.files() == runtime.files() and set(runtime.files()) == set(runtime.FILES)
    assert fetched == [runtime.URL]


@pytest.fixture
def running(tmp_path, package):
    build(export(tmp_path / "exported"), tmp_path / "page", package)
    with server(tmp_path / "page", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_files_are_served_as_browsers_need_them(running):
    assert running.server_address[0] == "127.0.0.1"
    connection = http.client.HTTPConnection(*running.server_address)
    kinds = {}
    for path in ("/", "/page.js", "/style.css", "/model.json", "/onnxruntime/ort.wasm.min.mjs"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        kinds[path] = answer.headers["Content-Type"].partition(";")[0]
    assert list(kinds.values()) == ["text/html", "text/javascript", "text/css", "application/json", "text/javascript"]
    connection.request("GET", "/onnxruntime/ort-wasm-simd-threaded.wasm")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "application/wasm" and answer.read()
    connection.request("GET", "/../exported/model.json")
    assert connection.getresponse().status == 404


def test_a_port_that_is_taken(running, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} cannot be used \(Address already in use\): give another"):
            serve(tmp_path / "page", port)
    with pytest.raises(ValueError, match="the port is 65536; expected"):
        serve(tmp_path / "page", 65536)
    with pytest.raises(ValueError, match="holds no page"):
        serve(tmp_path, 0)
