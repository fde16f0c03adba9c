"""The scores of edges: estimated from gradients (EAP, EAP-IG), or exactly, one cell for each edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lenskit.models.edits import Edit, Set
from lenskit.models.finding.probe import same
from lenskit.models.prefix import common_length
from lenskit.models.sites import Site
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engine import Ends, Engine
from lenskit.patching.memory import check_memory
from lenskit.patching.receivers import SITE, Receivers
from lenskit.patching.wiring import Input, Wiring, check_additive, sites_to_keep, written_more

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.models.run import Run
    from lenskit.patching.metrics import Metric

Progress = Callable[[int, int], object]
WRITTEN = ("resid_pre", "z", "attn_out", "mlp_out")
READ = ("q", "k", "v", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Exchange:
    """Two prompts of equal length, (1, pos): the one that runs and the one whose outputs are put in."""

    model: Model
    base_tokens: Tensor
    source_tokens: Tensor

    @cached_property
    def base(self) -> Run:
        """What is written and read in the prompt that runs."""
        return self._run(self.base_tokens, *WRITTEN, "q", "k", "v", "resid_mid")

    @cached_property
    def source(self) -> Run:
        """What is written in the other one."""
        return self._run(self.source_tokens, *WRITTEN)

    def _run(self, tokens: Tensor, *names: str) -> Run:
        return self.model.run(tokens, keep=[*sites_to_keep(self.model, *names), self.last])

    @property
    def last(self) -> Site:
        """Where the last residual is, which the logits are made of."""
        return Site("resid_post", self.model.n_layers - 1)

    @cached_property
    def wiring(self) -> Wiring:
        """The senders and receivers of the model."""
        return Wiring.of(self.model, self.base, self._reading_more)

    @cached_property
    def _reading_more(self) -> set[int]:
        """The layers whose attention reads its input by more than q, k and v: through a gate, say.

        There the source's q, k and v in the base's block do not make the source's output.
        """
        model, here = self.model, self.model.anatomy.layers_of
        layers = [n for n in here("attn_out") if all(n in here(name) for name in ("q", "k", "v"))]
        if not layers:
            return set()
        inside = [Site(name, layer) for layer in layers for name in ("q", "k", "v")]
        source = model.run(self.source_tokens, keep=inside)
        edits = [Set(site.name, source[site], layers=site.layer) for site in inside]
        edits += [Set(site.name, self.base[site], layers=site.layer) for site in sites_to_keep(model, "resid_pre")]
        mixed = model.run(self.base_tokens, edits=edits, keep=[Site("attn_out", layer) for layer in layers])
        return {layer for layer in layers if not same(mixed["attn_out", layer], self.source["attn_out", layer])}

    @cached_property
    def receivers(self) -> Receivers:
        """The receivers, in the prompt that runs."""
        return Receivers(self.model, self.wiring, self.base_tokens, self.base)

    @cached_property
    def more(self) -> Tensor:
        """(sender, pos, d_model): what each sender writes in the source more than in the base."""
        width, positions = self.base["resid_pre", 0].shape[-1], self.base_tokens.shape[1]
        needed = 4 * len(self.wiring.senders) * positions * width
        check_memory(self.model, 3 * needed, None, "what all senders write, and what receivers make of it,")
        more = written_more(self.model, self.wiring, self.source, self.base)
        check_additive(self.model, more, self.source, self.base)
        return more

    @cached_property
    def start(self) -> int:
        """The first position at which they can differ."""
        same = common_length(self.base_tokens[0].tolist(), self.source_tokens[0].tolist())
        return same if self.model.anatomy.causal else 0

    def empty(self) -> np.ndarray:
        """(sender, receiver) scores, all NaN."""
        return np.full((len(self.wiring.senders), len(self.wiring.receivers)), np.nan)


def ends_of(run: Run, read: Sequence[int]) -> Ends:
    """What a metric reads of a whole run."""
    return Ends(None, run.logits[:, list(read)])


# Estimates


def estimated(exchange: Exchange, metric: Metric, points: Sequence[Edit | None]) -> np.ndarray:
    """(sender, receiver): what a sender writes more, times the mean gradient at a receiver's input over some points."""
    scores = exchange.empty()
    more = exchange.more[:, exchange.start :].flatten(1)
    columns = {receiver: n for n, receiver in enumerate(exchange.wiring.receivers)}
    for point in points:
        for receiver, slope in _slopes(exchange, metric, point):
            n, column = exchange.wiring.before(receiver), columns[receiver]
            found = (more[:n] @ slope[exchange.start :].flatten().to(more.dtype)).double().cpu().numpy() / len(points)
            scores[:n, column] = np.nan_to_num(scores[:n, column]) + found
    return scores


