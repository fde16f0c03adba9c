"""Edge ablations: edges taken out of a prompt carry what their senders give on another prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.patching.align import alignment
from lenskit.patching.edge_runs import patched_edges
from lenskit.patching.edge_scores import Exchange
from lenskit.patching.engine import Ends, Engine
from lenskit.patching.metrics import Metric
from lenskit.patching.nodes import Node
from lenskit.patching.wiring import Input

if TYPE_CHECKING:
    from lenskit.models.model import Model

EdgePair = tuple[Node, Input]


def name_of(edge: EdgePair) -> str:
    """An edge in words.

    >>> name_of((Node("head", 3, 5), Input("q", 5, 2)))
    '3.5 -> 5.2.q'
    """
    return f"{edge[0]} -> {edge[1]}"


def kind_of_edge(edge: EdgePair) -> tuple[str, str]:
    """What kinds of parts an edge connects."""
    return edge[0].kind, edge[1].kind


def edges_of(model: Model, tokens: Tensor, other: Tensor) -> list[EdgePair]:
    """Every edge of the model, receiver by receiver. Raises as `edges` does."""
    wiring = Exchange(model, tokens, other).wiring
    return [(sender, node) for node in wiring.receivers for sender in wiring.senders[: wiring.before(node)]]


@dataclass(frozen=True, eq=False)
class EdgesTakenOut:
    """One pair of prompts, (1, pos) each, and what is measured on the first."""

    model: Model
    tokens: Tensor
    other: Tensor
    metric: Metric

    @cached_property
    def _end(self) -> Ends:
        return Engine(self.model, self.tokens).base(self.metric.read(self.tokens.shape[1]))

    @cached_property
    def _bound(self) -> Metric:
        return self.metric.bound(self.model, self.tokens, self._end)

    @cached_property
    def _every(self) -> list[EdgePair]:
        return edges_of(self.model, self.tokens, self.other)

    @cached_property
    def full(self) -> Tensor:
        """The metric of the prompt as it is, a single number."""
        return self._bound.of(self.model, self._end)[0].float().cpu()

    def without(self, sets: Sequence[Iterable[EdgePair]]) -> Tensor:
        """(set,): the metric with each set of edges taken out."""
        found = list[float]()
        for out in map(set, sets):
            kept = [edge for edge in self._every if edge not in out]
            found.append(patched_edges(self.model, self.tokens, self.other, kept, self._bound))
        return torch.tensor(found)


def edges_taken_out(
    model: Model, rows: Sequence[Tensor], others: Sequence[Tensor], metrics: Sequence[Metric]
) -> Iterator[EdgesTakenOut]:
    """The pairs, checked to line up."""
    for row, other, metric in zip(rows, others, metrics, strict=True):
        alignment(row[0].tolist(), other[0].tolist(), None, model.text)
        yield EdgesTakenOut(model, row, other, metric)
