"""What every command shares: one line in place of a traceback for bad input, and flags that say what is wrong with them."""

import difflib
import functools
import hashlib
import importlib.metadata
import importlib.util
import linecache
import os
import pathlib
import platform
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from ddim_jax.common import cpuinfo
from ddim_jax.common.files import at, local, local_or_bucket

_PATHS = dict.fromkeys(("images", "mask", "extractor_weights", "directory"), local)
_PATHS |= dict.fromkeys(("workdir", "output", "checkpoint", "reference", "references"), local_or_bucket)
_BY_EIGEN = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Whether an error that is understood shows where it was raised, too.")
flags.disclaim_key_flags()  # those below are of the command that asks for them, and in its --help


def run(main: Callable[[list[str]], None], positional: bool = False, about: str | None = None) -> None:
    """Runs main(arguments) with the flags of the command line. `positional`: whether it takes arguments that are no flags.

    Input that is refused ends in one line, `error: ...`, and exit status 1; wrong flags in status 2. What nobody foresaw comes
    with its traceback. --help shows `about`, by default what the module of `main` says of itself, and the flags of that module.
    """
    installed = pathlib.Path(sys.argv[0]).stem.startswith("ddim-")  # what the package installs, not a file of experiments/
    if installed and not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # where `python -m` looks, too, for what configurations and --classifier import
    _show_in_help(main.__module__, about, installed)
    app.run(functools.partial(_guarded, main), flags_parser=functools.partial(_parsed, positional))


