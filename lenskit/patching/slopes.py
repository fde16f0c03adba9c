"""Slopes: the gradient of a metric at a site, at a prompt itself or as its mean on the way to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lenskit.models.edits import Set
from lenskit.models.sites import Site, SiteUnavailable, axes_of
from lenskit.patching.line import Line, midpoints
from lenskit.patching.metrics import Function, Metric

if TYPE_CHECKING:
    from lenskit.models.model import Model

_ROWS = 5
"""How many points of a line run together: a short prompt alone leaves most of a processor waiting for weights."""


class Slope(NamedTuple):
    """In one layer, without a batch: how far the source is from what the site holds, and the gradient there.

    Both are (pos, ...), or (head, query, key) for scores and pattern.
    """

    layer: int
    difference: Tensor
    grad: Tensor


class Way(NamedTuple):
    """From where to where: a prompt (1, pos), a site in some layers, and what would be put in there, by layer.

    pos: the positions at which anything may be put in; elsewhere the difference is 0.
    """

    model: Model
    tokens: Tensor
    metric: Metric
    site: str
    layers: Sequence[int]
    sheet: Mapping[int, Tensor]
    pos: Sequence[int]

    def difference(self, layer: int, base: Tensor) -> Tensor:
        """How far the source is from what the site holds; 0 where they are equal, and so for masked scores."""
        there = self.sheet[layer].to(base.device, base.dtype)
        made = torch.where(there == base, torch.zeros_like(base), there - base)
        axis = axes_of(self.site).pos - 1
        partnerless = sorted(set(range(base.shape[axis])) - set(self.pos))
        return made.index_fill(axis, torch.tensor(partnerless, dtype=torch.long, device=base.device), 0.0)

    @property
    def sites(self) -> list[Site]:
        """The site in each of the layers."""
        return [Site(self.site, layer) for layer in self.layers]


def at_the_prompt(way: Way) -> Iterator[Slope]:
    """The gradient at the prompt itself: one forward and backward for all layers."""
    run = way.model.run(way.tokens, keep=way.sites, grads=way.metric.differentiable)
    for site in way.sites:
        assert site.layer is not None
        yield Slope(site.layer, way.difference(site.layer, run[site][0]), run.grad[site][0])


def along_the_inputs(way: Way, source: Tensor, steps: int) -> Iterator[Slope]:
    """The mean of the gradients on the straight line between the token embeddings of two prompts (1, pos)."""
    grads, line = dict[Site, Tensor](), None
    for shares in _in_rows(way.metric, steps):
        line = line or Line(way.model, way.tokens, source)
        run = way.model.run(
            way.tokens.expand(len(shares), -1),
            edits=line.at(*shares),
            keep=way.sites,
            grads=way.metric.differentiable,
        )
        for site in way.sites:
            grad = run.grad[site].sum(0) / steps
            grads[site] = grads[site] + grad if site in grads else grad
    base = way.model.run(way.tokens, keep=way.sites)
    for site in way.sites:
        assert site.layer is not None
        yield Slope(site.layer, way.difference(site.layer, base[site][0]), grads[site])


def along_the_activations(way: Way, steps: int) -> Iterator[Slope]:
    """The mean of the gradients on the straight line between a site's own activations, layer by layer.

    All positions, heads and neurons of a layer go along together, and everything after them is computed anew.
    """
    points, streams = _in_rows(way.metric, steps), _streams(way)
    base = way.model.run(way.tokens, keep=[*way.sites, *streams])
    for site in way.sites:
        assert site.layer is not None
        held = base[site][0]
        difference, total = way.difference(site.layer, held), torch.zeros_like(held)
        for shares in points:
            run = way.model.run(
                way.tokens.expand(len(shares), -1),
                start_at=site.layer if streams else None,
                resid=base["resid_pre", site.layer].expand(len(shares), -1, -1) if streams else None,
                edits=Set(way.site, torch.stack([held + share * difference for share in shares]), layers=site.layer),
                keep=site,
                grads=way.metric.differentiable,
            )
            total += run.grad[site].sum(0) / steps
        yield Slope(site.layer, difference, total)


def _in_rows(metric: Metric, steps: int) -> list[list[float]]:
    """The points of a line, as many at once as rows of a batch; of a function of your own, which sees one run, one."""
    points, rows = midpoints(steps), 1 if isinstance(metric, Function) else _ROWS
    return [points[n : n + rows] for n in range(0, steps, rows)]


def _streams(way: Way) -> list[Site]:
    """What enters the layers, where a forward can begin at each of them; edits of the model's own would act twice."""
    if way.model.edits:
        return []
    try:
        for layer in way.layers:
            way.model.anatomy.check_start(layer)
    except SiteUnavailable:  # then each forward is whole
        return []
    return [Site("resid_pre", layer) for layer in way.layers]
