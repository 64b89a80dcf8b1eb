"""What `import ddim_jax` gives, and what the package says of itself."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import ddim_jax

ROOT = pathlib.Path(__file__).parents[1]

LAZY = """
import sys
import ddim_jax

assert not {"jax", "numpy"} & sys.modules.keys(), "imported before anybody asked for them"
assert {"diffusion", "load", "train"} <= set(dir(ddim_jax))
for module in sys.argv[1:]:
    getattr(ddim_jax.diffusion, module)
assert "jax" in sys.modules
ddim_jax.load
assert not {"orbax.checkpoint", "flax.nnx", "tensorflow", "torch"} & sys.modules.keys(), "weights in a file need none of them"
"""


@pytest.mark.slow
def test_importing_the_package_does_not_import_jax():
    """Which takes seconds: what the package gives is imported when it is first asked for, the modules of the paper too."""
    modules = [path.stem for path in (ROOT / "ddim_jax" / "diffusion").iterdir() if not path.name.startswith("_")]
    assert {"process", "solvers"} < set(modules)
    subprocess.run([sys.executable, "-c", LAZY, *modules], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", ddim_jax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(ddim_jax, name) is getattr(ddim_jax, name)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'ddim_jax' has no attribute 'sampel'"):
        ddim_jax.sampel  # noqa: B018


@pytest.mark.parametrize(
    "file, pattern",
    [("CITATION.cff", r"^version: (.*)$"), ("CHANGELOG.md", r"^## (\S+)")],  # of which the newest stands first
)
def test_the_version_is_the_same_everywhere(file, pattern):
    """setup.cfg and docs/conf.py read it from the package."""
    written = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert written and written[1] == ddim_jax.__version__
    assert "version = attr: ddim_jax.__version__" in (ROOT / "setup.cfg").read_text()


def untyped(body: list[ast.stmt]) -> list[str]:
    """The parameters without a type, "function(parameter)", of the public functions, methods and classes of a file or a class."""
    names = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            names += untyped(node.body)
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name in ("__init__", "__call__")):
            a = node.args
            every = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            names += [f"{node.name}({arg.arg})" for arg in every if arg and not arg.annotation and arg.arg not in ("self", "cls")]
    return names


def test_every_public_parameter_has_a_type():
    files = {str(path.relative_to(ROOT)): untyped(ast.parse(path.read_text()).body) for path in (ROOT / "ddim_jax").rglob("*.py")}
    assert {name: parameters for name, parameters in files.items() if parameters} == {}
