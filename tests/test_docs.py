"""The code in docs/ runs as it is written, and no module is left out of the site.

The blocks of coming-from-diffusers.md and export.md have tests of their own (interop/test_guide.py, which compares them with
diffusers, and exporting/test_to_stablehlo.py).
"""

import pathlib
import pkgutil
import re

import pytest

import ddim_jax

DOCS = pathlib.Path(__file__).parents[1] / "docs"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {"coming-from-diffusers.md", "export.md"}
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name not in ELSEWHERE and CODE.search(path.read_text()))
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_of_code_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for block in CODE.findall(page.read_text()):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_run(notebook, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(cells, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_every_module_is_on_a_page_of_the_site():
    """Those whose docstrings and members are empty, packages that hold others, are not; nor commands, which --help describes."""
    found = set(re.findall(r"automodule:: (\S+)", "".join(page.read_text() for page in DOCS.glob("api/*.md"))))
    modules = {module.name for module in pkgutil.walk_packages(ddim_jax.__path__, "ddim_jax.") if not module.ispkg}
    hidden = {name for name in modules if name.startswith(("ddim_jax.common.", "ddim_jax.commands."))}
    assert modules - hidden <= found
