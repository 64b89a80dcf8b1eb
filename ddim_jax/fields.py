"""What the fields of a configuration may hold, each by itself; what they mean together is of `configuration`."""

import math

from ml_collections import ConfigDict

from ddim_jax.common.seeds import LARGEST_SEED
from ddim_jax.common.text import shown
from ddim_jax.data import degrading
from ddim_jax.data.decoding import CROPS
from ddim_jax.data.sources import CORRUPT
from ddim_jax.diffusion import losses
from ddim_jax.inference import processes
from ddim_jax.inference.model import SPACINGS
from ddim_jax.training.loop import MAPPINGS

_DTYPES = ("float32", "bfloat16")
LARGEST_SIDE = 2**14  # of an image, in pixels
_RANGES: dict[str, tuple[type, float, float]] = {  # of numbers: whole or not, at least, at most
    "data.channels": (int, 1, 1024),
    "data.memory_limit_mb": (int, 0, math.inf),
    "model.channels": (int, 32, 2**16),
    "model.num_blocks": (int, 0, 64),
    "model.patch_size": (int, 1, LARGEST_SIDE),
    "model.num_classes": (int, 0, 2**24),
    "model.dropout": (float, 0, 1),
    "diffusion.num_steps": (int, 1, 10**6),
    "diffusion.categories": (int, 0, 256),
    "diffusion.beta_start": (float, 0, 1),
    "diffusion.beta_end": (float, 0, 1),
    "diffusion.offset": (float, 0, 1),
    "diffusion.max_beta": (float, 0, 1),
    "sampling.steps": (int, 1, 10**6),
    "sampling.count": (int, 1, math.inf),
    "sampling.eta": (float, 0, math.inf),
    "training.seed": (int, 0, LARGEST_SEED),
    "training.steps": (int, 1, math.inf),
    "training.batch_size": (int, 1, math.inf),
    "training.steps_per_call": (int, 1, math.inf),
    "training.log_every": (int, 1, math.inf),
    "training.sample_every": (int, 1, math.inf),
    "training.checkpoint_every": (int, 1, math.inf),
    "training.held_out_every": (int, 0, math.inf),
    "training.distance_every": (int, 0, math.inf),
    "training.distance_samples": (int, 2, math.inf),
    "training.learning_rate": (float, 0, math.inf),
    "training.warmup_steps": (int, 0, math.inf),
    "training.keep_every": (int, 0, math.inf),
    "training.accumulate": (int, 1, math.inf),
    "training.grad_clip": (float, 0, math.inf),
    "training.ema_decay": (float, 0, 1),
    "training.min_snr_gamma": (float, 0, math.inf),
    "training.condition_dropout": (float, 0, 1),
}
_CHOICES: dict[str, tuple] = {  # of fields that are no numbers
    "data.flip": (False, True),
    "data.corrupt": CORRUPT,
    "data.crop": CROPS,
    "data.degrade": (*degrading.DEGRADATIONS, ""),
    "model.input_skip": (False, True),
    "diffusion.prediction": tuple(losses.TARGETS),
    "diffusion.zero_terminal_snr": (False, True),
    "sampling.spacing": SPACINGS,
    "sampling.solver": tuple(processes.SOLVERS),
    "sampling.variance": ("small", "large"),
    "sampling.clip": (False, True),
    "sampling.dtype": _DTYPES,
    "training.dtype": _DTYPES,
    "training.remat": (False, True),
    "training.mapping": MAPPINGS,
    "training.learning_rate_decay": ("none", "cosine"),
    "training.nonfinite": ("stop", "skip"),
}
_TEXTS = {"data.name": str, "data.split": str, "data.held_out_split": str, "data.directory": str | None}
_LISTS = {"model.multipliers": 15, "model.attention_sides": 64}  # of whole numbers above 0: at most so many
_MAY_LACK = {  # of a schedule or solver that not every network has
    *(f"diffusion.{field}" for field in ("beta_start", "beta_end", "offset", "max_beta")),
    *("sampling.solver", "sampling.variance"),
}


def check_fields(config: ConfigDict, parts: tuple[str, ...]) -> None:
    """Raises ValueError for a field of these parts that is not there, of another kind than it should be, or out of its range."""
    for name in (*_RANGES, *_CHOICES, *_TEXTS, *_LISTS):
        part, field = name.split(".")
        if part not in parts or name in _MAY_LACK and field not in config[part]:
            continue
        if part not in config or not isinstance(config[part], ConfigDict) or field not in config[part]:
            raise ValueError(f"config.{name} is missing")
        value = config[part][field]
        given = f"config.{name} is {shown(value)}"
        if name in _RANGES:
            kind, least, most = _RANGES[name]
            if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
                raise ValueError(f"{given}; expected a {'whole ' if kind is int else ''}number")
            if not least <= value <= most or value == math.inf:
                raise ValueError(f"{given}; it must lie between {least} and {most if most < math.inf else 'any finite number'}")
        elif name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError(f"{given}; expected one of {', '.join(str(each) or 'none' for each in _CHOICES[name])}")
        elif name in _TEXTS and not isinstance(value, _TEXTS[name]):
            raise ValueError(f"{given}; expected a text")
        elif name in _LISTS:
            fits = isinstance(value, list | tuple) and len(value) <= _LISTS[name]
            if not fits or not all(type(each) is int and 0 < each <= LARGEST_SIDE for each in value):
                raise ValueError(
                    f"{given}; expected whole numbers above 0, at most {_LISTS[name]}, of which none is above {LARGEST_SIDE}"
                )
