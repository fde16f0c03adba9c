"""Graphs for the tests: random ones, of any size, in which every value adds up, and one made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lenskit.circuits.graph import EMBED, ERROR, FEATURE, LOGIT, Graph

WORDS = {
    504: "The", 3575: " capital", 282: " of", 4649: " France", 314: " is", 7042: " Paris", 2405: " Mary", 1528: " John",
    253: " a", 28: ",", 30: ".", 198: "\n", 260: " the", 1041: " store", 3186: " gave", 288: " to", 6098: " drink",
}  # fmt: skip


def random_graph(
    seed: int,
    *,
    nodes: int = 60,
    edges: int = 200,
    tokens: int = 8,
    n_layers: int = 6,
    targets: int = 2,
    dictionary: int = 3072,
    **changes: Any,
) -> Graph:
    """A graph of so many nodes and edges, or of fewer edges where no more are possible; the same for the same seed.

    It has an embedding for each token, targets at the last position, errors for a tenth of the nodes, and features for
    all others, some of them at several positions. No edge goes back to an earlier layer or position; every value is
    `bias + edges + rest`, and `size` has room for what is no node.

    changes: fields of the graph to be given otherwise, such as `groups` or `labels`.
    """
    rng = np.random.default_rng(seed)
    where = _nodes(rng, nodes - tokens - targets, tokens, n_layers, dictionary)
    ids = tuple(rng.choice(list(WORDS), size=tokens).tolist())
    kind, layer, pos, feature = (np.array(column) for column in zip(
        *((EMBED, -1, n, ids[n]) for n in range(tokens)),
        *where,
        *((LOGIT, n_layers, tokens - 1, n) for n in range(targets)),
        strict=True,
    ))  # fmt: skip
    source, target = _pairs(rng, kind, layer, pos, edges)
    weight = rng.laplace(size=len(source)) * rng.lognormal(sigma=0.8, size=len(source))
    reached = (kind == FEATURE) | (kind == LOGIT)
    bias = np.where(reached, rng.normal(size=len(kind)), np.nan)
    rest = np.where(reached, rng.normal(scale=0.3, size=len(kind)), np.nan)
    value = np.where(reached, bias + rest + np.bincount(target, weight, len(kind)), np.nan)
    size = np.where(reached, np.bincount(target, np.abs(weight), len(kind)) + np.abs(rest) * 1.5, np.nan)
    weights = np.zeros(len(kind))
    weights[kind == LOGIT] = rng.dirichlet(np.ones(targets))
    made = Graph(
        tokens=ids,
        pieces=tuple(WORDS[token] for token in ids),
        kind=kind,
        layer=layer,
        pos=pos,
        feature=feature,
        value=value,
        activation=np.where(kind == FEATURE, np.abs(value) + 0.1, np.nan),
        source=source,
        target=target,
        weight=weight,
        bias=bias,
        rest=rest,
        size=size,
        weights=weights,
        labels=tuple(list(WORDS.values())[5 + n % 12] for n in range(targets)),
        layers=("neurons", *("transcoder",) * (n_layers - 1))[:n_layers],
        n_layers=n_layers,
        provenance={"model": "made up", "seed": seed},
    )
    return replace(made, **changes)


def _nodes(
    rng: np.random.Generator, count: int, tokens: int, n_layers: int, dictionary: int
) -> list[tuple[int, int, int, int]]:
    """Features and errors by layer, no two the same."""
    if count < 0 or count > tokens * n_layers * dictionary:
        raise ValueError(f"{count} features and errors do not fit {n_layers} layers and {tokens} tokens.")
    errors = min(count // 10, n_layers * tokens)
    cells = rng.choice(n_layers * tokens, size=errors, replace=False)
    found = {(int(cell) // tokens, int(cell) % tokens, ERROR, -1) for cell in cells}
    few = max(4, min(dictionary, count // n_layers))  # so that some features fire at several positions
    while len(found) < count:
        layer, pos = int(rng.integers(n_layers)), int(rng.integers(tokens))
        feature = int(rng.integers(few)) * (dictionary // few) if rng.random() < 0.7 else int(rng.integers(dictionary))
        found.add((layer, pos, FEATURE, feature))
    return [(kind, layer, pos, feature) for layer, pos, kind, feature in sorted(found)]


def _pairs(
    rng: np.random.Generator, kind: np.ndarray, layer: np.ndarray, pos: np.ndarray, edges: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sources and targets of edges: one into each target first, where there is a source, then any."""
    reached = (kind == FEATURE) | (kind == LOGIT)
    allowed = (layer[:, None] < layer) & (pos[:, None] <= pos) & reached
    order = rng.random(allowed.shape) + ~allowed
    first = np.flatnonzero(allowed.any(0))
    order[order[:, first].argmin(0), first] = -1  # each target's first source comes before all others
    chosen = np.argsort(order, axis=None)[: min(edges, int(allowed.sum()))]
    source, target = np.unravel_index(chosen, allowed.shape)
    return source, target
