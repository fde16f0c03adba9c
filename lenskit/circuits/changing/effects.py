"""Effects: what a change of some nodes makes of the targets, along all ways through a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lenskit.circuits.graph import FEATURE, LOGIT, Graph
from lenskit.circuits.nodes import Node, NodeLike


def total_effect(
    graph: Graph, nodes: NodeLike | Iterable[NodeLike] | Mapping[NodeLike, float], scale: float = 0.0
) -> np.ndarray:
    """(label,): by how much each target changes, as the graph has it, if nodes are held at `scale` times what they are.

    0 takes them away; nodes may come with a scale each. What a feature gives goes with its activation, and that with
    its value, so

        change of a value = sum over its edges of weight x share of the source,    share = change / value

    with the share `scale - 1` for the nodes that are held, whatever reaches them. Attention, norms and the slopes of
    features stay as they are on the prompt, and a feature that would fall silent goes on below 0: it is the linear
    answer, in the targets' own units, to be set beside the model's. What is in `rest` is not followed.

    Raises `KeyError` for a node that is not here, and `ValueError` for a target.

    >>> lk.circuits.total_effect(graph, "20.155@7")  # doctest: +SKIP
    """
    kind, value = graph.kind, graph.value
    given = [nodes] if isinstance(nodes, str | Node) else nodes
    scales = given if isinstance(given, Mapping) else dict.fromkeys(given, scale)
    held = [graph.number(node) for node in scales]
    if np.any(kind[held] == LOGIT):
        raise ValueError("a target is what is measured: hold the features, embeddings or errors that reach it.")
    share = np.zeros(len(graph))
    share[held] = np.array(list(scales.values())) - 1
    follows = (kind == FEATURE) & (value != 0)
    follows[held] = False
    change = np.zeros(len(graph))
    levels = graph.layer[graph.target]  # ascending, as the targets are
    for level in np.unique(levels):
        here = slice(*np.searchsorted(levels, [level, level + 1]))
        given = graph.weight[here] * share[graph.source[here]]
        change += np.bincount(graph.target[here], weights=given, minlength=len(graph))
        moved = follows & (graph.layer == level)
        share[moved] = change[moved] / value[moved]
    logits = kind == LOGIT
    return np.bincount(graph.feature[logits], weights=change[logits], minlength=len(graph.labels))
