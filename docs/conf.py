"""The site: README, docs/ and docstrings as they stand. `make site` builds it; any warning is an error."""

import re
import shutil

from sphinx.application import Sphinx

import ddim_jax

project, author, version = "ddim_jax", "the ddim_jax authors", ddim_jax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "docs/**.ipynb",
    "ddim_jax/pretrained/README.md",
]
html_theme = "furo"
html_title = f"ddim_jax {version}"
html_show_sourcelink = False  # its pages are the repository's own files
nb_execution_mode = "off"  # the notebooks hold what came out; a test runs them
myst_heading_anchors = 3  # a link to a heading is as on code hosts
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the signature has them
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90

PAGES = {
    "Begin": ["getting-started", "notebooks/ddim_in_twenty_minutes", "notebooks/your_network"],
    "Tasks": [
        "own-images",
        "data",
        "conditions",
        "evaluation",
        "pods",
        "reliability",
        "coming-from-diffusers",
        "export",
        "page",
        "performance",
    ],
    "Background": [
        "derivation",
        "differences",
        "results/README",
        "results/digits/report",
        "results/digits_solvers/report",
        "results/fashion_mnist/report",
    ],
    "Building blocks": [
        "api/top",
        "api/diffusion",
        "api/models",
        "api/data",
        "api/training",
        "api/inference",
        "api/evaluation",
        "api/interop",
        "api/page",
    ],
}


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Puts the table of contents, which code hosts would show as it is written, below the README."""
    if docname == root_doc:
        for caption, pages in PAGES.items():
            source[0] += "\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n"
            source[0] += "".join(f"docs/{page}\n" for page in pages) + "```\n"
        source[0] += "\n```{toctree}\n:hidden:\n:caption: Project\n\nddim_jax/pretrained/README\nCHANGELOG\nCONTRIBUTING\n```\n"


def _to_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text: prose stays prose, "name: what it is" becomes a list, and what is set in columns stays so."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = "\n\n".join(map(_paragraph, paragraphs)).split("\n")


def _paragraph(text: str) -> str:
    rows = text.split("\n")
    fields = [re.match(r"([A-Za-z_*][\w*, .]*):\s+(\S.*)", row) for row in rows]
    if fields[0] and all(field or row.startswith("  ") for field, row in zip(fields, rows)) and "  " in text:
        return "\n".join(
            f"- ``{field[1]}``: {_plain(field[2])}" if field else f"  {_plain(row.strip())}" for field, row in zip(fields, rows)
        )
    if any("  " in row for row in rows):  # equations, tables, code
        return "::\n\n" + "\n".join(f"    {row}" for row in rows)
    return "\n".join(map(_plain, rows))


def _plain(text: str) -> str:
    """Text between backticks as it is, and no other markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _copy_front_page(app: Sphinx, error: Exception | None) -> None:
    """Web servers look for index.html."""
    if error is None and app.builder.name == "html":
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")


def _skip(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Fields of a NamedTuple say "Alias for field number 0" and no more: the class says what they are."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> None:
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _to_rst)
    app.connect("autodoc-skip-member", _skip)
    app.connect("build-finished", _copy_front_page)
