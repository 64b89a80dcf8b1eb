"""The page's folder, out of an exported network, the page's own sources and onnxruntime-web."""

import os
import pathlib
import shutil
from typing import Any

from ddim_jax.common.files import check_new, digest, read_json, whole_folder
from ddim_jax.page import runtime

STATIC = pathlib.Path(__file__).parent / "static"
FORMAT = 1  # of model.json
LARGEST = 4096  # numbers of a picture, 64x64 grey or 36x36 in colour: more takes a browser minutes
SOLVERS = ("ddim", "encode")  # without which there is nothing to show


def build(exported: str | os.PathLike, folder: str | os.PathLike, package: str | os.PathLike | None = None) -> None:
    """Makes the page of an exported network, whole or not at all.

    exported: a folder of `ddim-export --to=onnx`: the network, model.json and tables.json.
    folder:   what to write, new or empty.
    package:  npm's tarball of onnxruntime-web or the folder it unpacks to; None fetches it (see `runtime.files`).

    Raises ValueError, before anything is written, for what no page can be made of, and FileExistsError where `folder` holds
    something.
    """
    exported = pathlib.Path(exported)
    check_new(pathlib.Path(folder))
    model, tables = (read_json(_text(exported / name), str(exported / name)) for name in ("model.json", "tables.json"))
    check(model, tables, exported)
    libraries = runtime.files(package)
    with whole_folder(folder) as part:
        shutil.copytree(STATIC, part, dirs_exist_ok=True)
        for name in ("model.json", "tables.json", model["network"]):
            shutil.copyfile(exported / name, part / name)
        for name, content in libraries.items():
            (part / "onnxruntime" / name).write_bytes(content)  # beside its licence, which is one of ours


def check(model: dict[str, Any], tables: dict[str, Any], exported: pathlib.Path) -> None:
    """Raises ValueError where an exported network is not one that the page can show, or its file is another."""
    if model.get("format") != FORMAT:
        raise ValueError(f"{exported} is of format {model.get('format')}; expected {FORMAT}: export it again with this version")
    shape = model["shape"]
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"examples of {exported} have shape {tuple(shape)}; a page shows images, (H, W, 1) or (H, W, 3)")
    if shape[0] * shape[1] * shape[2] > LARGEST:
        raise ValueError(f"images of {exported} have shape {tuple(shape)}: more than {LARGEST} numbers take a browser minutes")
    if model["prediction"] not in ("eps", "x0", "v"):
        raise ValueError(f"{exported} predicts {model['prediction']!r}; a page takes networks that predict eps, x0 or v")
    missing = set(SOLVERS) - {table["solver"] for table in tables["tables"]}
    if missing:
        raise ValueError(f"{exported / 'tables.json'} has no table of {', '.join(sorted(missing))}: export the network again")
    network = exported / model["network"]
    if pathlib.Path(model["network"]).name != model["network"] or not network.is_file():
        raise ValueError(f"{exported} has no file {model['network']}, its network: export it again")
    if digest(network) != model["sha256"]:
        raise ValueError(f"{network} is not the file that model.json was written with: it is damaged, export it again")


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a folder that `ddim-export --to=onnx` wrote") from error
