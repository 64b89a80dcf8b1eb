"""Command lines that cannot work: each ends in one line that says why, before anything is read, drawn or written.

The lines of one command run one after the other in a process of its own, with a limit on its memory and an alarm for each
line, since what is refused here used to run until one of the two ended.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ddim_jax import weights

ROOT = pathlib.Path(__file__).parents[2]

CHILD = """
import contextlib, importlib, io, json, resource, signal, sys
from absl import flags
from ddim_jax.commands import command

def late(*_):
    raise BaseException("it ran for 30 seconds")

resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
signal.signal(signal.SIGALRM, late)
room = "experiments." if sys.argv[1] in ("demo", "convergence") else "ddim_jax.commands."
main = importlib.import_module(room + sys.argv[1]).main
if sys.argv[1] in ("train", "distill"):
    flags.mark_flag_as_required("config")
positional = sys.argv[1] == "convert"
ends = []
for line in json.load(sys.stdin):
    for name in list(flags.FLAGS):
        if name.startswith("config."):  # defined for the line before, which changed them
            delattr(flags.FLAGS, name)
        else:
            flags.FLAGS[name].unparse()
    sys.argv[1:], out, err = line, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        signal.alarm(30)
        try:
            command.run(main, positional)
            ends.append((0, out.getvalue(), err.getvalue()))
        except SystemExit as end:
            ends.append((end.code or 0, out.getvalue(), err.getvalue()))
        except BaseException as error:
            ends.append((-1, out.getvalue(), f"{type(error).__name__}: {error}"[:300]))
        signal.alarm(0)
