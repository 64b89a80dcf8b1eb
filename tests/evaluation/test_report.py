"""The reports that are read: by Python's own HTML parser and Pillow, and by a reader of Markdown tables written here."""

import base64
import html.parser
import io
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddim_jax.data.images import save_png
from ddim_jax.evaluation import report

VOID = {"meta", "link", "img", "br", "hr"}  # elements of HTML without an end tag (HTML standard, 13.1.2)
TABLE = report.Table(
    "FID of 50,000 images",
    "η \\ S",
    ["10", "a|b <c>"],
    {"0": ["13.36", "–"], "1 | <i>": ["x_0 & _y_", "<b>4|67</b>"]},
    "Lower is better: 1 < 2.",
)
PLOT = report.Plot("FID against steps", "fid", "steps S", "FID", {"η = 0": [(10, 13.36), (100, 4.16)], "$η$ = 1": [(10, 41.07)]})
PICTURE = report.Picture('Samples "as drawn"', "samples", "Seed 0.")
ABOUT = {"weights": "digits <b>", "seed": "0"}
WARNINGS = ["500 images & no more."]


class Reader(html.parser.HTMLParser):
    """The elements of a page. Raises AssertionError where tags are not balanced."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.rows, self.texts = [], [], [], {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data
        elif self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def folder(tmp_path):
    save_png(tmp_path / "samples.png", np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    return tmp_path


@pytest.fixture
def written(folder):
    pytest.importorskip("matplotlib", reason="plots are drawn with matplotlib, of the extra ddim_jax[evaluate]")
    report.write(folder, "Digits <1>", ABOUT, WARNINGS, [TABLE, PLOT, PICTURE])
    return folder


def cells():
    return [[TABLE.corner, *TABLE.columns], *([label, *row] for label, row in TABLE.rows.items())]


def markdown_rows(text):
    """The cells of the lines that are rows of tables: split at each | without a backslash, which is then taken away."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    split = [re.findall(r"(?:\\.|[^|\\])+", line) for line in lines]
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row if cell.strip()] for row in split]