def _keep_compiled_programs() -> None:
    """In the user's cache folder, unless JAX is told of another: the next start compiles nothing, and so takes seconds.

    Programs for one processor may not run on another, and a home folder may be of several machines, so each has its own.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    kind = hashlib.sha256(cpuinfo.line().encode()).hexdigest()[:8]
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = caches / "ddim_jax" / f"compiled-{platform.machine()}-{kind}"
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            note = "compiled programs are kept there, so that the next start is faster (JAX_COMPILATION_CACHE_DIR: elsewhere)"
            print(f"{folder}: {note}", file=sys.stderr)
    except OSError:
        return  # a home that nobody may write to keeps none
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # the many small ones take a second together


def _suit_processor() -> None:
    """Has XLA compute convolutions by Eigen, not YNNPACK, on processors with AVX-512: it is faster there (docs/performance.md).

    Only where JAX has no plug-in of an accelerator: their compilers read XLA_FLAGS, too, and stop at flags that they do not know.
    What somebody gives in XLA_FLAGS comes last, and holds.
    """
    if "avx512f" not in cpuinfo.features():
        return
    plugins = [*importlib.metadata.entry_points(group="jax_plugins"), *map(importlib.util.find_spec, ("jax_plugins", "libtpu"))]
    if not any(plugins):
        os.environ["XLA_FLAGS"] = f"{_BY_EIGEN} {os.environ.get('XLA_FLAGS', '')}".strip()


def _show_in_help(module: str, about: str | None, installed: bool) -> None:
    """absl shows the docstring and the flags of __main__, which is a file of a few lines; it knows it by its path."""
    about = about or sys.modules[module].__doc__ or ""
    if installed:
        about = about.replace("python -m experiments.", "ddim-")
    sys.modules["__main__"].__doc__ = about
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def fields(path: str) -> dict[str, Any]:
    """{"training.seed": 0, ...} of a file of the flag --config; empty where it cannot be read."""
    try:
        config: Any = flags.FLAGS["config"].parser.parse(path)
        return {f"{part}.{field}": value for part, parts in config.items() for field, value in parts.items()}
    except Exception:  # the flag itself says what is wrong
        return {}


def config_path(argv: Sequence[str]) -> str | None:
    """The path that is given as --config."""
    found = re.search(r"^--?config[=\n](.+)$", "\n".join(argv), re.M)
    return found and found[1]


def define_multihost() -> None:
    """Defines the flags of a command that several processes may share; see `join`."""
    flags.DEFINE_bool("multihost", False, "Whether this is one process of several, as on a TPU pod.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0. Of --multihost, where JAX does not find the others itself.")
    flags.DEFINE_integer("num_processes", None, "How many they are. Of --coordinator.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0. Of --coordinator.", lower_bound=0)


def join() -> None:
    """With --multihost, meets the other processes. Raises ValueError where neither JAX nor the flags say which they are."""
    given = (flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id)
    if not flags.FLAGS.multihost:
        if given != (None, None, None):
            raise app.UsageError("--coordinator, --num_processes and --process_id are of --multihost: give it, too")
        return
    try:
        jax.distributed.initialize(*given)
    except ValueError as error:
        raise ValueError(
            f"--multihost: {error} On TPUs, SLURM, Open MPI and Kubernetes JAX finds the processes itself; elsewhere give each "
            "--coordinator=HOST:PORT of process 0, --num_processes=N and --process_id=0 to N - 1"
        ) from error


def whole_numbers(name: str, expected: str) -> tuple[int, ...]:
    """The numbers of a flag that is a list. Raises UsageError, which names what is `expected`, for anything but digits 0 to 9."""
    words = [word.strip() for word in flags.FLAGS[name].value or []]
    if not words or not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
        given = ",".join(words)
        given = given if len(given) < 100 else f"{given[:100]}..."
        raise app.UsageError(f"--{name} is {given}; expected whole numbers {expected}, with commas between them")
    return tuple(map(int, words))


def source_and_output(folder: str) -> tuple[str, pathlib.Path]:
    """The place of the weights, --workdir or --checkpoint, and where to write: --output, or else this folder in --workdir.

    Raises UsageError where both places are given or none, and where --checkpoint comes without --output.
    """
    workdir, checkpoint, output = flags.FLAGS.workdir, flags.FLAGS.checkpoint, flags.FLAGS.output
    if (workdir is None) == (checkpoint is None):
        raise app.UsageError("give either --workdir, the folder of a training run, or --checkpoint, a file or folder of weights")
    if output is None and workdir is None:
        raise app.UsageError("give --output, the folder to write to")
    return workdir or checkpoint, at(output or at(workdir) / folder)


def _parsed(positional: bool, argv: Sequence[str]) -> list[str]:
    """The arguments that are no flags; those are parsed."""
    try:
        arguments = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            getattr(flags.FLAGS["config"].value, "data", None)  # which raises only now where there is no such file
        if not positional and len(arguments) > 1:
            _end(f"{arguments[1]!r} is no flag, and this command takes nothing else: write --NAME=VALUE; --help lists all", 2)
        for name in flags.FLAGS:
            flag = flags.FLAGS[name]
            if flag.present and "." not in name and flag.value == "":
                _end(f"--{name} is empty: give a value, or leave it out", 2)
            if name in _PATHS and isinstance(flag.value, str):
                flag.value = _PATHS[name](flag.value)
        return arguments
    except (flags.Error, ValueError, ModuleNotFoundError) as error:
        _end(error, 2)
    except (AttributeError, KeyError) as error:  # of the flag --config, where an override names no field
        known = fields(config_path(argv) or "")
        given = re.findall(r"^--?(?:no)?config\.([\w.]+)", "\n".join(argv), re.M)
        unknown = [name for name in given if known and name not in known]
        if not unknown and "get_config" in str(error):
            _end(f"--config names a file that is no configuration: it has no function get_config ({error})", 2)
        if not unknown:
            raise
        near = " or ".join(_nearest(unknown[0], known))
        _end(f"there is no config.{unknown[0]}{near and f'; did you mean {near}?'} --help lists all", 2)
    except (OSError, SyntaxError) as error:
        _end(f"--config cannot be read: {str(error).splitlines()[-1].strip()}", 2)


def _nearest(wrong: str, known: Iterable[str]) -> list[str]:
    """The fields that somebody may mean who writes `wrong`: of these initials ("lr"), or of the nearest name."""
    written, names = wrong.split(".")[-1], {name: name.split(".")[1] for name in known}
    initials = {field for field in names.values() if written == "".join(word[0] for word in field.split("_"))}
    near = initials or difflib.get_close_matches(written, sorted(set(names.values())), 1)
    return [f"config.{name}" for name, field in names.items() if field in near]


def _guarded(main: Callable[[list[str]], None], argv: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # Orbax tells a great deal, of errors hundreds of lines; what it raises says it once
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # the place in the code tells a user nothing
    _keep_compiled_programs()
    _suit_processor()
    try:
        main(argv)
    except app.UsageError as error:
        _end(error, 2)
    except Exception as error:
        refusal = str(error) if _is_refusal(error) else _too_little_memory(error) or _missing_device()
        if refusal is None:
            raise
        if _TRACEBACK.value:
            traceback.print_exc()
        _end(refusal, 1)


def _is_refusal(error: Exception) -> bool:
    """Whether somebody foresaw this error: a `raise` of this project, or a file that cannot be had or written."""
    if isinstance(error, OSError):
        return True
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    statement = linecache.getline(frame.f_code.co_filename, line).strip()
    module = frame.f_globals.get("__spec__")  # of a command its own, though it is called __main__
    return module is not None and module.name.split(".")[0] in ("ddim_jax", "experiments") and statement.startswith("raise")


def _too_little_memory(error: Exception) -> str | None:
    """What to do where the memory of a device did not suffice, which JAX tells while it compiles or as a program begins."""
    said = str(error).partition("\n")[0]
    if not isinstance(error, jax.errors.JaxRuntimeError) or not said.startswith("RESOURCE_EXHAUSTED"):
        return None
    return (
        f"this does not fit into the memory of a {jax.devices()[0].device_kind} ({said}): take fewer images at once, by "
        "--batch_size where a network draws; where one is trained, by a smaller config.training.batch_size, more "
        "config.training.accumulate, config.training.remat or more devices"
    )


def _missing_device() -> str | None:
    """What is wrong where JAX has no device, of which it tells in several ways."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS")
        return f"JAX has no device for JAX_PLATFORMS={wanted} on this machine; cpu is always there ({error})"
    return None


def _end(message: object, status: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.unraisablehook = lambda *_: None  # of what storage libraries say while Python ends, after the line that matters
    sys.exit(status)


try:  # the flag --config reads this file as soon as it is defined, outside `run`
    flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False)
except flags.Error as error:
    _end(error, 2)
