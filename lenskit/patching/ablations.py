"""Ablations: heads and MLPs taken out of a prompt: set to zero, to their mean over prompts, or to another prompt's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.models.sites import Site
from lenskit.patching.align import alignment
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engine import Engine
from lenskit.patching.metrics import Metric, as_metric
from lenskit.patching.nodes import Node, NodeLike, as_nodes, check_nodes

if TYPE_CHECKING:
    from lenskit.models.model import Model

With = Literal["zero", "mean", "resample"]

# How many bytes the values of the ablations that run together may take.
_BYTES = 256 << 20


class Ablation(NamedTuple):
    """A metric before and after some nodes were ablated, (prompt,) each."""

    before: Tensor
    after: Tensor

    @property
    def effect(self) -> Tensor:
        """(prompt,): after minus before."""
        return self.after - self.before

    def __repr__(self) -> str:
        rows = len(self.before)
        over = "" if rows == 1 else f", mean of {rows} prompts"
        return f"Ablation({float(self.before.mean()):+.3f} -> {float(self.after.mean()):+.3f}{over})"


def ablate(
    model: Model,
    prompt: Prompt,
    nodes: NodeLike | Iterable[NodeLike],
    metric: Metric | Callable[[Run], Any] | Sequence[Metric],
    with_: Literal["zero", "mean"] | Prompt = "zero",
) -> Ablation:
    """Take nodes out of one prompt or several, all at once, and measure what is left.

    Args:
        model: the model.
        prompt: as in `model.run`, one or several.
        nodes: heads `"9.6"`, MLPs `"5.mlp"`, whole attentions `"5.attn"`, one or several.
        metric: one for all prompts, or one for each.
        with_: what is put in their place: zeros; the mean over the prompts, position by position, which must have one
            length; or other prompts, as many or one, whose values are taken.

    Raises `SiteUnavailable` for a node that is not there, and `PromptsDiffer` where lengths do not fit.

    >>> lk.patching.ablate(model, ["When Mary and ...", "When Anna and ..."], ["18.6", "20.mlp"], metric,
    ...                    with_="mean")  # doctest: +SKIP
    Ablation(+5.912 -> +3.104, mean of 2 prompts)
    """
    chosen = as_nodes(nodes)
    check_nodes(model, chosen)
    rows = rows_of(model, prompt)
    how: With = "zero"
    others = rows
    if with_ == "mean":
        how = "mean"
    elif with_ != "zero" if isinstance(with_, str) else True:
        how, others = "resample", rows_of(model, with_)
        if len(others) not in (1, len(rows)):
            raise ValueError(f"{len(rows)} prompts and {len(others)} others: give as many others, or one for all.")
        others = others * len(rows) if len(others) == 1 else others
    before, after = list[Tensor](), list[Tensor]()
    for taken_out in ablations(model, rows, others, metrics_for(metric, len(rows)), chosen, how):
        before.append(taken_out.full)
        after.append(taken_out.without([chosen])[0])
    return Ablation(torch.stack(before), torch.stack(after))


def rows_of(model: Model, prompt: Prompt) -> list[Tensor]:
    """Each prompt by itself, (1, pos), without padding."""
    tokens, mask = model.batch(prompt)
    real = torch.ones_like(tokens) if mask is None else mask
    return [row[there.bool()][None] for row, there in zip(tokens, real, strict=True)]


def metrics_for(metric: Metric | Callable[[Run], Any] | Sequence[Metric], count: int) -> list[Metric]:
    """One metric for each prompt. Raises `ValueError` where there are not as many."""
    if isinstance(metric, Sequence):
        made = [as_metric(each) for each in metric]
        if len(made) != count:
            raise ValueError(f"{count} prompts and {len(made)} metrics: give one for all, or one for each.")
        return made
    return [as_metric(metric)] * count


@dataclass(frozen=True, eq=False)
class TakenOut:
    """One prompt, and what its nodes are set to when they are ablated.

    Attributes:
        model, tokens, metric: the model, the prompt (1, pos), and what is measured.
        values: by site (pos, ...): what is put in the place of the prompt's own.
        first: the first position at which these can differ from the prompt's own.
    """

    model: Model
    tokens: Tensor
    metric: Metric
    values: dict[Site, Tensor]
    first: int

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, self.tokens)

    @cached_property
    def _bound(self) -> Metric:
        length = self.tokens.shape[1]
        return self.metric.bound(self.model, self.tokens, self._engine.base(self.metric.read(length)))

    @cached_property
    def full(self) -> Tensor:
        """The metric of the prompt as it is, a single number."""
        read = self.metric.read(self.tokens.shape[1])
        return self._bound.of(self.model, self._engine.base(read))[0].float().cpu()

    def without(self, sets: Sequence[Iterable[Node]]) -> Tensor:
        """(set,): the metric with each set of nodes ablated."""
        found = self.full.repeat(len(sets))
        read = self.metric.read(self.tokens.shape[1])
        for some in self._together([list(nodes) for nodes in sets]):
            cells = [cell for _, cell in some]
            for chunk in self._engine.run(cells, read):
                if chunk is not None:
                    where = [some[index][0] for index in chunk.indices]
                    found[where] = self._bound.of(self.model, chunk.ends).float().cpu()
        return found

    def _together(self, sets: list[list[Node]]) -> Iterable[list[tuple[int, Cell]]]:
        """The cells of all sets that ablate anything, some at a time so that their values fit into memory."""
        some, held = list[tuple[int, Cell]](), 0
        for index, nodes in enumerate(sets):
            if not nodes or self.first >= self.tokens.shape[1]:
                continue
            cell = self.cell(nodes)
            some.append((index, cell))
            held += sum(change.value.nbytes for change in cell.changes)
            if held > _BYTES:
                yield some
                some, held = [], 0
        if some:
            yield some

    def cell(self, nodes: Iterable[Node]) -> Cell:
        """The intervention that ablates these nodes together."""
        pos = tuple(range(self.first, self.tokens.shape[1]))
        heads, changes = dict[Site, list[int]](), list[Change]()
        for node in nodes:
            if node.kind == "head":
                heads.setdefault(node.writes, []).append(node.head)
            else:
                value = self.values[node.writes][self.first :]
                changes.append(Change(node.writes.name, max(node.layer, 0), pos, value))
        for site, which in heads.items():
            assert site.layer is not None
            whole, which = self.values[site][self.first :], sorted(which)
            every = len(which) == whole.shape[1]
            value = whole if every else whole[:, which]
            changes.append(Change("z", site.layer, pos, value, None if every else tuple(which)))
        return Cell(tuple(sorted(changes, key=lambda change: change.layer)))


def ablations(
    model: Model,
    rows: Sequence[Tensor],
    others: Sequence[Tensor],
    metrics: Sequence[Metric],
    nodes: Sequence[Node],
    how: With,
) -> Iterable[TakenOut]:
    """For each prompt what its nodes become: zeros, the values of its other prompt, or the mean over all the others."""
    sites = list(dict.fromkeys(node.writes for node in nodes))
    for row, other in zip(rows, others, strict=True):
        alignment(row[0].tolist(), other[0].tolist(), None, model.text)
    mean = _mean(model, others, sites) if how == "mean" else {}
    for row, other, metric in zip(rows, others, metrics, strict=True):
        if how == "mean":
            values, compared = mean, torch.cat([row, *others])
        else:
            values, compared = _own(model, other, sites), torch.cat([row, other])
        if how == "zero":
            values = {site: torch.zeros_like(value) for site, value in values.items()}
        yield TakenOut(model, row, metric, values, 0 if how == "zero" else _first_difference(model, compared))


def _own(model: Model, row: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    run = model.run(row, keep=sites)
    return {site: run[site][0] for site in sites}


def _mean(model: Model, rows: Sequence[Tensor], sites: Sequence[Site]) -> dict[Site, Tensor]:
    if len(rows) < 2:
        raise ValueError("with one prompt there is no mean over prompts: give several, or another one to take from.")
    for row in rows[1:]:
        alignment(rows[0][0].tolist(), row[0].tolist(), None, model.text)
    total = _own(model, rows[0], sites)
    for row in rows[1:]:
        for site, value in _own(model, row, sites).items():
            total[site] = total[site] + value
    return {site: value / len(rows) for site, value in total.items()}


def _first_difference(model: Model, rows: Tensor) -> int:
    """The first position at which any of the prompts (row, pos) differs; before it all activations are the same."""
    if not model.anatomy.causal:
        return 0
    differs = (rows != rows[:1]).any(0)
    return int(differs.int().argmax()) if bool(differs.any()) else rows.shape[1]
