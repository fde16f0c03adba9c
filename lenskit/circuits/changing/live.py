"""LiveCircuit: what the model says when features of a graph are taken away, beside what the graph says it would."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lenskit.circuits.attributing.basis import Read
from lenskit.circuits.attributing.targets import read_of, reading_site
from lenskit.circuits.changing.effects import total_effect
from lenskit.circuits.changing.held_rows import CLEAN
from lenskit.circuits.changing.interventions import check_same
from lenskit.circuits.changing.placebo import DRAWN, HELD, Placebo
from lenskit.circuits.graph import FEATURE, LOGIT, Graph
from lenskit.circuits.nodes import Node, NodeLike
from lenskit.models.edits import Edit
from lenskit.models.run import Run
from lenskit.models.sites import Site
from lenskit.models.steps import finish, in_steps
from lenskit.models.text import Piece
from lenskit.models.weighing.norms import wide
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class Ablated:
    """The answer as the model gives it, and with features of the graph held, beside random features.

    Attributes:
        nodes: what was held, at `scale` times what it is on the prompt.
        labels: the graph's targets.
        value_before, value_after: (label,) their values in the real model, attention free.
        predicted: (label,) by how much each changes by the graph's own edges.
        placebo: (draw, label) by how much each changes with as many random features changed instead, by as much.
        ids: (k,) the likeliest tokens of both where the targets are read; `before`, `after`: their probabilities.
        kl: KL(before || after) over the whole vocabulary, in nats; `placebo_kl`: (draw,) the same of each draw.
        pieces: the text of each token, by id.
    """

    nodes: tuple[Node, ...]
    scale: float
    labels: tuple[str, ...]
    value_before: np.ndarray
    value_after: np.ndarray
    predicted: np.ndarray
    placebo: np.ndarray
    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray
    kl: float
    placebo_kl: np.ndarray
    pieces: Mapping[int, Piece] = field(repr=False)

    @property
    def measured(self) -> np.ndarray:
        """(label,) by how much each target changes in the real model."""
        return self.value_after - self.value_before

    def __repr__(self) -> str:
        first = f"{self.labels[0]!r} {self.measured[0]:+.3f}, predicted {self.predicted[0]:+.3f}"
        beside = f"; {len(self.placebo)} random: {self.placebo[:, 0].mean():+.3f}" if len(self.placebo) else ""
        names = ", ".join(map(str, self.nodes[:3])) + (", ..." if len(self.nodes) > 3 else "")
        return f"Ablated({names} x {self.scale:g}: {first}{beside})"


@dataclass(frozen=True)
class _Prompt:
    """The prompt as it is: what enters each layer that has features."""

    entering: Mapping[int, Tensor]
    edits: tuple[Edit, ...]


class LiveCircuit:
    """The live source of a graph's view: it takes features of the graph away in the real model.

    A feature is held at a multiple of what it is on the prompt, at its position, whatever else is changed; attention
    and norms are free, so that what is measured is the whole effect. Beside it stand as many other features of the
    same layers, drawn at random and changed by vectors as long at the same positions: one forward of all, beginning at
    the first layer that is changed. Its generator yields between layers and may be closed at any yield.

    Args:
        model: the model whose graph it is.
        graph: of one prompt.
        transcoders: the dictionaries that the graph was made with; none for neurons.
        top_k: so many of the likeliest next tokens.
        draws: so many draws of random features.

    Raises `ValueError` where the graph cannot be this model's.

    >>> live = lk.circuits.LiveCircuit(model, graph, transcoders)  # doctest: +SKIP
    >>> live.ablate("20.155@7")                                    # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        graph: Graph,
        transcoders: Transcoder | Iterable[Transcoder] = (),
        *,
        top_k: int = 10,
        draws: int = 12,
    ) -> None:
        if graph.n_layers != model.n_layers:
            raise ValueError(f"the graph has {graph.n_layers} layers and {model.name} has {model.n_layers}.")
        logits = graph.of_kind(LOGIT)
        if not len(logits) or len(set(graph.pos[logits].tolist())) > 1:
            raise ValueError("the effect of a node is measured on targets at one position, and this graph has none.")
        given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
        self.model, self.graph, self.top_k, self.draws = model, graph, top_k, draws
        self.pos = int(graph.pos[logits[0]])
        self._dictionaries = {each.reads.layer: each for each in given}
        self._tokens = _targets(model, graph)
        self._prompt: _Prompt | None = None
        self._read: Read | None = None

    def ablate(self, nodes: NodeLike | Iterable[NodeLike], scale: float = 0.0, *, placebo: bool = True) -> Ablated:
        """What happens to the answer when features are held at `scale` times what they are: 0 takes them away.

        placebo: whether random features are changed beside them.

        Raises `KeyError` for a node that the graph does not have, and `ValueError` for one that is no feature, for a
        dictionary that is not here, and where the model does not say on the prompt what the graph has.
        """
        return finish(self.steps(nodes, scale, placebo=placebo))

    def steps(
        self, nodes: NodeLike | Iterable[NodeLike], scale: float = 0.0, *, placebo: bool = True
    ) -> Generator[float, None, Ablated]:
        """The same in steps: yields the share done before every block of the model."""
        held = self._features(nodes)
        noise = torch.Generator().manual_seed(0)
        draws = self.draws if placebo else 0
        beside = Placebo(held, self.graph.layers, self._dictionaries, scale=scale, draws=draws, noise=noise)
        prompt = yield from self._as_it_is()
        first = min(node.layer for node in held)
        run, logits = yield from self._forward(prompt, beside.edits, DRAWN + draws, first)
        values = self._values(run)
        check_same(self.model, self.graph, values[CLEAN], beside.seen)
        return self._ablated(held, scale, values, logits.log_softmax(-1))

    def _features(self, nodes: NodeLike | Iterable[NodeLike]) -> tuple[Node, ...]:
        graph = self.graph
        given = [nodes] if isinstance(nodes, str | Node) else list(nodes)
        numbers = sorted({graph.number(node) for node in given})
        if not numbers:
            raise ValueError("no node to ablate: name a feature of the graph at least.")
        for number in numbers:
            if graph.kind[number] != FEATURE:
                raise ValueError(f"{graph.nodes[number]} is no feature, and only features are ablated.")
        return tuple(graph.nodes[number] for number in numbers)

    # Runs

    def _as_it_is(self) -> Generator[float, None, _Prompt]:
        model, graph = self.model, self.graph
        if self._prompt is None or self._prompt.edits != model.edits:
            layers = np.unique(graph.layer[graph.kind == FEATURE]).tolist()
            keep = [Site("resid_pre", layer) for layer in layers]
            run = yield from self._in_steps(keep, torch.tensor([graph.tokens]), [], {})
            self._prompt = _Prompt({layer: run["resid_pre", layer] for layer in layers}, model.edits)
        return self._prompt

    def _forward(
        self, prompt: _Prompt, edits: Sequence[Edit], rows: int, layer: int
    ) -> Generator[float, None, tuple[Run, Tensor]]:
        """A run of so many copies of the prompt from a layer on, and (row, vocab) its logits at the targets."""
        model = self.model
        last = Site("resid_post", model.n_layers - 1)
        start: dict[str, Any] = {}
        if not prompt.edits:
            entering = prompt.entering[layer]
            start = {"start_at": layer, "resid": entering.expand(rows, *entering.shape[1:])}
        tokens = torch.tensor([self.graph.tokens] * rows)
        run = yield from self._in_steps([last, reading_site(model)], tokens, edits, start)
        with torch.no_grad():
            return run, model.unembed(run[last][:, self.pos]).float()

    def _in_steps(
        self, keep: Sequence[Site], tokens: Tensor, edits: Sequence[Edit], start: Mapping[str, Any]
    ) -> Generator[float, None, Run]:
        model = self.model
        blocks = model.anatomy.blocks
        stop = keep[-1]
        forward = in_steps(lambda: model.run(tokens, keep=keep, edits=edits, stop_at=stop, **start), blocks)
        done = 0
        while True:
            try:
                next(forward)
            except StopIteration as end:
                return end.value
            done += 1
            yield min(1.0, done / len(blocks))

    # What is measured

    def _values(self, run: Run) -> Tensor:
        """(row, label): the targets' values, as the graph has them: before a soft-cap."""
        if self._read is None:
            self._read = read_of(self.model, self._tokens)
        vectors, constants = self._read
        return wide(run[reading_site(self.model)][:, self.pos]) @ vectors.T + constants

    def _ablated(self, held: tuple[Node, ...], scale: float, values: Tensor, log_probs: Tensor) -> Ablated:
        graph = self.graph
        before, after = log_probs[CLEAN], log_probs[HELD]
        k = min(self.top_k, len(before))
        either = torch.maximum(before, after)
        ids = either.topk(k).indices
        changes = (values - values[CLEAN]).cpu().numpy()
        return Ablated(
            nodes=held,
            scale=scale,
            labels=graph.labels,
            value_before=values[CLEAN].cpu().numpy(),
            value_after=values[HELD].cpu().numpy(),
            predicted=total_effect(graph, held, scale),
            placebo=changes[DRAWN:],
            ids=ids.cpu().numpy(),
            before=before[ids].exp().cpu().numpy(),
            after=after[ids].exp().cpu().numpy(),
            kl=_kl(before, after),
            placebo_kl=np.array([_kl(before, row) for row in log_probs[DRAWN:]]),
            pieces=dict(zip(ids.tolist(), self._pieces(ids.tolist()), strict=True)),
        )

    def _pieces(self, ids: Sequence[int]) -> Sequence[Piece]:
        return [str(i) for i in ids] if self.model.tokenizer is None else self.model.text.pieces(list(ids))


def _targets(model: Model, graph: Graph) -> list[tuple[int, ...]]:
    """Of each label the token, or of a difference the two, that it stands for."""
    question: Any = graph.provenance.get("circuit", {})
    if "ids" in question:
        return [tuple(ids) for ids in question["ids"]]
    found = list[tuple[int, ...]]()
    for label in graph.labels:
        first, between, second = label.rpartition(" - ")
        parts = [first, second] if between and first and second else [label]
        found.append(tuple(model.text.tokens(parts)))
    return found


def _kl(before: Tensor, after: Tensor) -> float:
    """KL(before || after) of two log-probabilities, in nats, never below 0."""
    return max(0.0, float((before.double().exp() * (before.double() - after.double())).sum()))
