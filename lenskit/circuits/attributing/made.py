"""Made: the graph of what an attribution has explained so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lenskit.circuits.attributing.targets import names_of
from lenskit.circuits.graph import EMBED, ERROR, FEATURE, LOGIT, Graph

if TYPE_CHECKING:
    from lenskit.circuits.attributing.attribution_work import Attribution


def graph_of(work: Attribution) -> Graph:
    """The features that were explained, embeddings, errors and logits, and the edges between them that are kept."""
    sources, rows = work.sources, work.rows
    count = len(work.targets.labels)
    fixed = np.arange(sources.fixed)
    if work.whole_first:  # no error of the first position: it is in the embedding
        fixed = fixed[(fixed < sources.length) | (fixed % sources.length > 0)]
    chosen = np.concatenate([fixed, np.flatnonzero(work.done)])
    columns = _columns(work, chosen)
    order = np.lexsort((columns["feature"], columns["pos"], columns["kind"], columns["layer"]))
    place = np.full(sources.total + count, -1)
    numbers = np.concatenate([chosen, sources.total + np.arange(count)])
    place[numbers[order]] = np.arange(len(order))

    wires = rows.wires(sources, np.array(work.targets.weights), work.levels)
    kept = (place[wires.source] >= 0) & (wires.weight != 0)
    source, target, weight = place[wires.source[kept]], place[wires.target[kept]], wires.weight[kept]
    told = np.bincount(target, weights=weight, minlength=len(order))
    nan = np.full(len(order), np.nan)
    values, biases, sizes, rest = nan, nan.copy(), nan.copy(), nan.copy()
    targets = place[rows.stacked("targets").numpy()]
    values[targets], biases[targets] = rows.stacked("values").numpy(), rows.stacked("biases").numpy()
    rest[targets] = rows.stacked("sums").numpy() - told[targets]
    sizes[targets] = np.bincount(target, weights=np.abs(weight), minlength=len(order))[targets] + np.abs(rest[targets])
    model = work.model
    ids = work.replacement.tokens[0].tolist()
    return Graph(
        tokens=tuple(ids),
        pieces=names_of(model, ids),
        kind=columns["kind"][order],
        layer=columns["layer"][order],
        pos=columns["pos"][order],
        feature=columns["feature"][order],
        activation=columns["activation"][order],
        weights=columns["weights"][order],
        value=values,
        bias=biases,
        size=sizes,
        rest=rest,
        source=source,
        target=target,
        weight=weight,
        labels=work.targets.labels,
        layers=work.put.layers,
        n_layers=model.n_layers,
        provenance=work.provenance,
    )


def _columns(work: Attribution, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """What each node is: those chosen of the sources, then the logits."""
    sources, count = work.sources, len(work.targets.labels)
    features = np.concatenate([each.features.cpu().numpy() for each in work.active] or [np.zeros(0, dtype=int)])
    pos = np.concatenate([each.pos.cpu().numpy() for each in work.active] or [np.zeros(0, dtype=int)])
    active = np.concatenate([each.activations.cpu().numpy() for each in work.active] or [np.zeros(0)])
    fixed, inside = chosen[chosen < sources.fixed], chosen[chosen >= sources.fixed] - sources.fixed
    ids = work.replacement.tokens[0].cpu().numpy()
    errors = len(fixed) - sources.length
    return {
        "kind": np.repeat([EMBED, ERROR, FEATURE, LOGIT], [sources.length, errors, len(inside), count]),
        "layer": np.concatenate([work.levels[chosen], np.full(count, work.model.n_layers)]),
        "pos": np.concatenate([fixed % sources.length, pos[inside], np.full(count, work.targets.pos)]),
        "feature": np.concatenate([ids, np.full(errors, -1), features[inside], np.arange(count)]),
        "activation": np.concatenate([np.full(len(fixed), np.nan), active[inside], np.full(count, np.nan)]),
        "weights": np.concatenate([np.zeros(len(chosen)), work.targets.weights]),
    }
