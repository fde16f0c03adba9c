"""Interventions: features of a prompt held at other activations in the real model, each set in a row of its own.

The first row is the prompt as it is. In every other row some features are held at a multiple of what they are there,
whatever else has changed before them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lenskit.circuits.attributing.targets import read_of, reading_site
from lenskit.circuits.changing.held_rows import CLEAN, Held, holding
from lenskit.circuits.graph import FEATURE, LOGIT, Graph
from lenskit.circuits.nodes import Node, NodeLike
from lenskit.models.edits import Call, Edit
from lenskit.models.weighing.norms import wide
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    from lenskit.models.model import Model

Attention = Literal["free", "held"]
Change = Mapping[NodeLike, float]
"""Nodes, each with what its activation is multiplied by: 0 takes it away."""

_ROWS = 32  # copies of the prompt in one forward


def measured(
    model: Model,
    graph: Graph,
    transcoders: Sequence[Transcoder],
    changes: Sequence[Change],
    attention: Attention = "free",
) -> Tensor:
    """(change, label): by how much each target of a graph changes in the real model, for each change by itself.

    attention: "held" keeps every attention pattern as it is on the prompt, as the graph does; norms are always free.

    Raises `KeyError` for a node that the graph does not have; `ValueError` for one that is no feature, and for
    dictionaries that are not those of the graph.
    """
    dictionaries = {each.reads.layer: each for each in transcoders}
    asked, pos = _question(graph)
    found = list[Tensor]()
    for begin in range(0, len(changes), _ROWS):
        part = changes[begin : begin + _ROWS]
        held = _by_layer(graph, part)
        edits = list[Edit]()
        for layer, here in sorted(held.items()):
            edits += holding(graph.layers, dictionaries, layer, here)
        if attention == "held":
            edits.append(Call("pattern", _as_in_the_first))
        tokens = torch.tensor([graph.tokens] * (1 + len(part)))
        site = reading_site(model)
        run = model.run(tokens, keep=site, edits=edits, stop_at=site)
        vectors, constants = read_of(model, asked)
        values = wide(run[site][:, pos]) @ vectors.T + constants
        check_same(model, graph, values[CLEAN])
        found.append(values[1:] - values[CLEAN])
    return torch.cat(found) if found else torch.zeros(0, len(graph.labels))


def _question(graph: Graph) -> tuple[list[tuple[int, ...]], int]:
    """The tokens of each target, and the position. Raises `ValueError` for a graph without places."""
    asked = graph.provenance.get("circuit")
    if asked is None or graph.provenance.get("over_tokens"):
        what = "is of other tools" if asked is None else "is summed over its tokens"
        raise ValueError(f"this graph {what}, and features are held at their positions: give one that attribute made.")
    return [tuple(ids) for ids in asked["ids"]], asked["pos"]


def _by_layer(graph: Graph, changes: Sequence[Change]) -> dict[int, list[Held]]:
    held = defaultdict[int, list[Held]](list)
    for row, change in enumerate(changes, 1):
        for name, factor in change.items():
            number = graph.number(name)
            node = graph.nodes[number]
            if graph.kind[number] != FEATURE:
                raise ValueError(f"{node} is no feature, and only features can be held in the model.")
            held[node.layer].append(Held(row, node.pos, node.feature, factor))
    return held


def _as_in_the_first(pattern: Tensor) -> Tensor:
    return pattern[:1].expand_as(pattern).clone()


def check_same(model: Model, graph: Graph, values: Tensor, seen: Mapping[Node, float] | None = None) -> None:
    """Raise `ValueError` where the model does not say on the prompt what the graph has.

    values: (label,) of the targets. seen: how active some features are.
    """
    near = 0.02 if model.dtype.itemsize >= 4 else 0.2
    pairs = [(str(node), float(graph.activation[graph.number(node)]), now) for node, now in (seen or {}).items()]
    found = values.tolist()
    pairs += [(graph.name(int(n)), float(graph.value[n]), found[graph.feature[n]]) for n in graph.of_kind(LOGIT)]
    for name, there, here in pairs:
        if abs(here - there) > near * max(1.0, abs(there), abs(here)):
            raise ValueError(
                f"{name!r} is {there:.4g} in the graph and {here:.4g} in {model.name} on its prompt: give the model, "
                "its edits and the dictionaries that the graph was made with."
            )
