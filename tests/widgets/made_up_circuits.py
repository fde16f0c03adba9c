"""Graphs of a tiny model and views of them, and what a front-end would say and hear, for the circuit graph's tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.graph import Graph
from lenskit.circuits.nodes import Node
from lenskit.widgets.circuit_graph import CircuitGraph
from tests.widgets.feature_wire import DTYPES
from tests.widgets.made_up_features import PROMPT, index, model

LABELS = (" key", " the")
_DTYPES = {**DTYPES, "uint16": "<u2"}


@cache
def graph() -> Graph:
    """Of the neurons of the tiny model, of whose layer 1 there is an index."""
    return attribute(model(), PROMPT, (), LABELS, features=120)


def view(**more: Any) -> CircuitGraph:
    """Of the graph, with the model and the index."""
    return CircuitGraph(graph(), **{"model": model(), "index": index(), **more})


def strongest(layer: int = 1, count: int = 1) -> list[Node]:
    """The most influential features of a layer, away from the first token."""
    return [node for node, _ in graph().top(len(graph())) if node.layer == layer and node.pos > 0][:count]


class Wire:
    """What a view would say and hear."""

    def __init__(self, shown: CircuitGraph) -> None:
        self.view = shown
        self.replies: list[tuple[dict[str, Any], list[bytes]]] = []
        keep: Any = lambda content, buffers=None: self.replies.append((content, buffers or []))  # noqa: E731
        shown.send = keep

    def say(self, kind: str, identity: str = "t:1", **fields: Any) -> None:
        self.view._receive(self.view, {"v": 1, "kind": kind, "id": identity, **fields}, [])

    def ask(self, kind: str, **fields: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        self.say(kind, **fields)
        return opened(*self.replies[-1])

    def kinds(self) -> list[tuple[str, str]]:
        return [(reply["id"], reply["kind"]) for reply, _ in self.replies]


def opened(header: dict[str, Any], buffers: list[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A message with its arrays by name."""
    return header, {
        entry["name"]: np.frombuffer(buffer, _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for entry, buffer in zip(header.get("arrays", []), buffers, strict=True)
    }
