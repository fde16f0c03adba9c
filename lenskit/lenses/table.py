"""A plain table of a trajectory, for GitHub and nbviewer: no script, no kernel."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import numpy as np

from lenskit.lenses.picture import SEQUENTIAL
from lenskit.models.text import show

if TYPE_CHECKING:
    from lenskit.lenses.trajectory import Trajectory

_WIDEST = 24


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
        ET.SubElement(row, "th", {"scope": "row"}).text = trajectory.layer_names[layer]
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