def _slopes(exchange: Exchange, metric: Metric, point: Edit | None) -> Iterator[tuple[Input, Tensor]]:
    """The gradient (pos, d_model) of the metric at each receiver's own input, all else held."""
    model, wiring = exchange.model, exchange.wiring
    run = model.run(
        exchange.base_tokens,
        edits=() if point is None else point,
        keep=[*sites_to_keep(model, "resid_pre", *READ), exchange.last],
        grads=metric.differentiable,
    )
    receivers = Receivers(model, wiring, exchange.base_tokens, run)
    for layer in range(model.n_layers):
        grads = {site.name: run.grad[site] for site in sites_to_keep(model, *READ) if site.layer == layer}
        yield from receivers.slopes(grads, layer).items()
    yield Input("logits"), run.grad[exchange.last][0]


# Exactly


def exactly(exchange: Exchange, metric: Metric, progress: Progress | None = None) -> np.ndarray:
    """(sender, receiver): the change of the metric when one receiver alone reads one sender's output of the source."""
    total, done = sum(map(exchange.wiring.before, exchange.wiring.receivers)), 0
    scores, engine = exchange.empty(), Engine(exchange.model, exchange.base_tokens)
    read = metric.read(exchange.base_tokens.shape[1])
    base = float(metric.of(exchange.model, engine.base(read))[0])
    for layer in range(exchange.model.n_layers):
        places, cells = _cells(exchange, layer)
        for chunk in engine.run(cells, read):
            if chunk is not None:
                rows, columns = places[list(chunk.indices)].T
                scores[rows, columns] = metric.of(exchange.model, chunk.ends).double().cpu().numpy() - base
                done += len(rows)
                if progress is not None:
                    progress(done, total)
    last = exchange.base[exchange.last]
    ends = Ends((last + exchange.more.to(last.dtype))[:, list(read)], None)
    scores[:, -1] = metric.of(exchange.model, ends).double().cpu().numpy() - base
    return scores


def _cells(exchange: Exchange, layer: int) -> tuple[np.ndarray, list[Cell]]:
    """Of the receivers of a layer, a cell for each sender that they read; and whose it is, (cell, 2)."""
    receivers, base, wiring = exchange.receivers, exchange.base, exchange.wiring
    by_site, places, cells = dict[str, Tensor](), list[tuple[int, int]](), list[Cell]()
    if attention := wiring.of_layer(layer, "q", "k", "v", "attn"):
        by_site |= receivers.inside(layer, base["resid_pre", layer] + exchange.more[: wiring.before(attention[0])])
    for node in wiring.of_layer(layer, "mlp"):
        reads = base["resid_mid" if layer in wiring.serial else "resid_pre", layer]
        by_site["mlp_out"] = receivers.mlp(layer, reads + exchange.more[: wiring.before(node)])
    pos = tuple(range(exchange.start, exchange.base_tokens.shape[1]))
    for column, node in enumerate(wiring.receivers):
        if node.layer == layer:
            made = by_site[SITE[node.kind]][:, exchange.start :]
            places += [(row, column) for row in range(len(made))]
            cells += [_cell(node, pos, value) for value in made]
    return np.array(places).reshape(-1, 2), cells


def _cell(node: Input, pos: tuple[int, ...], value: Tensor) -> Cell:
    """The receiver's own part of what was made of its input, put into the base run."""
    heads = None
    if node.head >= 0:
        value, heads = value[:, node.head : node.head + 1], (node.head,)
    return Cell((Change(SITE[node.kind], node.layer, pos, value, heads),))
