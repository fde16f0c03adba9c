"""A picture of a circuit graph that needs no kernel and no script, for GitHub and nbviewer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lenskit.circuits.graph import LOGIT
from lenskit.models.show import show
from lenskit.widgets.circuit_words import key_of

if TYPE_CHECKING:
    from lenskit.circuits.graph import Graph

_ROWS, _FEEDS = 12, 3
_CELL = {"style": "text-align:left;padding:1px 10px 1px 0"}


def html_table(
    graph: Graph, influence: Mapping[str, float], names: Mapping[str, str], pinned: list[str], caption: str
) -> str:
    """A static table of a graph: its targets, its most influential features, and what feeds each most.

    influence: of each node by its name. names: a few words about features. It is built as a tree of elements, so that
    a token or a name can never become markup.
    """
    table = ET.Element("table", {"style": "border-collapse:collapse;font:12px ui-monospace,monospace"})
    head = ET.SubElement(table, "caption", {"style": "caption-side:top;text-align:left;font-family:sans-serif"})
    head.text = caption
    row = ET.SubElement(ET.SubElement(table, "thead"), "tr")
    for name in ("node", "token", "influence", "activation", "fed by", "about"):
        ET.SubElement(row, "th", {"scope": "col", **_CELL}).text = name
    body = ET.SubElement(table, "tbody")
    grouped = {number: name for name, of in graph.groups.items() for number in of}
    for number in _shown(graph, influence, pinned):
        node = graph.nodes[number]
        row = ET.SubElement(body, "tr")
        mark = "• " if str(node) in pinned else ""
        ET.SubElement(row, "th", {"scope": "row", **_CELL}).text = f"{mark}{_name(graph, number)}"
        active = float(graph.activation[number])
        about = [grouped.get(number, ""), names.get(key_of(node.layer, node.feature, active), "")]
        cells = (
            show(graph.pieces[node.pos]),
            f"{influence[str(node)]:.3f}",
            "" if active != active else f"{active:.3g}",
            ", ".join(f"{_name(graph, graph.number(e.source))} {e.weight:+.2f}" for e in graph.into(number)[:_FEEDS]),
            " · ".join(filter(None, about)),
        )
        for text in cells:
            ET.SubElement(row, "td", _CELL).text = text
    return ET.tostring(table, encoding="unicode", method="html")


def _shown(graph: Graph, influence: Mapping[str, float], pinned: list[str]) -> list[int]:
    """The targets, what is pinned, and the most influential features and errors."""
    targets = [int(n) for n in graph.of_kind(LOGIT)]
    inner = [n for n, node in enumerate(graph.nodes) if node.kind in ("feature", "error")]
    inner.sort(key=lambda n: -influence[str(graph.nodes[n])])
    return list(dict.fromkeys([*targets, *map(graph.number, pinned), *inner[:_ROWS]]))


def _name(graph: Graph, number: int) -> str:
    """A node in a cell: the token of an embedding, the label of a target, else its name."""
    node = graph.nodes[number]
    return str(node) if node.kind in ("feature", "error") else f"{node.kind} {show(graph.name(number))}"
