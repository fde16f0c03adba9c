"""What Python says of a graph, for the front-end's tests; `python -m tests.widgets.circuit_numbers` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lenskit.circuits.graph import EDGE_ARRAYS, NODE_ARRAYS, Graph
from tests.circuits.graphs import random_graph

FILE = Path(__file__).parents[2] / "widgets" / "tests" / "circuit_numbers.json"
THRESHOLDS = ((0.8, 0.98), (0.5, 0.7), (1.0, 1.0), (0.05, 0.05))


def made_up() -> Graph:
    """A graph whose numbers are the same in float32 and float64, so that both halves compute with the same."""
    graph = random_graph(11, nodes=90, edges=1000, tokens=7, n_layers=6, targets=3)
    names = ("value", "activation", "bias", "rest", "weights", "weight")
    rounded: dict[str, Any] = {name: np.round(getattr(graph, name) * 1024) / 1024 for name in names}
    size = np.bincount(graph.target, np.abs(rounded["weight"]), len(graph)) + np.abs(rounded["rest"])
    return random_graph(11, nodes=90, edges=1000, tokens=7, n_layers=6, targets=3, size=size, **rounded)


def read(said: dict[str, Any]) -> Graph:
    """The graph in the file."""
    arrays = {
        name: np.array([np.nan if x is None else x for x in said["arrays"][name]], dtype)
        for name, dtype in (NODE_ARRAYS | EDGE_ARRAYS).items()
    }
    made: dict[str, Any] = {**arrays, "n_layers": said["n_layers"], "labels": tuple(said["labels"])}
    return Graph(tokens=tuple(said["ids"]), pieces=tuple(said["tokens"]), layers=tuple(said["layers"]), **made)


def numbers_of(graph: Graph) -> dict[str, Any]:
    """Its influence, and which nodes and edges each pair of thresholds keeps."""
    found = []
    for nodes, edges in THRESHOLDS:
        small = graph.pruned(nodes, edges)
        kept = [f"{small.nodes[s]} > {small.nodes[t]}" for s, t in zip(small.source, small.target, strict=True)]
        found.append({"nodes": nodes, "edges": edges, "kept": [str(node) for node in small.nodes], "links": kept})
    return {"influence": graph.influence.tolist(), "pruned": found}


def write(graph: Graph) -> None:
    """Write the graph and its numbers to the front-end's tests."""
    arrays = {
        name: [None if x != x else x for x in getattr(graph, name).tolist()] for name in (*NODE_ARRAYS, *EDGE_ARRAYS)
    }
    said = {"ids": graph.tokens, "tokens": graph.pieces, "labels": graph.labels, "layers": graph.layers}
    said |= {"n_layers": graph.n_layers, "arrays": arrays, **numbers_of(graph)}
    FILE.write_text(json.dumps(said, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(made_up())
