"""Turns trained weights into files that other programs run: ONNX, StableHLO, or a page for browsers.

    python -m experiments.export runs/digits exported/ --to=onnx
    python -m experiments.export ddim_jax/pretrained/digits.safetensors exported/ --to=onnx --dtype=float16
    python -m experiments.export FOLDER_OF_DIFFUSERS exported/ --to=stablehlo
    python -m experiments.export ddim_jax/pretrained/digits.safetensors digits_page/ --to=page --serve

SRC is whatever `ddim_jax.interop.read` reads. DST is a new folder: it holds the network, model.json, which says what the network
takes and predicts, and tables.json, the tables of all solvers. What was exported is run beside JAX before it is written. A page
holds these and what shows them. See docs/export.md and docs/page.md; it needs the extra `export`.
"""

import pathlib
import tempfile

from absl import app, flags

from ddim_jax import configuration, interop, page
from ddim_jax.commands import command
from ddim_jax.common.files import check_new, check_writable, local, local_or_bucket
from ddim_jax.interop import formats, to_onnx, to_stablehlo

_TO = flags.DEFINE_enum("to", None, ("onnx", "stablehlo", "page"), "What to export to.", required=True)
_DTYPE = flags.DEFINE_enum("dtype", "float32", tuple(to_onnx.DTYPES), "Of the kernels in a file of ONNX; it computes in float32.")
_FORMAT = flags.DEFINE_enum("format", "auto", ("auto", *formats.FORMATS), "The format of SRC.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Of published weights, where they do not say.", lower_bound=1)
_SERVE = flags.DEFINE_boolean("serve", False, "Show the page on this machine, at 127.0.0.1, until Ctrl+C.")
_PORT = flags.DEFINE_integer("port", 8000, "Where --serve shows it; 0 takes any that is free.")
_ONNXRUNTIME = flags.DEFINE_string(
    "onnxruntime", None, "npm's tarball of onnxruntime-web, or its folder; by default it is fetched."
)


def main(arguments: list[str]) -> None:
    """The command, once its flags are parsed."""
    if len(arguments) != 3:
        raise app.UsageError("give two paths: SRC DST --to=onnx")
    source, destination = local_or_bucket(arguments[1]), local(arguments[2])
    if not source or not destination:
        raise app.UsageError("a path is empty; give two: SRC DST --to=onnx")
    if _DTYPE.value != "float32" and _TO.value == "stablehlo":
        raise app.UsageError("--dtype is of --to=onnx and page; StableHLO keeps float32")
    if _TO.value != "page" and (_SERVE.value or flags.FLAGS["port"].present or _ONNXRUNTIME.value is not None):
        raise app.UsageError("--serve, --port and --onnxruntime are of --to=page")
    check_new(pathlib.Path(destination))
    check_writable(destination, folder=True)
    found = interop.read(source, None if _FORMAT.value == "auto" else _FORMAT.value, _IMAGE_SIZE.value)
    model = configuration.make_model(found.config, found.params, "float32")
    prediction, name = found.config.diffusion.prediction, pathlib.Path(source).resolve().stem
    if _TO.value == "onnx":
        _save_onnx(destination, model, prediction, name)
    elif _TO.value == "page":
        with tempfile.TemporaryDirectory() as folder:
            _save_onnx(folder, model, prediction, name)
            page.build(folder, destination, _ONNXRUNTIME.value and local(_ONNXRUNTIME.value))
    else:
        errors = to_stablehlo.save(destination, model, prediction, name)
        print(f"read back beside JAX: largest difference {errors.network:.1e} of the network, {errors.sampler:.1e} of samples")
    for path in sorted(pathlib.Path(destination).iterdir()):
        print(f"wrote {path} ({path.stat().st_size:,} bytes)" if path.is_file() else f"wrote {path}/")
    if _SERVE.value:
        page.serve(destination, _PORT.value)


def _save_onnx(folder, model, prediction, name):
    checked = to_onnx.save(folder, model, prediction, name, _DTYPE.value)
    print(f"onnxruntime beside JAX: largest difference {checked.error:.1e}, of outputs up to {checked.largest:.1f}")
    if _DTYPE.value == "float16":
        print(f"rounding to float16 changed the outputs by up to {checked.rounding:.1e}")


def run() -> None:
    """Runs the command line."""
    command.run(main, positional=True)
