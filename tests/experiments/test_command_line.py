"""How every command ends: one line for what was foreseen, a traceback for what was not."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each starts processes
ROOT = pathlib.Path(__file__).parents[2]


def run(main, *arguments, platforms="cpu"):
    """A command whose main is these lines."""
    lines = ["import jax", "import ddim_jax.data.images as images", "from ddim_jax.commands import command", "def main(argv):"]
    script = "\n".join([*lines, *(f"    {line}" for line in main.splitlines()), "command.run(main)"])
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": platforms},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "main, message",
    [
        (
            "images.grid(jax.numpy.zeros(3))",
            "a grid expects images [N, H, W, C] or [rows, columns, H, W, C]; this has shape (3,)",
        ),
        ("open('nowhere')", "[Errno 2] No such file or directory: 'nowhere'"),
    ],
    ids=["ours", "the system's"],
)
def test_what_was_foreseen_is_one_line(main, message):
    done = run(main)
    assert (done.returncode, done.stderr, done.stdout) == (1, f"error: {message}\n", "")
    done = run(main, "--traceback")
    assert done.returncode == 1 and done.stderr.startswith("Traceback") and done.stderr.endswith(f"\nerror: {message}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_memory_that_does_not_suffice():
    """16 TB, of a process that may have 64 GB."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))\n"
    for asks in (
        "jax.numpy.zeros(2**42)",
        "jax.jit(lambda x: jax.numpy.sort(x + jax.numpy.arange(2.0**42)))(1.0).block_until_ready()",
    ):
        done = run(limit + asks)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("error: this does not fit into the memory of a cpu (RESOURCE_EXHAUSTED: Out of memory")
        assert "--batch_size" in done.stderr and "config.training.remat" in done.stderr


def test_what_is_raised_while_jax_traces_is_ours_too():
    """JAX cuts its own frames out of what passes through it; what is left ends in our line."""
    main = """
from ddim_jax.diffusion import sampling, schedule, solvers
from ddim_jax.models.network import withheld
table = solvers.ddim(schedule.linear(10), [0, 5, 10])
predict = lambda x, t: withheld({'label': x}, {})
jax.jit(lambda x: sampling.sample(predict, table, x, None))(jax.numpy.zeros((2, 3)))
"""
    done = run(main)
    assert done.returncode == 1 and done.stderr.startswith("error: the condition 'label' cannot be withheld"), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "main, last",
    [
        ("{}['what nobody foresaw']", "KeyError: 'what nobody foresaw'"),
        ("jax.numpy.zeros(2) + jax.numpy.zeros(3)", "TypeError: "),
        ("raise ValueError('somebody else')", "ValueError: somebody else"),  # no line of a file of ours
    ],
)
def test_what_was_not_foreseen_shows_its_traceback(main, last):
    done = run(main)
    assert done.returncode == 1 and "Traceback" in done.stderr and f"\n{last}" in done.stderr
    assert "error: " not in done.stderr.splitlines()[-1].removeprefix("ValueError: ")


def test_wrong_flags():
    done = run("pass", "--traceback=perhaps")
    assert done.returncode == 2 and done.stderr.startswith("error: flag --traceback=perhaps: ")
    done = run("from absl import app\nraise app.UsageError('give two paths')")
    assert (done.returncode, done.stderr) == (2, "error: give two paths\n")


def test_flags_that_are_refused_for_every_command():
    for given, message in [
        ("--flagfile=/nowhere", "Unable to open flagfile: [Errno 2] No such file or directory: '/nowhere'"),
        ("grid", "'grid' is no flag, and this command takes nothing else: write --NAME=VALUE"),
        ("--log_dir=", "--log_dir is empty: give a value, or leave it out"),
    ]:
        done = run("pass", given)
        assert (done.returncode, done.stdout) == (2, "") and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_file_of_flags_that_is_not_there():
    """Which the flag --config looks for as soon as it is defined."""
    line = [sys.executable, "-m", "experiments.train", "--config=tests/tiny.py", "--workdir=x", "--flagfile=/nowhere"]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 2 and "'/nowhere'" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("platforms", ["cuda", "abacus"])
def test_a_device_that_is_not_there(platforms):
    for main in ("jax.devices()", "jax.jit(lambda x: 2 * x)(1.0)", "jax.numpy.asarray([1.0])"):
        done = run(main, platforms=platforms)
        if done.returncode == 0:
            pytest.skip("this machine has one")
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith(f"error: JAX has no device for JAX_PLATFORMS={platforms} on this machine")


SMALL = """
command.run(lambda _: jax.jit(lambda x: x + 1)(1.0), about="")
"""


def test_compiled_programs_are_kept_and_it_is_said_once(tmp_path):
    """In the folder for caches, where JAX is not told of another."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    line = [sys.executable, "-c", "import jax\nfrom ddim_jax.commands import command\n" + SMALL]
    said = [
        subprocess.run(
            line, env=environment | {"XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True, check=True
        ).stderr
        for _ in range(2)
    ]
    (folder,) = (tmp_path / "ddim_jax").iterdir()
    assert said[0].startswith(f"{folder}: compiled programs are kept there") and said[1] == ""
    assert any(folder.iterdir())


CONVOLUTION = """
from ddim_jax.common import cpuinfo
features = frozenset(sys.argv.pop().split())
cpuinfo.features = lambda: features

def main(_):
    def of(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    print("ynn" in jax.jit(of).lower(jax.numpy.ones((1, 16, 16, 32)), jax.numpy.ones((3, 3, 32, 32))).compile().as_text())

command.run(main, about="")
"""


def test_who_computes_convolutions_on_processors():
    """YNNPACK, but Eigen with AVX-512, unless XLA_FLAGS ask for something else."""

    def by_ynnpack(features, flags=""):
        line = [sys.executable, "-c", "import sys\nimport jax\nfrom ddim_jax.commands import command\n" + CONVOLUTION, features]
        done = subprocess.run(line, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=True)
        return done.stdout == "True\n"

    if not by_ynnpack("avx2") or importlib.util.find_spec("libtpu"):
        pytest.skip("this XLA has no YNNPACK for convolutions, or there is a plug-in of an accelerator")
    assert not by_ynnpack("avx2 avx512f")
    assert by_ynnpack("avx2 avx512f", "--xla_cpu_experimental_ynn_fusion_type=+individual_convolution")
