"""Charts as SVG text, drawn by matplotlib: curves with bands, points, the key to their colours, and graphs.

Text stays text, and black becomes light where the reader's screen is dark. The same values give the same bytes. Charts that stand together share one key, which is quicker to draw and to read than one in each: a row has the same
colour and sign in all of them, by its number.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

SIZE = (5.2, 3.0)  # inches
POINTS = 300  # of a training curve
STYLE = "svg{color:#1a1a1a}@media (prefers-color-scheme:dark){svg{color:#e8e8e8}}text{fill:currentColor}"
MARKERS = "osD^vPX*<>"
COLOURS = ("#1f6fb4", "#c2410c", "#15803d", "#9333ea", "#b45309", "#0e7490", "#be123c", "#4d7c0f", "#6d28d9", "#334155")


@dataclass
class Curve:
    """One curve: the number of its row in the key, where, what, and if there is one its band (low, high)."""

    number: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default_factory=list)
    high: Sequence[float] = field(default_factory=list)


def curves(drawn: Sequence[Curve], x: str, y: str, title: str, *, log: bool = False) -> str:
    """Return a chart of curves; `x` and `y` name the axes, `title` is what a screen reader reads.

    `log`: the upper axis is logarithmic, where the largest value is ten times the smallest or more.
    """
    figure, axes = _figure(x, y)
    for curve in drawn:
        colour, marker = _look(curve.number)
        axes.plot(
            curve.x, curve.y, color=colour, marker=marker if len(curve.x) <= 40 else None, markersize=4, linewidth=1.5
        )
        if len(curve.low):
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    values = [value for curve in drawn for value in curve.y]
    if log and 0 < 10 * min(values) <= max(values):
        from matplotlib.ticker import LogLocator, NullLocator

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
    return _svg(figure, title)


def training(file: Path) -> dict[str, Curve]:
    """Return curves by step of a training's `metrics.jsonl`: its loss (the sum where there is one, else the first), each validation.

    All have the number 0. They are thinned to means over neighbouring steps; what has fewer than two points is left out.
    """
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    loss = next((key for line in lines for key in ("loss", *line) if key in line and key != "step"), "loss")
    made = {}
    for key in dict.fromkeys([loss, *(key for line in lines for key in line if key.startswith("val_"))]):
        kept = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), float)]
        width = math.ceil(len(kept) / POINTS) or 1
        groups = [kept[i : i + width] for i in range(0, len(kept), width)]
        if len(groups) > 1:
            steps, values = ([float(np.mean([pair[i] for pair in g])) for g in groups] for i in (0, 1))
            made[key] = Curve(0, steps, values)
    return made


def points(drawn: Sequence[tuple[int, float, float]], x: str, y: str, title: str) -> str:
    """Return a chart of points (number of the row, x, y), x on a logarithmic axis."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    figure, axes = _figure(x, y)
    for number, across, up in drawn:
        colour, marker = _look(number)
        axes.plot([across], [up], color=colour, marker=marker)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 3M, not 3 x 10^6, which is set as a formula for each tick
    axes.margins(0.15)
    return _svg(figure, title)


def key(names: Sequence[str], title: str) -> str:
    """Return the key to charts that stand together: the colour and the sign of each row, in two columns."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = 2
    figure = Figure(figsize=(SIZE[0], 0.25 * math.ceil(len(names) / columns)))
    looks = [Line2D([], [], color=colour, marker=marker) for colour, marker in map(_look, range(len(names)))]
    words = [_plain(name if len(name) <= 32 else name[:31] + "…") for name in names]
    figure.legend(looks, words, ncols=columns, frameon=False, loc="center", borderpad=0)
    return _svg(figure, title)


def graph(edges: Sequence[tuple[str, str]], nodes: dict[str, str], title: str) -> str:
    """Return a drawing of an acyclic graph from top to bottom; `nodes`: the words of each node, by its name in `edges`.

    An edge is left out where a longer way leads from its beginning to its end.
    """
    import networkx
    from matplotlib.figure import Figure

    drawn = networkx.DiGraph(edges)
    drawn.add_nodes_from(nodes)
    drawn = networkx.transitive_reduction(drawn)
    layers = dict(enumerate(map(sorted, networkx.topological_generations(drawn))))
    for layer, names in layers.items():
        networkx.set_node_attributes(drawn, dict.fromkeys(names, -layer), "layer")
    places = networkx.multipartite_layout(drawn, subset_key="layer", align="horizontal")
    figure = Figure(figsize=(SIZE[0], 0.6 * max(len(layers), 2)), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.margins(0.6, 0.06)
    apart = {"min_source_margin": 11, "min_target_margin": 11, "node_size": 0, "arrowsize": 12}
    networkx.draw_networkx_edges(drawn, places, ax=axes, edge_color="#808080", **apart)
    box = {"boxstyle": "round", "facecolor": "none", "edgecolor": COLOURS[0]}
    networkx.draw_networkx_labels(drawn, places, nodes, ax=axes, font_size=10, bbox=box)
    return _svg(figure, title)


def _figure(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    figure.subplots_adjust(left=0.15, right=0.98, bottom=0.17, top=0.96)  # a computed layout draws everything twice
    axes = figure.subplots()
    axes.set_xlabel(_plain(x))
    axes.set_ylabel(_plain(y))
    axes.locator_params(nbins=5)  # ticks are the slowest part of a chart
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _look(number: int) -> tuple[str, str]:
    """Return the colour and the sign of a row."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _plain(text: str) -> str:
    """Return text that matplotlib takes as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def _svg(figure: Any, title: str) -> str:
    """Return a figure as an `svg` element with a name, small, and without what differs from run to run."""

    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", " ", body)
    body = re.sub(r"> +<", "><", re.sub(r'<g id="[^"]*"', "<g", body))  # nothing refers to a group
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)  # hundredths of a pixel
    body = re.sub(r"#000000|#262626|black", "currentColor", body)
    body = body.replace("</style>", STYLE + "</style>", 1)
    return body.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
