"""What every command shares: flags that say what is wrong with them, and one line in place of a traceback for bad input."""

import difflib
import functools
import linecache
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags, logging

_TRACEBACK = flags.DEFINE_bool("traceback", False, "Whether an error that is understood shows where it was raised, too.")
_OURS = [str(pathlib.Path(__file__).parents[1] / room) for room in ("ddim_jax", "experiments", "configs")]


def run(main: Callable[[list[str]], None]) -> None:
    """Runs main(arguments) with the flags of the command line.

    Input that this project refuses ends in one line, `error: ...`, and exit status 1, wrong flags in status 2. What nobody
    foresaw comes with its traceback.
    """
    app.run(functools.partial(_guarded, main), flags_parser=_parsed)


def _parsed(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, ImportError, OSError) as error:
        _end(f"{str(error).strip()}{_nearest(argv)}", 2)


def _nearest(argv: Sequence[str]) -> str:
    """The fields of the configuration that a flag --config.PART.FIELD may have meant, where it names none."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if config is None:
        return ""
    known = [f"{part}.{field}" for part in config for field in config[part]]
    given = [each.removeprefix("--config.").split("=")[0] for each in argv if each.startswith("--config.")]
    wrong = [name for name in given if name not in known]
    if not wrong:
        return ""
    part, field = wrong[0].rsplit(".", 1) if "." in wrong[0] else ("", wrong[0])
    near = [each for each in known if each.split(".")[1][:2] == field[:2]] if len(field) < 4 else []
    initials = [each for each in known if "".join(word[0] for word in each.split(".")[1].split("_")) == field]
    near = initials or difflib.get_close_matches(wrong[0], known, 3, 0.6) or near or [each for each in known if each.startswith(part)]
    return f"\nThere is no config.{wrong[0]}; did you mean {' or '.join(f'config.{each}' for each in near)}?"


def _guarded(main: Callable[[list[str]], None], argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax tells a great deal
    try:
        main(argv)
    except app.UsageError as error:
        _end(str(error), 2)
    except Exception as error:
        if not _is_refusal(error):
            raise
        if _TRACEBACK.value:
            traceback.print_exc()
        _end(str(error), 1)


def _is_refusal(error: Exception) -> bool:
    """Whether a line of this project raised it, on purpose: what a library raises within is nothing that was foreseen."""
    if str(error).startswith("Unable to initialize backend"):  # JAX_PLATFORMS names what this machine has not
        return True
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    statement = linecache.getline(innermost.filename, innermost.lineno or 0).strip()
    return any(innermost.filename.startswith(room) for room in _OURS) and statement.startswith("raise")


def _end(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def fields(config: Mapping) -> str:
    """Every field of a configuration with its value, as the flags that set them."""
    lines = [f"  --config.{part}.{field}={config[part][field]!r}" for part in config for field in config[part]]
    return "\n".join(lines)