json.dump(ends, sys.stdout)
"""

# What each command is given besides, where the line does not say otherwise; {tmp} is an empty folder, {file} a file in it.
COMMON = {
    "train": ["--config=tests/tiny.py", "--workdir={tmp}/run"],
    "distill": ["--config=configs/demo_distilled.py", "--workdir={tmp}/run"],
    "sample": [f"--checkpoint={weights.DIGITS}", "--output={tmp}/out"],
    "evaluate": [f"--checkpoint={weights.DIGITS}", "--output={tmp}/out", "--references={tmp}/references"],
    "convert": [],
    "demo": ["--output={tmp}/out"],
    "convergence": ["--output={tmp}/figure.png"],
}

LINES = {
    "train": [
        (["--config.model.multipliers=()"], 1, "multipliers is ()"),
        (["--config.model.multipliers=(0,)"], 1, "config.model.multipliers is (0,)"),
        (["--config.model.multipliers=(1.5,)"], 1, "config.model.multipliers is (1.5,)"),
        (["--config.model.multipliers=(-1,)"], 1, "config.model.multipliers is (-1,)"),
        (["--config.model.multipliers=('a',)"], 1, "config.model.multipliers is ('a',)"),
        (["--config.model.num_blocks=-1"], 1, "config.model.num_blocks is -1"),
        (["--config.model.num_blocks=5000"], 1, "config.model.num_blocks is 5000"),
        (["--config.model.attention_sides=(0,)"], 1, "config.model.attention_sides is (0,)"),
        (["--config.model.patch_size=-4"], 1, "config.model.patch_size is -4"),
        (["--config.model.patch_size=0"], 1, "config.model.patch_size is 0"),
        (["--config.model.num_classes=-1"], 1, "config.model.num_classes is -1"),
        (["--config.model.channels=0"], 1, "config.model.channels is 0"),
        (["--config.model.channels=-32"], 1, "config.model.channels is -32"),
        (["--config.model.dropout=nan"], 1, "config.model.dropout is nan"),
        (["--config.model.channels=32000"], 1, "this machine has"),
        (["--config.model.channels=3200000"], 1, "config.model.channels is 3200000"),
        (["--config.data.channels=0"], 1, "config.data.channels is 0"),
        (["--config.data.image_size=(0, 0)"], 1, "config.data.image_size is (0, 0)"),
        (["--config.data.image_size=(1000000000, 1000000000)"], 1, "config.data.image_size is (1000000000, 1000000000)"),
        (["--config.data.crop=middle"], 1, "'middle'"),
        (["--config.data.memory_limit_mb=-1"], 1, "config.data.memory_limit_mb is -1"),
        (["--config.training.dtype=int32"], 1, "config.training.dtype is 'int32'"),
        (["--config.training.dtype=float16"], 1, "config.training.dtype is 'float16'"),
        (["--config.sampling.dtype=int32"], 1, "config.sampling.dtype is 'int32'"),
        (["--config.sampling.count=0"], 1, "config.sampling.count is 0"),
        (["--config.sampling.count=-1"], 1, "config.sampling.count is -1"),
        (["--config.sampling.count=100000000000"], 1, "this machine has"),
        (["--config.sampling.steps=0"], 1, "sampling"),
        (["--config.sampling.steps=1001"], 1, "sampling"),
        (["--config.sampling.eta=nan"], 1, "config.sampling.eta is nan"),
        (["--config.sampling.eta=-1"], 1, "config.sampling.eta is -1.0"),
        (["--config.sampling.eta=50"], 1, "eta is 50.0"),
        (["--config.sampling.spacing=odd"], 1, "'odd'"),
        (["--config.diffusion.beta_end=nan"], 1, "beta"),
        (["--config.diffusion.beta_end=7"], 1, "beta"),
        (["--config.diffusion.num_steps=10000000000"], 1, "config.diffusion.num_steps is 10000000000"),
        (["--config.training.batch_size=100000000"], 1, "this machine has"),
        (["--config.training.batch_size=0"], 1, "config.training.batch_size is 0"),
        (["--config.training.learning_rate=nan"], 1, "config.training.learning_rate is nan"),
        (["--config.training.learning_rate=inf"], 1, "config.training.learning_rate is inf"),
        (["--config.training.grad_clip=inf"], 1, "config.training.grad_clip is inf"),
        (["--config.training.ema_decay=1.5"], 1, "config.training.ema_decay is 1.5"),
        (["--config.training.seed=-1"], 1, "config.training.seed is -1"),
        (["--config.training.seed=4294967296"], 1, "config.training.seed is 4294967296"),
        (["--workdir="], 2, "--workdir is empty"),
        (["--workdir=s3://bucket/run"], 2, "s3://bucket/run is no path on this machine: mount what s3:// names"),
        (["--profile=5"], 2, "--profile is 5; expected START:STOP"),
        (["--profile=7:5"], 2, "--profile is 7:5; expected START:STOP"),
        (["--config.training.mapping=vmap"], 1, "config.training.mapping is 'vmap'; expected one of pmap, shard_map"),
        (["--config.training.nonfinite=ignore"], 1, "config.training.nonfinite is 'ignore'; expected one of stop, skip"),
        (["--config.training.accumulate=3"], 1, "config.training.accumulate is 3, which does not divide the 8 examples"),
        (["run"], 2, "'run'"),
        (["--flagfile=/nowhere"], 2, "/nowhere"),
        (["--config="], 2, "--config"),
        (["--config=setup.cfg"], 2, "--config"),
    ],
    "distill": [
        (["--config.distillation.student_steps=(16, 8, 5)"], 1, "student_steps"),
        (["--config.distillation.student_steps=(16, 16)"], 1, "student_steps"),
        (["--config.distillation.student_steps=(4, 8)"], 1, "student_steps"),
        (["--config.distillation.student_steps=()"], 1, "student_steps"),
        (["--config.distillation.student_steps=(0,)"], 1, "student_steps"),
        (["--config.distillation.student_steps=(1.5,)"], 1, "student_steps"),
        (["--config.distillation.student_steps=(600,)"], 1, "1200 sampling steps out of 1000"),
        (["--config=tests/tiny.py"], 1, "distillation"),
        (["--workdir="], 2, "--workdir is empty"),
        (["run"], 2, "'run'"),
    ],
    "sample": [
        (["--seed=-1"], 1, "the seed is -1"),
        (["--seed=1099511627776"], 1, "the seed is 1099511627776"),
        (["--guidance=nan"], 1, "guidance is nan"),
        (["--guidance=inf"], 1, "guidance is inf"),
        (["--threshold=101"], 1, "threshold is 101.0"),
        (["--threshold=-1"], 1, "threshold is -1.0"),
        (["--threshold=nan"], 1, "threshold is nan"),
        (["--eta=nan"], 1, "eta is nan"),
        (["--steps=0"], 1, "steps is 0"),
        (["--num_images=0"], 1, "num_images is 0"),
        (["--batch_size=-1"], 1, "batch_size is -1"),
        (["--label=\u0663"], 2, "--label is \u0663"),
        (["--label=10"], 1, "label is 10"),
        (["--label=" + 5000 * "9"], 2, "--label is 999"),
        (["--label="], 2, "--label is "),
        (["--modes=gird"], 1, "gird"),
        (["--modes="], 1, "unknown modes"),
        (["--modes=grid,grid,film"], 1, "film"),
        (["--order=9", "--solver=unipc"], 1, "order"),
        (["--modes=chain", "--num_images=100000000"], 1, "this machine has"),
        (["--modes=grid", "--num_images=1000000000"], 1, "this machine has"),
        (["--modes=interpolate", "--num_images=100000000"], 1, "this machine has"),
        (["--num_images=100000000", "--batch_size=100000000", "--modes=npz"], 1, "this machine has"),
        (["--output={file}"], 1, "cannot be written to"),
        (["--output={file}/out"], 1, "cannot be written to"),
        (["--output=/proc/out"], 1, "cannot be written to"),
        (["--workdir=", "--checkpoint="], 2, "is empty"),
        (["--output="], 2, "--output is empty"),
        (["grid"], 2, "'grid'"),
        (["--flagfile=/nowhere"], 2, "/nowhere"),
        (["--checkpoint=/nowhere"], 1, "there is no file or folder /nowhere"),
    ],
    "evaluate": [
        (["--table=4"], 1, "unknown table 4; expected some of 1, 2, 3, solvers"),
        (["--table="], 1, "unknown table (none); expected some of 1"),
        (["--table=al"], 1, "unknown table al; expected some of 1"),
        (["--modes=grid"], 2, "modes"),
        (["--rows=sigma"], 1, "unknown row 'sigma'"),
        (["--steps=\u0663"], 2, "--steps is \u0663"),
        (["--steps=0"], 1, "0 sampling steps"),
        (["--seed=-1"], 1, "the seed is -1"),
        (["--output={file}"], 1, "cannot be written to"),
        (["--output="], 2, "--output is empty"),
        (["--num_samples=1000000000000"], 1, "this machine has"),
        (["1"], 2, "'1'"),
    ],
    "convert": [
        (["{file}"], 2, "give two paths"),
        ([str(weights.DIGITS), "{file}/x.safetensors"], 1, "cannot be written"),
        ([str(weights.DIGITS), "/proc/x.safetensors"], 1, "cannot be written"),
        ([str(weights.DIGITS), "{tmp}"], 1, "already holds something"),
        ([str(weights.DIGITS), "{file}/x"], 1, "cannot be written"),
        ([str(weights.DIGITS), ""], 2, "is empty"),
        (["/nowhere", "{tmp}/x.safetensors"], 1, "there is no file or folder /nowhere"),
    ],
    "demo": [
        (["--train_steps=0"], 2, "train_steps"),
        (["--train_steps=50"], 2, "--train_steps is 50"),
        (["--output={file}"], 1, "cannot be written to"),
        (["--output="], 2, "--output is empty"),
        (["now"], 2, "'now'"),
    ],
    "convergence": [
        (["--output={file}/figure.png"], 1, "cannot be written to"),
        (["--output={tmp}/figure.doc"], 2, "--output"),
        (["--num_images=0"], 2, "num_images"),
        (["--num_images=1000000000"], 1, "this machine has"),
        (["--output="], 2, "--output is empty"),
        (["now"], 2, "'now'"),
    ],
}


def ends_of(command, tmp_path):
    """(status, stdout, stderr) of each of the lines of a command."""
    (tmp_path / "file").write_text("mine")
    lines = []
    for given, *_ in LINES[command]:
        names = {word.split("=")[0] for word in given}
        common = [word for word in COMMON[command] if word.split("=")[0] not in names]
        lines.append([word.replace("{tmp}", str(tmp_path)).replace("{file}", f"{tmp_path}/file") for word in common + given])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, command],
        input=json.dumps(lines),
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("command", LINES)
def test_a_line_that_cannot_work_ends_in_one_line(command, tmp_path):
    faults = []
    for (given, status, message), (ended, out, err) in zip(LINES[command], ends_of(command, tmp_path), strict=True):
        if (ended, out) != (status, "") or not err.startswith("error: ") or message not in err or len(err.splitlines()) != 1:
            faults.append(f"{str(given)[:200]}: expected {status}, {message!r}; ended with {ended}, {out[:100]!r}, {err[:300]!r}")
        elif len(err) > 700:
            faults.append(f"{given}: {len(err)} characters: {err[:300]}")
    assert not faults, "\n" + "\n".join(faults)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
