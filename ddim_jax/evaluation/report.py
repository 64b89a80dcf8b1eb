"""The report of an evaluation, as Markdown and as one HTML file that needs no other: tables, plots and pictures.

It knows nothing of what was evaluated. The same input gives the same bytes.
"""

import base64
import html
import io
import math
import os
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from ddim_jax.common.extras import require
from ddim_jax.common.files import at, whole

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # told apart by the colour-blind too
_MARKERS = "osD^vPX*"  # one more than colours, so that the pairs of the two repeat late
_LARGEST, _MOST_TIMES = 640, 4  # CSS pixels that a picture is enlarged to, and how many times
_STYLE = """\
:root { color-scheme: light dark; --line: #8886; --shade: #8882; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { line-height: 1.2; }
h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
figure { margin: 2.5rem 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; min-width: 0; }
aside { border-left: .3rem solid #d55e00; background: var(--shade); padding: .1rem 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; }
tbody td, tbody th { white-space: nowrap; }
thead th { vertical-align: bottom; border-bottom-width: 2px; }
tbody tr:nth-child(even) { background: var(--shade); }
img { display: block; max-width: 100%; height: auto; background: white; }
.wide { overflow-x: auto; }
.pixels { image-rendering: pixelated; }"""


class Table(NamedTuple):
    """Text in rows and columns. A cell that is missing is the text "–"."""

    title: str
    corner: str  # what rows and columns are, such as "η \\ S"
    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]  # label -> the text of each cell
    note: str = ""


class Plot(NamedTuple):
    """Lines through points (x, y); a point that is not finite is left out."""

    title: str
    name: str  # of the file, without .png
    x: str  # what the axes are labelled with
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log: bool = True  # an axis is logarithmic where all its values are positive
    note: str = ""


class Picture(NamedTuple):
    """A PNG file that already lies in the folder of the report."""

    title: str
    name: str  # of the file, without .png
    note: str = ""


def check_matplotlib() -> None:
    """Raises ModuleNotFoundError where matplotlib is missing, which `write` draws plots with: ask before hours of sampling."""
    for module in ("figure", "style", "ticker"):
        require(f"matplotlib.{module}", "evaluate")


def write(
    folder: str | os.PathLike,
    title: str,
    about: Mapping[str, str],
    warnings: Sequence[str],
    parts: Sequence[Table | Plot | Picture],
) -> None:
    """Writes report.md, report.html and NAME.png of each plot into a folder, which is made where it is not there.

    about:    what was evaluated and how: name -> value.
    warnings: what a reader must know before believing the figures; each a sentence.
    parts:    shown in this order.

    Raises before anything is written: ValueError where a row of a table has not one cell a column, a name of a file is none or
    used twice, or a picture is no PNG file; FileNotFoundError where it is not there; ModuleNotFoundError where there are plots
    but no matplotlib.
    """
    folder = at(folder)
    _check(folder, parts)
    plots = {part.name: _draw(part) for part in parts if isinstance(part, Plot)}
    pictures = {part.name: (folder / f"{part.name}.png").read_bytes() for part in parts if isinstance(part, Picture)}
    files = {f"{name}.png": png for name, png in plots.items()}
    files["report.html"] = _html(title, about, warnings, parts, plots | pictures).encode()
    files["report.md"] = _markdown(title, about, warnings, parts).encode()
    for name, content in files.items():
        with whole(folder / name) as part:
            part.write_bytes(content)


def _check(folder: pathlib.Path, parts: Sequence[Table | Plot | Picture]) -> None:
    plotted: set[str] = set()
    pictured = {part.name for part in parts if isinstance(part, Picture)}
    for part in parts:
        if isinstance(part, Table):
            for label, cells in part.rows.items():
                if len(cells) != len(part.columns):
                    raise ValueError(
                        f"row {label!r} of the table {part.title!r} has {len(cells)} cells for {len(part.columns)} columns: "
                        'give one a column, "–" where it is missing'
                    )
            continue
        if not part.name or pathlib.PurePath(part.name).name != part.name:
            raise ValueError(
                f"the name of {part.title!r} is {part.name!r}; expected that of a file alone, without folder or .png"
            )
        if isinstance(part, Plot):
            if part.name in plotted | pictured:
                raise ValueError(f"the name {part.name!r} of the plot {part.title!r} is taken by another part: give each its own")
            plotted.add(part.name)
        elif not (folder / f"{part.name}.png").is_file():
            raise FileNotFoundError(f"{folder / part.name}.png is not there: write the picture {part.title!r} before the report")


# Plots


def _draw(plot: Plot) -> bytes:
    """A plot as the bytes of a PNG file."""
    check_matplotlib()
    with require("matplotlib.style", "evaluate").context("default"):  # whatever the user's own settings are
        figure = require("matplotlib.figure", "evaluate").Figure(figsize=(6.4, 4), dpi=200, layout="constrained")
        axes = figure.add_subplot()
        series = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in plot.series.items()}
        for i, (name, points) in enumerate(series.items()):
            style = dict(color=_COLORS[i % len(_COLORS)], marker=_MARKERS[i % len(_MARKERS)], markersize=7, linewidth=1.8)
            axes.plot([x for x, _ in points], [y for _, y in points], markeredgecolor="white", label=name, **style)
        xs, ys = ([p[i] for points in series.values() for p in points] for i in range(2))
        if plot.log and xs and min(xs) > 0:
            axes.set_xscale("log")
            _number_ticks(axes.xaxis, xs, where_values_are=True)
        if plot.log and ys and min(ys) > 0:
            axes.set_yscale("log")
            _number_ticks(axes.yaxis, ys)
        axes.set_xlabel(plot.x, parse_math=False)
        axes.set_ylabel(plot.y, parse_math=False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.spines["bottom"].set(visible=True, color="#888888")
        columns = max(1, math.ceil(len(series) / 16))  # more lines have no room below each other
        legend = figure.legend(axes.lines, list(series), loc="outside right upper", frameon=False, ncols=columns)
        for text in legend.get_texts():
            text.set_parse_math(False)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})  # else the version of matplotlib is in it
    return content.getvalue()


