"""Merging: one graph of what a graph has at several positions, and one of the graphs of several prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from lenskit.circuits.graph import EMBED, ERROR, LOGIT, NODE_ARRAYS, Graph

_SUMMED = ("value", "activation", "bias", "rest", "size")
_SAME = ("model", "revision", "adapters", "edits", "dictionaries")


def over_tokens(graph: Graph) -> Graph:
    """The graph in which a feature is one node, whatever the position.

    The edges into and out of it are summed, with their signs, and so are value, activation, bias, rest and size: a
    value is still its bias, the edges into it and its rest. Errors are summed for each layer, embeddings for each
    token, logits for each label. `tokens` are the distinct tokens in the order in which they come; an embedding stands
    at its token's place among them, and all else at position 0. What edges of opposite signs cancel stays in `size`:
    its share of the influence is lost, as that of `rest` is. The groups' nodes become those that they are part of; one
    that would be in several groups is in the first.
    """
    tokens = dict.fromkeys(zip(graph.tokens, graph.pieces, strict=True))
    labels = dict.fromkeys(graph.labels)
    whole = _Whole(list(tokens), list(labels))
    made = _united([graph], [_keys(graph, whole)], whole)
    return replace(graph, **made, provenance={**graph.provenance, "over_tokens": True})


def merged(graphs: Iterable[Graph]) -> Graph:
    """One graph of those of several prompts, of one model and the same dictionaries.

    Each is summed over its tokens first (`over_tokens`). Then a node's numbers, and the edges into it, are averages
    over the prompts in which it is there, an edge that one of them lacks counting as 0: so each value is still its
    bias, the edges into it and its rest, and a source that is rarely there gives little. A logit's weight is its
    average over all prompts, so that together they are 1. Groups of one name become one. The prompts' provenances are
    kept in `provenance["merged"]`.

    Raises `ValueError` for no graphs, and for graphs of different models or dictionaries, with what differs.

    >>> both = lk.circuits.merged([graph, other])  # doctest: +SKIP
    """
    given = [over_tokens(each) for each in graphs]
    if not given:
        raise ValueError("there are no graphs to merge.")
    _check_same(given)
    tokens = dict.fromkeys(chain.from_iterable(zip(each.tokens, each.pieces, strict=True) for each in given))
    labels = dict.fromkeys(chain.from_iterable(each.labels for each in given))
    whole = _Whole(list(tokens), list(labels))
    made = _united(given, [_keys(each, whole) for each in given], whole)
    first = given[0].provenance
    provenance = {name: first[name] for name in _SAME if name in first}
    provenance |= {"over_tokens": True, "merged": [dict(each.provenance) for each in given]}
    return replace(given[0], **made, provenance=provenance)


class _Whole(NamedTuple):
    """The tokens, each with its piece, and the labels of the graph that is made."""

    tokens: list[tuple[int, str]]
    labels: list[str]


class _Key(NamedTuple):
    """What a node becomes part of; nodes are in this order."""

    layer: int
    kind: int
    pos: int
    feature: int


def _keys(graph: Graph, whole: _Whole) -> list[_Key]:
    places = {token: place for place, token in enumerate(whole.tokens)}
    targets = {label: place for place, label in enumerate(whole.labels)}
    here = list(zip(graph.tokens, graph.pieces, strict=True))
    found = list[_Key]()
    for kind, layer, pos, feature in zip(
        *(getattr(graph, name).tolist() for name in ("kind", "layer", "pos", "feature")), strict=True
    ):
        if kind == EMBED:
            found.append(_Key(layer, kind, places[here[pos]], feature))
        elif kind == LOGIT:
            found.append(_Key(layer, kind, 0, targets[graph.labels[feature]]))
        else:
            found.append(_Key(layer, kind, 0, -1 if kind == ERROR else feature))
    return found


def _united(graphs: Sequence[Graph], keys: Sequence[list[_Key]], whole: _Whole) -> dict[str, Any]:
    """The arrays of all the graphs' nodes and edges: sums within a graph, and averages over graphs."""
    nodes = sorted(set(chain.from_iterable(keys)))
    numbers = {key: n for n, key in enumerate(nodes)}
    places = [np.array([numbers[key] for key in each], dtype=int) for each in keys]
    count = len(nodes)
    there = np.zeros(count)
    for place in places:
        there += np.bincount(place, minlength=count) > 0
    made: dict[str, Any] = {name: np.array([getattr(key, name) for key in nodes], dtype=int) for name in _Key._fields}
    for name in _SUMMED:
        made[name] = _sums(graphs, places, name, count) / there
    made["weights"] = _sums(graphs, places, "weights", count) / len(graphs)
    return {
        **{name: made[name] for name in NODE_ARRAYS},
        **_edges(graphs, places, there),
        "tokens": tuple(token for token, _ in whole.tokens),
        "pieces": tuple(piece for _, piece in whole.tokens),
        "labels": tuple(whole.labels),
        "groups": _groups(graphs, places),
    }


def _sums(graphs: Sequence[Graph], places: Sequence[np.ndarray], name: str, count: int) -> np.ndarray:
    found = np.zeros(count)
    for graph, place in zip(graphs, places, strict=True):
        np.add.at(found, place, getattr(graph, name))
    return found


def _edges(graphs: Sequence[Graph], places: Sequence[np.ndarray], there: np.ndarray) -> dict[str, np.ndarray]:
    ends = [np.stack([place[each.target], place[each.source]]) for each, place in zip(graphs, places, strict=True)]
    pairs, inverse = np.unique(np.concatenate(ends, axis=1), axis=1, return_inverse=True)
    target, source = pairs
    weight = np.bincount(inverse, np.concatenate([each.weight for each in graphs]), len(target)) / there[target]
    return {"source": source, "target": target, "weight": weight}


def _groups(graphs: Sequence[Graph], places: Sequence[np.ndarray]) -> dict[str, tuple[int, ...]]:
    found, taken = dict[str, set[int]](), set[int]()
    for graph, place in zip(graphs, places, strict=True):
        for name, of in graph.groups.items():
            mine = found.setdefault(name, set())
            free = set(place[list(of)].tolist()) - taken
            mine |= free
            taken |= free
    return {name: tuple(sorted(of)) for name, of in found.items() if of}


def _check_same(graphs: Sequence[Graph]) -> None:
    """Raise `ValueError` for graphs that are not of one model and its dictionaries."""
    of = [
        {"n_layers": each.n_layers, **{name: each.provenance.get(name) for name in _SAME}, "layers": each.layers}
        for each in graphs
    ]
    for n, each in enumerate(of):
        for name, value in each.items():
            if value != of[0][name]:
                raise ValueError(
                    f"graph {n} is of {name} {value!r}, and graph 0 of {of[0][name]!r}: only graphs of one model, with "
                    "the same dictionaries, can be merged."
                )
