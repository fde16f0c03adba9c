"""A picture of a feature browser that needs no kernel and no script, for GitHub and nbviewer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lenskit.models.show import show
from lenskit.widgets.feature_wire import promoted_by

if TYPE_CHECKING:
    from lenskit.transcoders.index.feature_index import FeatureIndex

_TOKENS, _EXAMPLES = 6, 3
_CELL = {"style": "text-align:left;padding:1px 10px 1px 0"}


def html_table(index: FeatureIndex, features: Sequence[int], chosen: int | None, spec: Mapping[str, Any]) -> str:
    """A static table of some features: what each promotes, how often it fires, and of the chosen one some examples.

    It is built as a tree of elements, so that a token or a note can never become markup.
    """
    import numpy as np

    whole = ET.Element("div")
    table = ET.SubElement(whole, "table", {"style": "border-collapse:collapse;font:12px ui-monospace,monospace"})
    caption = ET.SubElement(table, "caption", {"style": "caption-side:top;text-align:left;font-family:sans-serif"})
    caption.text = f"{index.basis_name}: {len(features):,} of {index.n_features:,}, by {spec['sort']}"
    unit = index.unit
    head = ET.SubElement(ET.SubElement(table, "thead"), "tr")
    for name in (unit, "promotes", "fires on", "max", "note"):
        ET.SubElement(head, "th", {"scope": "col", **_CELL}).text = name
    body = ET.SubElement(table, "tbody")
    promoted = promoted_by(index, np.asarray(features, np.int64), _TOKENS)
    for feature, tokens in zip(features, promoted, strict=True):
        row = ET.SubElement(body, "tr")
        mark = "• " if feature in spec["pinned"] else ""
        ET.SubElement(row, "th", {"scope": "row", **_CELL}).text = f"{mark}{feature}"
        cells = (
            " ".join(show(index.piece(int(token))) for token in tokens),
            f"{100 * float(index.density[feature]):.2f} %",
            f"{float(index.max[feature]):.3g}",
            spec["notes"].get(str(feature), ""),
        )
        for text in cells:
            ET.SubElement(row, "td", _CELL).text = text
    if chosen is not None:
        _examples(whole, index, chosen, unit)
    return ET.tostring(whole, encoding="unicode", method="html")


def _examples(whole: ET.Element, index: FeatureIndex, feature: int, unit: str) -> None:
    heading = ET.SubElement(whole, "p", {"style": "margin:6px 0 0;font:12px sans-serif"})
    heading.text = f"{unit} {feature} fires on:"
    for example in index.examples(feature, n=_EXAMPLES):
        line = ET.SubElement(whole, "div", {"style": "font:12px ui-monospace,monospace;white-space:pre-wrap"})
        shown = [show(piece) for piece in example.pieces]
        line.text = f"{example.value:.3g}  {''.join(shown[: example.at])}"
        peak = ET.SubElement(line, "b")
        peak.text, peak.tail = shown[example.at], "".join(shown[example.at + 1 :])
