"""Pictures of a trajectory that need no kernel: a plotly heat map, and a plain table for GitHub and nbviewer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import numpy as np

from lenskit.lenses.statistic import STATISTICS, Statistic
from lenskit.models.text import show

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lenskit.lenses.trajectory import Trajectory

# The sequential scale of LOOK.md on a light page; nothing is the colour of the page.
SEQUENTIAL = ("#ffffff", "#d9e8f2", "#8fbfdc", "#3a86b7", "#0d4f82", "#06294d")
_WIDEST = 24


def heat_map(trajectory: Trajectory, statistic: Statistic) -> go.Figure:
    """The plotly figure of `Trajectory.figure`."""
    import plotly.graph_objects as go

    values = trajectory.statistic(statistic)
    layers, positions = trajectory.shape
    says = [[show(trajectory.pieces[int(i)]) for i in row] for row in trajectory.top_ids[..., 0]]
    hover = [[_top_k(trajectory, layer, pos) for pos in range(positions)] for layer in range(layers)]
    low, high = (0.0, 1.0) if "probability" in statistic else (0.0, float(values.max()) or 1.0)
    heat = go.Heatmap(
        z=np.asarray(values, dtype=np.float64),
        text=says,
        texttemplate="%{text}",
        customdata=hover,
        hovertemplate="layer %{y}, position %{x}<br>%{customdata}<extra></extra>",
        zmin=low,
        zmax=high,
        colorscale=[[i / (len(SEQUENTIAL) - 1), colour] for i, colour in enumerate(SEQUENTIAL)],
        reversescale=statistic == "rank",
        colorbar={"title": {"text": STATISTICS[statistic], "side": "right"}},
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    heads = [show(trajectory.pieces[int(i)]) for i in trajectory.ids]
    figure.update_xaxes(tickvals=list(range(positions)), ticktext=[_plain(head) for head in heads], side="top")
    figure.update_yaxes(title={"text": f"layer ({trajectory.site})"})
    figure.update_layout(
        width=160 + 72 * positions,
        height=110 + 21 * layers,
        # No ground of its own, and an ink that can be read on a light and on a dark page.
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#797c82"},
        margin={"l": 60, "t": 50, "b": 20, "r": 20},
    )
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def _top_k(trajectory: Trajectory, layer: int, pos: int) -> str:
    ids, probs = trajectory.top_ids[layer, pos], trajectory.top_probs[layer, pos]
    pairs = zip(ids.tolist(), probs.tolist(), strict=True)
    return "<br>".join(f"{_plain(show(trajectory.pieces[i]))}  {p:.3f}" for i, p in pairs)


def _plain(text: str) -> str:
    """Text as plotly should show it: it reads a little HTML, so what would open a tag is written out."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def html_table(trajectory: Trajectory, layers_first: str = "last-first") -> str:
    """A static table of the top tokens, coloured by their probability: the last layer on top.

    It is built as a tree of elements, so that a token can never become markup. A long prompt shows its last 24
    positions.
    """
    layers, positions = trajectory.shape
    first = max(0, positions - _WIDEST)
    table = ET.Element(
        "table", {"style": "border-collapse:separate;border-spacing:1px;font:12px ui-monospace,monospace"}
    )
    caption = ET.SubElement(table, "caption", {"style": "caption-side:top;text-align:left;font-family:sans-serif"})
    caption.text = (
        f"{trajectory.provenance['model']}, {trajectory.provenance['lens']} lens: the top token in each layer"
    )
    if first:
        caption.text += f" (the last {_WIDEST} of {positions} tokens)"
    head = ET.SubElement(ET.SubElement(table, "thead"), "tr")
    ET.SubElement(head, "th", {"scope": "col"}).text = "layer"
    for token in trajectory.ids[first:]:
        ET.SubElement(head, "th", {"scope": "col", "style": "text-align:center"}).text = show(
            trajectory.pieces[int(token)]
        )
    body = ET.SubElement(table, "tbody")
    order = range(layers) if layers_first == "first-first" else reversed(range(layers))
    for layer in order:
        row = ET.SubElement(body, "tr")
        ET.SubElement(row, "th", {"scope": "row"}).text = str(layer)
        for pos in range(first, positions):
            # Two digits, in the colour too: so a stored notebook reads the same from one processor to the next.
            p = round(float(trajectory.probability[layer, pos]), 2)
            cell = ET.SubElement(row, "td", {"style": _cell_style(p), "title": f"{p:.2f}"})
            cell.text = show(trajectory.pieces[int(trajectory.top_ids[layer, pos, 0])])
    return ET.tostring(table, encoding="unicode", method="html")


def _cell_style(p: float) -> str:
    place = min(max(p, 0.0), 1.0) * (len(SEQUENTIAL) - 1)
    low = min(int(place), len(SEQUENTIAL) - 2)
    a, b = (np.array([int(SEQUENTIAL[i][j : j + 2], 16) for j in (1, 3, 5)]) for i in (low, low + 1))
    red, green, blue = (round(x) for x in (a + (b - a) * (place - low)).tolist())
    linear = [
        (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (red / 255, green / 255, blue / 255)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    ink = "#000000" if luminance > 0.179 else "#ffffff"
    return f"background:#{red:02x}{green:02x}{blue:02x};color:{ink};text-align:center;padding:1px 6px"
