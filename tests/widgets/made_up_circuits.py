"""Graphs of a tiny model and views of them, and what a front-end would say and hear, for the circuit graph's tests."""

from __future__ import annotations

from functools import cache
from typing import Any

from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.graph import Graph
from lenskit.circuits.nodes import Node
from lenskit.widgets.circuit_graph import CircuitGraph
from tests.widgets.made_up_features import PROMPT, index, model

LABELS = (" key", " the")


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
