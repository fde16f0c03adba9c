"""Influence, pruning and scores once more, with dense matrices, as the published method describes them."""

from __future__ import annotations

import numpy as np

from lenskit.circuits.graph import EMBED, ERROR, FEATURE, LOGIT, Graph


def shares(graph: Graph) -> np.ndarray:
    """(target, source): which part of all that reaches a target comes from a source."""
    found = np.zeros((len(graph), len(graph)))
    for source, target, weight in zip(graph.source, graph.target, graph.weight, strict=True):
        if graph.size[target] > 0:
            found[target, source] += abs(weight) / graph.size[target]
    return found


def influence(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What comes to each node along all ways, the logits' own weight left out: w ((I - A)^-1 - I)."""
    one = np.eye(len(matrix))
    return weights @ (np.linalg.inv(one - matrix) - one)


def at_least(scores: np.ndarray, part: float) -> np.ndarray:
    """All scores that are as large as the one with which the largest reach this part of the sum, but for rounding."""
    if not scores.any():
        return scores > 0
    ordered = np.sort(scores, axis=None)[::-1]
    least = ordered[np.searchsorted(np.cumsum(ordered) / ordered.sum(), part * (1 - 1e-12))]
    return (scores >= least * (1 - 1e-9)) & (scores > 0)


def pruned(graph: Graph, nodes: float, edges: float) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Which nodes are left, and which edges."""
    fixed = (graph.kind == EMBED) | (graph.kind == LOGIT)
    left = at_least(influence(shares(graph), graph.weights), nodes) | fixed
    weights = np.zeros((len(graph), len(graph)))
    weights[graph.target, graph.source] = np.abs(graph.weight)
    weights[~left] = 0
    weights[:, ~left] = 0
    sums = weights.sum(1, keepdims=True)
    again = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
    score = again * (influence(again, graph.weights) + graph.weights)[:, None]
    chosen = at_least(score, edges)
    for _ in range(len(graph)):
        for node in np.flatnonzero(left & ~fixed):
            orphan = graph.kind[node] == FEATURE and not chosen[node].any()
            if orphan or not chosen[:, node].any():
                left[node] = chosen[node] = chosen[:, node] = False
    return left, {(int(source), int(target)) for target, source in zip(*chosen.nonzero(), strict=True)}


def scores(graph: Graph) -> tuple[float, float]:
    """Replacement and completeness. What is no node counts as an error."""
    matrix = shares(graph)
    reached = influence(matrix, graph.weights)
    error = graph.kind == ERROR
    targets = (graph.kind == FEATURE) | (graph.kind == LOGIT)
    own = reached + graph.weights
    lost = sum(own[n] * (1 - matrix[n].sum()) for n in np.flatnonzero(targets))
    tokens = reached[graph.kind == EMBED].sum()
    told = np.array([matrix[n, ~error].sum() for n in range(len(graph))])
    replacement = tokens / (tokens + reached[error].sum() + lost)
    return float(replacement), float((own * told)[targets].sum() / own[targets].sum())
