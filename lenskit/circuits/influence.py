"""Influence: how much of the targets each node accounts for, along all ways through a graph.

Of what reaches a node, each edge into it has a share: its size over the sizes of all, whatever their signs. A node's
influence is what of the targets' weight comes to it when every node hands on what it has by these shares.

Source: Ameisen et al., "Circuit Tracing" (2025), whose graphs are pruned and judged by the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Wires(NamedTuple):
    """The edges of a graph as arrays. Nodes are numbered so that sources come before what they reach.

    Attributes:
        source, target: (edge,) the two ends' numbers, in the order of the targets.
        weight: (edge,) the effect of the source on the target.
        level: (node,) a number that grows from every source to its targets: the layer.
        size: (node,) of each target, the sum of the sizes of all that reaches it, kept as an edge or not; 0 for others.
        start: (node,) the weight of each logit; 0 for others.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    level: np.ndarray
    size: np.ndarray
    start: np.ndarray


def shares(wires: Wires) -> np.ndarray:
    """(edge,) which part each edge is of all that reaches its target."""
    size = wires.size[wires.target]
    return np.divide(np.abs(wires.weight), size, out=np.zeros(len(size)), where=size > 0)


def influence(wires: Wires) -> np.ndarray:
    """(node,) what of the targets' weight comes to each node, as float64; a logit's own weight is part of its."""
    found = wires.start.astype(np.float64)
    share = shares(wires)
    levels = wires.level[wires.target]
    for level in np.unique(levels)[::-1]:
        here = levels == level
        handed = share[here] * found[wires.target[here]]
        found += np.bincount(wires.source[here], weights=handed, minlength=len(found))
    return found


def most_of(scores: np.ndarray, part: float) -> np.ndarray:
    """Which of the scores, the largest first, together make up this part of their sum: as few as do."""
    if not 0 < part <= 1:
        raise ValueError(f"a threshold is a share of the influence that is kept, over 0 and up to 1, not {part!r}.")
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(scores[order])
    total = reached[-1] if len(reached) else 0.0
    if total <= 0:
        return np.zeros(len(scores), dtype=bool)
    count = int(np.searchsorted(reached, part * total * (1 - 1e-12))) + 1
    # Those that are as large as the last one stay with it: two edges of one chain have the same score.
    least = scores[order[min(count, len(scores)) - 1]]
    return (scores >= least * (1 - 1e-9)) & (scores > 0)
