"""Edges: how much each connection between two parts of a model matters, by gradients or exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.patching.edge_scores import Exchange, Progress, ends_of, estimated, exactly
from lenskit.patching.line import Line, midpoints
from lenskit.patching.metrics import Metric, as_metric
from lenskit.patching.pairs import tokens_of
from lenskit.patching.swept import Direction

if TYPE_CHECKING:
    import pandas as pd

    from lenskit.models.model import Model

EdgeMethod = Literal["eap", "eap_ig", "exact"]


class Edge(NamedTuple):
    """A connection: who writes, who reads it, and how much it changes the metric."""

    sender: str
    receiver: str
    score: float


@dataclass(frozen=True, eq=False)
class Edges:
    """The effect on a metric of each edge: the sender's output of one prompt, put into what one receiver alone reads.

    Attributes:
        senders: "embed", "3.5" for a head, "3.mlp", "3.attn" for an attention as a whole.
        receivers: "5.2.q" for a head's queries, "5.1.k" and "5.1.v" for those of a key-value head, "5.mlp", "5.attn"
            for an attention as a whole, and "logits".
        scores: (sender, receiver), the change of the metric; NaN where a receiver does not come after a sender.
        base: the metric of the prompt that runs; `target` that of the prompt whose outputs are put in.
        metric, method, steps, direction: what was asked for.
        why: where heads could not be told apart, and why; else None.
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    scores: np.ndarray
    base: float
    target: float
    metric: str
    method: EdgeMethod
    steps: int | None
    direction: str
    why: str | None
    provenance: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, edge: tuple[str, str]) -> float:
        sender, receiver = edge
        if sender not in self.senders:
            raise KeyError(f"there is no sender {sender!r}. Senders are: {_some(self.senders)}.")
        if receiver not in self.receivers:
            raise KeyError(f"there is no receiver {receiver!r}. Receivers are: {_some(self.receivers)}.")
        score = float(self.scores[self.senders.index(sender), self.receivers.index(receiver)])
        if np.isnan(score):
            raise KeyError(f"there is no edge from {sender} to {receiver}: it does not come later.")
        return score

    def __len__(self) -> int:
        return int((~np.isnan(self.scores)).sum())

    def __iter__(self) -> Iterator[Edge]:
        return (Edge(self.senders[s], self.receivers[r], float(self.scores[s, r])) for s, r in self._places())

    def _places(self) -> list[tuple[int, int]]:
        return [(int(s), int(r)) for s, r in np.argwhere(~np.isnan(self.scores))]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The parts of the model that are an end of an edge: senders, then receivers."""
        return (*self.senders, *self.receivers)

    def top(self, k: int = 10) -> list[Edge]:
        """The k edges with the largest effect in either direction, the largest first."""
        places = self._places()
        sizes = np.array([abs(self.scores[place]) for place in places])
        order = np.argsort(-sizes, kind="stable")[:k]
        return [
            Edge(self.senders[s], self.receivers[r], float(self.scores[s, r]))
            for s, r in map(places.__getitem__, order)
        ]

    def correlation(self, other: Edges) -> float:
        """Pearson's correlation of the scores of the same edges: an estimate's with the exact ones.

        Raises `ValueError` where they are not of the same edges. `nan` where one side's scores are all equal.
        """
        return pearson(*self._both(other))

    def rank_correlation(self, other: Edges) -> float:
        """Spearman's correlation of the sizes: how alike two scores rank the same edges, as `top` ranks them."""
        mine, theirs = self._both(other)
        return pearson(_ranks(np.abs(mine)), _ranks(np.abs(theirs)))

    def _both(self, other: Edges) -> tuple[np.ndarray, np.ndarray]:
        if (self.senders, self.receivers) != (other.senders, other.receivers):
            raise ValueError(f"{self!r} and {other!r} are not of the same edges: they cannot be correlated.")
        there = ~np.isnan(self.scores)
        return self.scores[there], other.scores[there]

    def to_pandas(self) -> pd.DataFrame:
        """One line for each edge: `sender`, `receiver`, `score`, the largest effects first."""
        import pandas as pd

        return pd.DataFrame(self.top(len(self)), columns=["sender", "receiver", "score"])

    def __repr__(self) -> str:
        best = ", ".join(f"{edge.sender} -> {edge.receiver} {edge.score:+.3g}" for edge in self.top(3))
        how = self.method if self.steps is None else f"{self.method}, {self.steps} steps"
        return f"Edges({self.metric} by {how}, {self.direction}: {len(self)} edges, {best}, ...)"


