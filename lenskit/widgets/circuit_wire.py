"""The Python half of the circuit graph's wire: the graph, cards and ablations as messages.

`widgets/WIRE.md` describes both halves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.circuits.graph import EMBED, LOGIT, Graph
from lenskit.circuits.influence import shares
from lenskit.circuits.nodes import Node
from lenskit.widgets.feature_wire import Message, card_message, reply
from lenskit.widgets.wire import entries, little, text_of

if TYPE_CHECKING:
    from lenskit.circuits.changing.live import Ablated
    from lenskit.transcoders.index.feature_index import FeatureIndex

MOST_NODES, MOST_EDGES = 1500, 10_000
# Of the edges that fit, this part is for all between the most influential nodes: those are the ones that are looked at.
_WHOLE = 0.7
_DTYPES = {
    "kind": "uint8",
    "layer": "int32",
    "pos": "uint16",
    "feature": "int32",
    "value": "float32",
    "activation": "float32",
    "influence": "float32",
    "size": "float32",
    "bias": "float32",
    "rest": "float32",
    "weights": "float32",
    "source": "uint16",
    "target": "uint16",
    "weight": "float32",
}


def fitting(graph: Graph, nodes: int = MOST_NODES, edges: int = MOST_EDGES) -> Graph:
    """The graph itself, or where it is larger than a view can draw, its most influential part.

    Its `influence` is that of the whole graph, so that it is pruned as the whole would be, as far as it goes. Raises
    `ValueError` where the embeddings and logits alone, which stay in every graph, are too many.
    """
    stay = (graph.kind == EMBED) | (graph.kind == LOGIT)
    if stay.sum() > nodes:
        raise ValueError(f"a view draws {nodes:,} nodes, and this graph's embeddings and targets are {stay.sum():,}.")
    if len(graph) <= nodes and len(graph.weight) <= edges:
        return graph
    rank = np.empty(len(graph), dtype=np.int64)
    rank[np.lexsort((-graph.influence, ~stay))] = np.arange(len(graph))
    kept = rank < nodes
    part = graph.keeping(kept, _strongest(graph, rank, kept, edges))
    part.__dict__["influence"] = graph.influence[kept]  # in the place of the one that its own edges would give
    return part


def _strongest(graph: Graph, rank: np.ndarray, kept: np.ndarray, most: int) -> np.ndarray:
    """(edge,) which to keep: first all between the nodes of the first ranks, then those along which most goes."""
    between = kept[graph.source] & kept[graph.target]
    if between.sum() <= most:
        return between
    farther = np.maximum(rank[graph.source], rank[graph.target])
    within = np.cumsum(np.bincount(farther[between], minlength=len(graph)))
    first = between & (farther < np.searchsorted(within, _WHOLE * most, side="right"))
    score = shares(graph.wires) * graph.influence[graph.target] * between + np.where(first, np.inf, 0)
    found = np.zeros(len(score), dtype=bool)
    found[np.argsort(-score, kind="stable")[:most]] = True
    return found & between


def graph_message(
    graph: Graph, indices: Mapping[int, FeatureIndex], names: Mapping[str, str], live: bool, identity: str
) -> Message:
    """The whole graph. names: a few words about features, as `words_of` finds them."""
    arrays = {name: _little(getattr(graph, name), dtype) for name, dtype in _DTYPES.items()}
    header = reply(
        "graph",
        identity,
        n_nodes=len(graph),
        n_edges=len(graph.weight),
        tokens=list(graph.pieces),
        labels=list(graph.labels),
        n_layers=graph.n_layers,
        layers=list(graph.layers),
        live=live,
        cards=sorted(indices),
        names=dict(names),
        arrays=entries(arrays),
    )
    return header, [array.tobytes() for array in arrays.values()]


def node_card(indices: Mapping[int, FeatureIndex], node: Node, identity: str) -> Message:
    """The card of a feature, or why there is none."""
    index = indices.get(node.layer)
    if node.kind != "feature":
        what = {"embed": "an embedding", "error": "what a dictionary misses", "logit": "a target"}[node.kind]
        return reply("card", identity, node=str(node), missing=f"{what} has no card: features have."), []
    if index is None:
        why = f"there is no index of layer {node.layer}'s features: give one with index=."
        return reply("card", identity, node=str(node), missing=why), []
    if node.feature >= index.n_features:
        why = f"the index of layer {node.layer} has {index.n_features:,} features, and none with this number."
        return reply("card", identity, node=str(node), missing=why), []
    header, buffers = card_message(index, node.feature, identity)
    return {**header, "node": str(node), "unit": index.unit}, buffers


def ablated_message(ablated: Ablated, identity: str, ms: float) -> Message:
    """What an ablation does to the answer, beside what the graph says and random features."""
    pieces = [text_of(ablated.pieces[int(i)]) for i in ablated.ids]
    values = zip(ablated.labels, ablated.value_before.tolist(), ablated.value_after.tolist(), strict=True)
    fields = {
        "nodes": [str(node) for node in ablated.nodes],
        "scale": ablated.scale,
        "before": _odds(pieces, ablated.before),
        "after": _odds(pieces, ablated.after),
        "effects": [{"label": label, "before": before, "after": after} for label, before, after in values],
        "predicted": ablated.predicted.tolist(),
        "kl": _number(ablated.kl),
        "ms": ms,
        "placebo": _placebo(ablated),
    }
    return reply("ablated", identity, **fields), []


def frozen_message(graph: Message, cards: Sequence[Message], ablated: Message | None) -> Message:
    """The one reply of a frozen page: the graph, some cards, and the ablation that is shown."""
    parts = [graph, *cards]
    known = set[int]()
    for header, _ in cards:  # each token's text once in the page
        header["pieces"] = [piece for piece in header["pieces"] if piece[0] not in known]
        known.update(piece[0] for piece in header["pieces"])
    header = reply(
        "frozen",
        "frozen",
        graph=graph[0],
        cards=[header for header, _ in cards],
        ablated=None if ablated is None else ablated[0],
    )
    return header, [buffer for _, buffers in parts for buffer in buffers]


def _placebo(ablated: Ablated) -> dict[str, Any] | None:
    changes, kls = ablated.placebo, ablated.placebo_kl
    n = len(changes)
    if not n:
        return None
    return {
        "mean": changes.mean(0).tolist(),
        "spread": changes.std(0, ddof=1).tolist() if n > 1 else None,
        "n": n,
        "kl": _number(float(kls.mean())),
        "kl_spread": _number(float(kls.std(ddof=1))) if n > 1 else None,
    }


def _odds(pieces: Sequence[Any], probabilities: np.ndarray) -> list[list[Any]]:
    return [[piece, value] for piece, value in zip(pieces, probabilities.tolist(), strict=True)]


def _little(array: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(array, np.uint8) if dtype == "uint8" else little(array, dtype)


def _number(value: float) -> float | None:
    """As JSON can have it: not infinite."""
    return value if np.isfinite(value) else None
