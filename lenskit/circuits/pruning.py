"""Pruning: the small part of a graph that carries most of the influence."""

from __future__ import annotations

import numpy as np

from lenskit.circuits.graph import EMBED, FEATURE, LOGIT, Graph
from lenskit.circuits.influence import Wires, influence, most_of, shares


def pruned(graph: Graph, nodes: float, edges: float) -> Graph:
    """What `Graph.pruned` does."""
    kind = graph.kind
    stay = (kind == EMBED) | (kind == LOGIT)
    kept = most_of(np.where(kind == LOGIT, 0.0, graph.influence), nodes) | stay
    between = kept[graph.source] & kept[graph.target]
    chosen = np.zeros(len(graph.source), dtype=bool)
    chosen[between] = most_of(_scores(graph, between), edges)
    while True:
        used = chosen & kept[graph.source] & kept[graph.target]
        reaching = np.bincount(graph.source[used], minlength=len(graph)) > 0
        reached = np.bincount(graph.target[used], minlength=len(graph)) > 0
        left = kept & (stay | (reaching & (reached | (kind != FEATURE))))
        if np.array_equal(left, kept):
            return graph.keeping(kept, chosen)
        kept = left


def _scores(graph: Graph, between: np.ndarray) -> np.ndarray:
    """How much influence goes along each edge between the nodes that are left, as if there were no others."""
    source, target, weight = graph.source[between], graph.target[between], graph.weight[between]
    size = np.bincount(target, weights=np.abs(weight), minlength=len(graph))
    wires = Wires(source, target, weight, graph.layer, size, graph.weights)
    return shares(wires) * influence(wires)[target]