def _number_ticks(axis: Any, values: Sequence[float], where_values_are: bool = False) -> None:
    """Ticks of a logarithmic axis as plain numbers: at 1, 2, 5, 10 and on, or at the values where they lie far apart."""
    ticker = require("matplotlib.ticker", "evaluate")
    few = sorted(set(values))
    room = (few[-1] / few[0]) ** 0.08  # what one number takes of the axis
    if where_values_are and all(b > room * a for a, b in zip(few, few[1:])):
        axis.set_major_locator(ticker.FixedLocator(few))
    else:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if few[-1] < 1000 * few[0] else (1,)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def _alt(part: Plot | Picture) -> str:
    """What those read who do not see an image."""
    if isinstance(part, Plot):
        return f"{part.title}: {part.y} against {part.x}, a line each for {', '.join(part.series)}"
    return part.title


# Markdown


def _markdown(title: str, about: Mapping[str, str], warnings: Sequence[str], parts: Sequence[Table | Plot | Picture]) -> str:
    blocks = [f"# {_plain(title)}"]
    if about:
        blocks.append("\n".join(f"- **{_plain(name)}**: {_plain(value)}" for name, value in about.items()))
    blocks += [f"> **Warning:** {_plain(warning)}" for warning in warnings]
    for part in parts:
        blocks.append(f"## {_plain(part.title)}")
        if isinstance(part, Table):
            rows = [[part.corner, *part.columns], *([label, *cells] for label, cells in part.rows.items())]
            lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
            blocks.append("\n".join([lines[0], "|:---|" + "---:|" * len(part.columns), *lines[1:]]))
        else:
            blocks.append(f"![{_plain(_alt(part))}]({urllib.parse.quote(part.name)}.png)")
        if part.note:
            blocks.append(_plain(part.note))
    return "\n\n".join(blocks) + "\n"


def _plain(text: str) -> str:
    """Text on one line in which Markdown finds no marks of its own, a cell of a table no end."""
    marks = r"[\\`*\[\]<>|~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)"
    return re.sub(marks, r"\\\g<0>", " ".join(text.split()))


# HTML


def _html(
    title: str,
    about: Mapping[str, str],
    warnings: Sequence[str],
    parts: Sequence[Table | Plot | Picture],
    images: Mapping[str, bytes],
) -> str:
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',  # else browsers ask the server for one
        f"<title>{html.escape(title)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    if about:
        pairs = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in about.items())
        lines += ["<dl>", *pairs, "</dl>"]
    if warnings:
        lines += ["<aside>", *(f"<p><strong>Warning:</strong> {html.escape(each)}</p>" for each in warnings), "</aside>"]
    for part in parts:
        lines += ["<figure>", f"<figcaption><h2>{html.escape(part.title)}</h2></figcaption>"]
        lines += _html_table(part) if isinstance(part, Table) else [_html_image(part, images[part.name])]
        lines += [f"<p>{html.escape(part.note)}</p>"] if part.note else []
        lines.append("</figure>")
    return "\n".join([*lines, "</main>", "</body>", "</html>"]) + "\n"


def _html_table(table: Table) -> list[str]:
    def row(label: str, cells: str) -> str:
        return f"<tr>{label}{cells}</tr>"

    heads = [f'<th scope="col">{html.escape(name)}</th>' for name in (table.corner, *table.columns)]
    lines = [
        f'<div class="wide" role="region" tabindex="0" aria-label="{html.escape(table.title)}">',  # keys scroll it
        "<table>",
        "<thead>",
        row("", "".join(heads)),
        "</thead>",
        "<tbody>",
    ]
    for label, cells in table.rows.items():
        lines.append(row(f'<th scope="row">{html.escape(label)}</th>', "".join(f"<td>{html.escape(c)}</td>" for c in cells)))
    return [*lines, "</tbody>", "</table>", "</div>"]


def _html_image(part: Plot | Picture, png: bytes) -> str:
    try:
        width, height = Image.open(io.BytesIO(png), formats=["PNG"]).size
    except UnidentifiedImageError as error:
        raise ValueError(f"{part.name}.png is no PNG file: write the picture {part.title!r} anew") from error
    if isinstance(part, Picture):
        times, pixels = max(1, min(_MOST_TIMES, _LARGEST // width)), ' class="pixels"'
        size = f'width="{times * width}" height="{times * height}"'
    else:
        size, pixels = f'width="{width // 2}" height="{height // 2}"', ""  # drawn for screens with two dots a pixel
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img{pixels} {size} alt="{html.escape(_alt(part))}" src="{source}">'
