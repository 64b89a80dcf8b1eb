"""onnxruntime-web, which computes the network in a browser: fetched from npm's registry, one version, known by its hash."""

import base64
import hashlib
import io
import os
import pathlib
import tarfile
import urllib.error
import urllib.request

from ddim_jax.common.files import whole

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512, as npm gives it
FILES = (  # of its folder dist: a browser fetches the first three, or with WebGPU the last three
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)


def cache_folder() -> pathlib.Path:
    """Where what was fetched is kept: ddim_jax in the user's folder for caches."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ddim_jax"


def files(package: str | os.PathLike | None = None) -> dict[str, bytes]:
    """The contents of FILES, by name.

    package: npm's tarball of onnxruntime-web, or the folder that it unpacks to; None fetches it, once for all pages.

    Raises ValueError where it is not the version that the page was made for, or cannot be fetched or read.
    """
    if package is not None and pathlib.Path(package).is_dir():
        return _of_folder(pathlib.Path(package))
    if package is not None:
        path = pathlib.Path(package)
        return _of_tarball(_read(path), str(path))
    path = cache_folder() / URL.rpartition("/")[2]
    if path.exists() and _is_pinned(_read(path)):
        return _of_tarball(path.read_bytes(), str(path))
    content = _fetch()
    found = _of_tarball(content, URL)
    try:
        with whole(path) as part:
            part.write_bytes(content)
    except OSError:  # it is fetched anew the next time
        pass
    return found


def _fetch() -> bytes:
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(
            f"onnxruntime-web {VERSION} could not be fetched from {URL} ({getattr(error, 'reason', error)}): "
            "go online for once, or give its tarball from npm"
        ) from error


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give npm's tarball of onnxruntime-web {VERSION}") from error


def _is_pinned(content: bytes) -> bool:
    return base64.b64encode(hashlib.sha512(content).digest()).decode() == INTEGRITY


def _of_tarball(content: bytes, source: str) -> dict[str, bytes]:
    if not _is_pinned(content):
        raise ValueError(f"{source} is not npm's onnxruntime-web {VERSION}: its SHA-512 is another; fetch {URL}")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {name: tar.extractfile(f"package/dist/{name}").read() for name in FILES}  # type: ignore[union-attr]


def _of_folder(folder: pathlib.Path) -> dict[str, bytes]:
    found = {name: _read(folder / "dist" / name) for name in FILES}
    if f"v{VERSION}".encode() not in found["ort.wasm.min.mjs"][:500]:
        raise ValueError(f"{folder} is not onnxruntime-web {VERSION}, which the page was made for: unpack {URL}")
    return found
