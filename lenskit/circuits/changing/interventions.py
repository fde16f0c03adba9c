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
from lenskit.circuits.graph import FEATURE, Graph
from lenskit.circuits.nodes import NodeLike
from lenskit.models.edits import Call, Edit
from lenskit.models.sites import Site
from lenskit.models.weighing.norms import wide
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    from lenskit.models.model import Model

Attention = Literal["free", "held"]
Change = Mapping[NodeLike, float]
"""Nodes, each with what its activation is multiplied by: 0 takes it away."""

_ROWS = 32  # copies of the prompt in one forward

Held = tuple[int, int, int, float]
"""One feature of a layer in one row: row, position, feature, and its factor."""


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
        edits = [edit for layer, here in sorted(held.items()) for edit in _edits(graph, dictionaries, layer, here)]
        if attention == "held":
            edits.append(Call("pattern", _as_in_the_first))
        tokens = torch.tensor([graph.tokens] * (1 + len(part)))
        site = reading_site(model)
        run = model.run(tokens, keep=site, edits=edits, stop_at=site)
        vectors, constants = read_of(model, asked)
        values = wide(run[site][:, pos]) @ vectors.T + constants
        _check_same(model, graph, values[0])
        found.append(values[1:] - values[0])
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
            held[node.layer].append((row, node.pos, node.feature, factor))
    return held


def _edits(graph: Graph, dictionaries: Mapping[int | None, Transcoder], layer: int, held: Sequence[Held]) -> list[Edit]:
    """The edits that hold features of one layer."""
    rows, pos, features = (torch.tensor(column) for column in list(zip(*held, strict=True))[:3])
    factors = torch.tensor([each[3] for each in held], dtype=torch.float64)
    if graph.layers[layer] == "neurons":

        def put(post: Tensor) -> Tensor:
            own = wide(post[0, pos, features])  # in half precision .99 would be .988
            post[rows, pos, features] = (own * factors.to(own)).to(post)
            return post

        return [Call("mlp_post", put, layers=layer)]
    if layer not in dictionaries:
        raise ValueError(
            f"the features of layer {layer} are those of a dictionary, which is not here: give the transcoders that "
            "the graph was made with."
        )
    return _held_in(dictionaries[layer], rows, pos, features, factors)


def _held_in(each: Transcoder, rows: Tensor, pos: Tensor, features: Tensor, factors: Tensor) -> list[Edit]:
    lacking = list[Tensor]()

    def look(x: Tensor) -> Tensor:
        own = _amounts(each, x[0, pos], features)
        lacking[:] = [factors.to(own) * own - _amounts(each, x[rows, pos], features)]
        return x

    def put(site: Site, write: int) -> Call:
        def fn(out: Tensor) -> Tensor:
            given = lacking[0][:, None] * each.W_dec[write][features]
            return out.index_put_((rows, pos), given.to(out), accumulate=True)

        return Call(site.name, fn, layers=site.layer)

    return [
        Call(each.reads.name, look, layers=each.reads.layer),
        *(put(site, write) for write, site in enumerate(each.writes)),
    ]


def _amounts(each: Transcoder, x: Tensor, features: Tensor) -> Tensor:
    """(held,): how active a feature is in each x (held, d_in), on the scale of what is written."""
    active = each.encode(x).dense().gather(1, features[:, None])[:, 0]
    scale = each.normalised(each.checked(x)).scale if each.restores else None
    return active if scale is None else active * scale[:, 0]


def _as_in_the_first(pattern: Tensor) -> Tensor:
    return pattern[:1].expand_as(pattern).clone()


def _check_same(model: Model, graph: Graph, values: Tensor) -> None:
    """Raise `ValueError` where the model does not say on the prompt what the graph has."""
    near = 0.02 if model.dtype.itemsize >= 4 else 0.2
    for number in graph.of_kind(3):
        there, here = float(graph.value[number]), float(values[graph.feature[number]])
        if abs(here - there) > near * max(1.0, abs(there)):
            raise ValueError(
                f"{graph.name(int(number))!r} is {there:.4g} in the graph and {here:.4g} in {model.name} on its "
                "prompt: give the model and the edits that the graph was made with."
            )
