"""The code in docs/ runs as it is written, links lead somewhere, and no module is left out of the site.

The blocks of coming-from-diffusers.md and export.md have tests of their own (interop/test_guide.py, which compares them with
diffusers, and exporting/test_to_stablehlo.py).
"""

import pathlib
import pkgutil
import re

import pytest

import ddim_jax

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {"coming-from-diffusers.md", "export.md"}
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name not in ELSEWHERE and CODE.search(path.read_text()))
WRITTEN = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "ddim_jax" / "pretrained" / "README.md"]
LINK = re.compile(r"\]\(<?([^)>\s]*)>?\)")
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


def prose(path):
    """A page without its blocks of code, which hold brackets and # of their own."""
    return re.sub(r"^```.*?^```|^(?: {4}|\t).*?$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """What a link may name after # in a page: its headings, as code hosts and MyST write them."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.*?) *$", prose(path), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.append(name)
    return found


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Those within the repository; `make links` asks the others."""
    lost = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or not target.resolve().is_relative_to(ROOT):
            lost.append(link)
        elif anchor and anchor not in anchors(target):
            lost.append(f"{link}: there are {', '.join(anchors(target))}")
    assert lost == []


def test_every_module_is_on_a_page_of_the_site():
    """Those whose docstrings and members are empty, packages that hold others, are not; nor commands, which --help describes."""
    found = set(re.findall(r"automodule:: (\S+)", "".join(page.read_text() for page in DOCS.glob("api/*.md"))))
    modules = {module.name for module in pkgutil.walk_packages(ddim_jax.__path__, "ddim_jax.") if not module.ispkg}
    hidden = {name for name in modules if name.startswith(("ddim_jax.common.", "ddim_jax.commands."))}
    assert modules - hidden <= found
