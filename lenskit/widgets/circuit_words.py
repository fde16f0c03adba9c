"""A few words about each feature of a graph: the tokens that it makes likelier as it is active there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lenskit.circuits.graph import FEATURE, Graph
from lenskit.models.show import Piece, show
from lenskit.models.sites import SiteUnavailable
from lenskit.widgets.feature_wire import promoted_by

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.transcoders.index.feature_index import FeatureIndex
    from lenskit.transcoders.transcoder import Transcoder

# Tokens in the few words about a feature.
_WORDS = 3
# Without an index they are computed from the weights, which for a large vocabulary takes a while: so many of the most
# influential features have them.
_COMPUTED = 128


def key_of(layer: int, feature: int, activation: float) -> str:
    """Of whom the words are: a neuron that is active below 0 promotes what it suppresses else, and has a minus."""
    return f"{'-' if activation < 0 else ''}{layer}.{feature}"


def words_of(
    graph: Graph,
    indices: Mapping[int, FeatureIndex],
    model: Model | None = None,
    transcoders: Iterable[Transcoder] = (),
) -> dict[str, str]:
    """A few words about features, by `key_of`: from the index of their layer, else, with a model, from the weights."""
    found = dict[str, str]()
    active_above = (graph.kind == FEATURE) & ~(graph.activation < 0)
    for layer, index in sorted(indices.items()):
        features = np.unique(graph.feature[active_above & (graph.layer == layer)])
        features = features[features < index.n_features]
        for feature, tokens in zip(features.tolist(), promoted_by(index, features, _WORDS), strict=True):
            words = _joined(index.piece(int(token)) for token in tokens)
            if words:
                found[f"{layer}.{feature}"] = words
    return found if model is None else found | _computed(graph, found, model, transcoders)


def _computed(
    graph: Graph, known: Mapping[str, str], model: Model, transcoders: Iterable[Transcoder]
) -> dict[str, str]:
    """The same from the weights, of the most influential features that have no words yet."""
    import torch

    from lenskit.transcoders.index.effects import effects_on_logits

    dictionaries = {each.reads.layer: each for each in transcoders}
    rows, keys = [], []
    for node, _ in graph.top(_COMPUTED):
        activation = float(graph.activation[graph.number(node)])
        key = key_of(node.layer, node.feature, activation)
        if key in known or key in keys:
            continue
        dictionary = dictionaries.get(node.layer)
        try:
            if dictionary is not None:
                row = dictionary.W_dec[:, node.feature].sum(0)
            elif graph.layers[node.layer] == "neurons":
                row = model.weights.W_out[node.layer][node.feature]
            else:
                continue
        except SiteUnavailable:  # a model whose neurons write nothing that can be read off has no words for them
            continue
        rows.append(row.detach().float().cpu() * (-1 if activation < 0 else 1))
        keys.append(key)
    if not rows:
        return {}
    try:
        promoted, _ = effects_on_logits(model, torch.stack(rows), lambda _: None)
    except SiteUnavailable:  # nor has one whose head is no matrix
        return {}
    tokens = promoted.ids[:, :_WORDS].tolist()
    return {key: _joined(model.text.pieces(ids)) for key, ids in zip(keys, tokens, strict=True)}


def _joined(pieces: Iterable[Piece]) -> str:
    return " · ".join(_word(piece) for piece in pieces)


def _word(piece: Piece) -> str:
    """A token among words: its space is left out, unless it is nothing else."""
    return show((piece.strip() or piece) if isinstance(piece, str) else piece)
