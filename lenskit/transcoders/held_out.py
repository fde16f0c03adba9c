"""HeldOut: text that a training does not learn from, on which it is seen what a dictionary is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lenskit.models.edits import Set
from lenskit.models.model import Model
from lenskit.models.sites import Site
from lenskit.transcoders.evaluate import batches_of, cross_entropy
from lenskit.transcoders.history import Look
from lenskit.transcoders.splicing import spliced
from lenskit.transcoders.training import Training
from lenskit.transcoders.transcoder import Transcoder


class Pair(NamedTuple):
    """The activations (token, d) of the two sites of one dictionary, and the summed loss with the second one's mean."""

    x: Tensor
    y: Tensor
    ablated: float | None


class HeldOut:
    """Some chunks of text, what the model makes of them, and the activations of every dictionary's sites on them.

    In memory are the activations of these chunks alone; logits of a few chunks at a time.

    Args:
        model: the model.
        ids: (chunk, pos) what was held out.
        pairs: what each dictionary reads and writes.
        skip: how many tokens at the beginning of each chunk are left as the model has them, and not looked at.
    """

    def __init__(self, model: Model, ids: Tensor, pairs: list[tuple[Site, Site]], skip: int) -> None:
        self.model, self.skip, self.batches = model, skip, batches_of(model, ids)
        kept: dict[Site, list[Tensor]] = {site: [] for pair in pairs for site in pair}
        self.original = 0.0
        for batch in self.batches:
            run = model.run(batch, keep=[*kept])
            for site, parts in kept.items():
                parts.append(run[site][:, skip:].flatten(2).flatten(0, 1).float())
            self.original += cross_entropy(run.logits, batch, skip) if model.anatomy.is_language_model else 0.0
        whole = {site: torch.cat(parts) for site, parts in kept.items()}
        self.pairs = {
            (reads, writes): Pair(whole[reads], whole[writes], self._ablated(reads, writes, whole[writes]))
            for reads, writes in pairs
        }

    def _ablated(self, reads: Site, writes: Site, y: Tensor) -> float | None:
        """The loss with the mean in the written site's place; None where a dictionary could not stand there."""
        if not self.model.anatomy.is_language_model or writes.layer is None or reads.layer != writes.layer:
            return None
        return self._loss([Set(writes.name, y.mean(0), layers=writes.layer, pos=slice(self.skip, None))])

    def _loss(self, edits: list) -> float:
        return sum(cross_entropy(self.model.run(each, edits=edits).logits, each, self.skip) for each in self.batches)

    @torch.no_grad()
    def look(self, dictionary: Transcoder, step: int) -> Look:
        """What a dictionary explains here, and what of the model's loss it spares."""
        pair = self.pairs[dictionary.reads, dictionary.writes[0]]
        explained = _explained(pair.y, dictionary(pair.x))
        if pair.ablated is None:
            return Look(step, explained, float("nan"))
        loss = self._loss([replace(edit, pos=slice(self.skip, None)) for edit in spliced(dictionary)])
        return Look(step, explained, (pair.ablated - loss) / (pair.ablated - self.original))

    @torch.no_grad()
    def linear(self, training: Training, reads: Site, writes: Site) -> float:
        """What the linear map that a training began with explains here; NaN where it has none."""
        if training.linear is None:
            return float("nan")
        pair = self.pairs[reads, writes]
        return _explained(training.of_y(pair.y), training.of_x(pair.x) @ training.linear.T)


def _explained(y: Tensor, found: Tensor) -> float:
    """The share of the variance of y (token, d) about its mean that was found."""
    missed = (y - found.view_as(y)).double().square().sum()
    return 1 - float(missed / (y - y.mean(0)).double().square().sum())