def test_markdown_holds_every_cell_and_links_to_the_images(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert markdown_rows(text) == cells()
    assert r"| 1 \| \<i\> | x_0 & \_y\_ | \<b\>4\|67\</b\> |" in text
    assert "|:---|---:|---:|" in text
    assert text.startswith(
        "# Digits \\<1\\>\n\n- **weights**: digits \\<b\\>\n- **seed**: 0\n\n> **Warning:** 500 images & no more.\n"
    )
    for name in re.findall(r"!\[.+\]\((.*)\)", text):
        assert (written / name).is_file()
    assert re.findall(r"!\[.+\]\((.*)\)", text) == ["fid.png", "samples.png"]
    assert "Seed 0." in text and r"Lower is better: 1 \< 2." in text


def test_html_holds_every_cell_and_every_text(written):
    page = Reader((written / "report.html").read_text(encoding="utf-8"))
    assert page.rows == cells()
    assert page.texts["title"] == page.texts["h1"] == ["Digits <1>"]
    assert page.texts["h2"] == [TABLE.title, PLOT.title, PICTURE.title]
    assert (page.texts["dt"], page.texts["dd"]) == (list(ABOUT), list(ABOUT.values()))
    assert page.texts["p"] == [" 500 images & no more.", TABLE.note, PICTURE.note]


def test_html_can_be_read_by_all_and_asks_for_nothing(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert text.startswith("<!DOCTYPE html>\n") and page.of("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.of("meta")
    scopes = [each["scope"] for each in page.of("th")]
    assert scopes == ["col"] * 3 + ["row"] * 2
    assert len(page.of("table")) == 1 and len(page.of("figcaption")) == len(page.of("figure"))
    assert all(each["alt"] for each in page.of("img"))
    assert not re.search(r"https?:|<script|@import|url\(", text)
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)


def test_html_embeds_the_images_that_lie_in_the_folder(written):
    plot, picture = Reader((written / "report.html").read_text(encoding="utf-8")).of("img")
    for image, name in ((plot, "fid.png"), (picture, "samples.png")):
        start, data = image["src"].split(",")
        assert start == "data:image/png;base64"
        assert base64.b64decode(data, validate=True) == (written / name).read_bytes()
    assert picture["class"] == "pixels" and "class" not in plot
    assert (picture["width"], picture["height"]) == ("200", "160")  # 50 and 40 pixels, four times


def test_the_same_input_gives_the_same_bytes_whatever_the_settings_of_matplotlib(written):
    names = ("report.md", "report.html", "fid.png")
    before = [(written / name).read_bytes() for name in names]
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        report.write(written, "Digits <1>", ABOUT, WARNINGS, [TABLE, PLOT, PICTURE])
    assert [(written / name).read_bytes() for name in names] == before
    assert sorted(path.name for path in written.iterdir()) == sorted([*names, "samples.png"])


def test_a_plot_says_nothing_of_what_drew_it(written):
    with Image.open(written / "fid.png") as image:
        assert image.size == (1280, 800)
        assert set(image.info) <= {"dpi"}


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"none": []},
        {"one": [(10, 4.0)]},
        {"lost": [(10, math.nan), (20, math.inf)], "kept": [(10, 1.0)]},
        {"zero": [(0, 1.0), (1, -1.0)]},
        {"wide": [(1, 1e-9), (1000, 1e9)], "near": [(999, 1.0), (1001, 1.0)]},
        {f"line {i}": [(1, i + 1), (2, i + 2)] for i in range(20)},
    ],
    ids=lambda series: next(iter(series), "nothing"),
)
def test_plots_of_few_odd_and_many_points_are_drawn_without_a_warning(series, tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    report.write(tmp_path, "t", {}, [], [PLOT._replace(series=series)])
    assert [str(warning.message) for warning in recwarn] == []
    with Image.open(io.BytesIO((tmp_path / "fid.png").read_bytes())) as image:
        image.verify()


@pytest.mark.parametrize(
    "parts, error, message",
    [
        ([TABLE, report.Picture("Chains", "chain")], FileNotFoundError, "chain.png is not there: write the picture 'Chains'"),
        ([report.Picture("Text", "text")], ValueError, "text.png is no PNG file: write the picture 'Text' anew"),
        (
            [TABLE._replace(rows={"0": ["1"]})],
            ValueError,
            "row '0' of the table 'FID of 50,000 images' has 1 cells for 2 columns",
        ),
        ([PLOT, PLOT], ValueError, "the name 'fid' of the plot 'FID against steps' is taken"),
        ([PLOT._replace(name="samples"), PICTURE], ValueError, "the name 'samples' of the plot 'FID against steps' is taken"),
        ([PLOT._replace(name="../fid")], ValueError, "is '../fid'; expected that of a file alone"),
        ([PICTURE._replace(name="")], ValueError, "is ''; expected that of a file alone"),
    ],
)
def test_parts_that_cannot_be_shown_are_refused_before_anything_is_written(parts, error, message, folder):
    (folder / "text.png").write_text("no picture")
    before = sorted(folder.iterdir())
    with pytest.raises(error, match=message):
        report.write(folder, "t", {}, [], parts)
    assert sorted(folder.iterdir()) == before


def test_a_missing_matplotlib_is_told_early_and_needed_by_plots_alone(monkeypatch, folder):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as import finds a package that is not there
    for ask in (report.check_matplotlib, lambda: report.write(folder, "t", {}, [], [PLOT])):
        with pytest.raises(ModuleNotFoundError, match="it comes with the extra 'evaluate'"):
            ask()
    assert not (folder / "report.md").exists()
    report.write(folder, "t", {}, [], [TABLE, PICTURE])
    assert (folder / "report.md").exists()


def test_importing_needs_no_matplotlib():
    code = "import sys, ddim_jax.evaluation.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
