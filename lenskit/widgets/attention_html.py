"""A picture of one head that needs no kernel and no script, for GitHub and nbviewer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lenskit.models.patterns import Attention
    from lenskit.widgets.attention_view import AttentionCell

_WIDEST = 24
_WHITE, _BLUE = (255, 255, 255), (13, 79, 130)


def html_table(seen: Attention | None, cell: AttentionCell | None, why: str) -> str:
    """A static table of one head's pattern, queries down and keys across; or, where there is none, the reason.

    It is built as a tree of elements, so that a token can never become markup. A long prompt shows its last 24
    tokens.
    """
    if seen is None or cell is None:
        note = ET.Element("p")
        note.text = why
        return ET.tostring(note, encoding="unicode", method="html")
    weights, tokens = seen.weights(cell.layer, cell.head), seen.tokens
    first = max(0, len(tokens) - _WIDEST)
    style = "border-collapse:separate;border-spacing:1px;font:12px ui-monospace,monospace"
    table = ET.Element("table", {"style": style})
    caption = ET.SubElement(table, "caption", {"style": "caption-side:top;text-align:left;font-family:sans-serif"})
    caption.text = (
        f"{seen.provenance['model']}, head {cell.layer}.{cell.head}: what each token (down) looks at (across)"
    )
    if first:
        caption.text += f", the last {_WIDEST} of {len(tokens)} tokens"
    head = ET.SubElement(ET.SubElement(table, "thead"), "tr")
    ET.SubElement(head, "td")
    for token in tokens[first:]:
        ET.SubElement(head, "th", {"scope": "col", "style": "text-align:center"}).text = token
    body = ET.SubElement(table, "tbody")
    for query in range(first, len(tokens)):
        row = ET.SubElement(body, "tr")
        ET.SubElement(row, "th", {"scope": "row", "style": "text-align:right"}).text = tokens[query]
        for key in range(first, len(tokens)):
            # Two digits, in the colour too: so a stored notebook reads the same from one processor to the next.
            share = round(float(weights[query, key]), 2)
            ET.SubElement(row, "td", {"style": _style(share)}).text = (
                f"{share:.2f}"[-3:] if 0.005 < share < 1 else ("1" if share == 1 else "")
            )
    return ET.tostring(table, encoding="unicode", method="html")


def _style(share: float) -> str:
    red, green, blue = (round(a + (b - a) * min(max(share, 0.0), 1.0)) for a, b in zip(_WHITE, _BLUE, strict=True))
    ink = "#000000" if share < 0.55 else "#ffffff"
    return f"background:#{red:02x}{green:02x}{blue:02x};color:{ink};text-align:center;padding:1px 5px"