def edges(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    metric: Metric | Callable[[Run], Any],
    *,
    method: EdgeMethod = "eap",
    steps: int = 5,
    direction: Direction = "denoise",
    progress: Progress | None = None,
) -> Edges:
    """Score every edge between two parts of the model: how the metric changes if its receiver alone sees the other run.

    Senders are the embedding, every head and every MLP; receivers the queries, keys and values of every head, the input
    of every MLP and the logits, each with an input of its own. Where a norm stands behind attention (Gemma 2, OLMo 2)
    what it adds is not the sum of its heads, so that it is one sender as a whole; `why` says so. The sender's
    difference is put in at all positions.

    Args:
        clean, corrupt: prompts as many tokens long as each other.
        metric: as in `sweep`.
        method: "eap", what a sender writes more times the gradient at the receiver's input: one forward and backward,
            and one back through each block for all of its heads; "eap_ig", the gradient's mean along the straight line
            between the prompts' token embeddings; or "exact", the model run for every edge, by the engine.
        steps: how many points of the line "eap_ig" takes, by the midpoint rule.
        direction: "denoise" runs the corrupt prompt and puts clean outputs in; "noise" the other way round.
        progress: called with how many edges are done, and how many there are; of "exact", which takes its time: a
            model of L layers and H heads has about 1.5 (L H)^2 edges.

    Memory: (sender, pos, d_model) about three times, and one block's copies for each of its receivers.

    Raises:
        SiteUnavailable: attention and MLP cannot be told apart here, a block cannot run by itself, or something else
            writes into the residual stream.
        PromptsDiffer: the prompts have different lengths.
        MemoryError: it would not fit, with the figure.
        ValueError: the model holds edits of its own (`model.edit`).

    Sources: Syed et al., "Attribution Patching Outperforms Automated Circuit Discovery" (2023); Hanna et al., "Have
    Faith in Faithfulness" (2024).

    >>> found = edges(model, clean, corrupt, lk.logit_diff(" Mary", " John"), method="eap_ig")  # doctest: +SKIP
    >>> found.top(3), found.correlation(edges(..., method="exact"))                            # doctest: +SKIP
    """
    if method not in ("eap", "eap_ig", "exact"):
        raise ValueError(f"method={method!r}: edges are scored by 'eap', 'eap_ig' or 'exact'.")
    base, source = tokens_of(model, clean, corrupt, direction)
    exchange = Exchange(model, base, source)
    read = as_metric(metric).read(base.shape[1])
    reference = exchange.source if direction == "denoise" else exchange.base
    bound = as_metric(metric).bound(model, base, ends_of(reference, read))
    if method == "exact":
        scores = exactly(exchange, bound, progress)
    else:
        line = Line(model, base, source) if method == "eap_ig" else None
        scores = estimated(exchange, bound, [None] if line is None else [line.at(share) for share in midpoints(steps)])
    scores.flags.writeable = False
    asked = {"method": method, "direction": direction, **({"steps": steps} if method == "eap_ig" else {})}
    return Edges(
        senders=tuple(map(str, exchange.wiring.senders)),
        receivers=tuple(map(str, exchange.wiring.receivers)),
        scores=scores,
        base=float(bound.of(model, ends_of(exchange.base, read))[0]),
        target=float(bound.of(model, ends_of(exchange.source, read))[0]),
        metric=repr(metric),
        method=method,
        steps=steps if method == "eap_ig" else None,
        direction=direction,
        why=exchange.wiring.why,
        provenance=model.origin(model.edits, **asked).as_dict(),
    )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", ... {names[-1]}" if len(names) > 6 else "")


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two rows of numbers; nan where one side's are all equal."""
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
