"""Clean: what sites hold in the same text without any edit, for the edits that look back at it."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.models.batch import Batch
from lenskit.models.running.kept import Keeping, Kept
from lenskit.models.running.places import Moment
from lenskit.models.running.plan import Plan, Stopped
from lenskit.models.running.standing import Standing
from lenskit.models.running.starting import starting
from lenskit.models.sites import Site, axes_of
from lenskit.models.taps import tapped

if TYPE_CHECKING:
    from lenskit.models.model import Model


class Clean:
    """The unedited forward of a text that is being run with edits.

    It runs when an edit first asks for it, and in a greenlet of its own: the edited forward stands still meanwhile, and
    none of its hooks acts. While generating it runs anew at each step, over the whole text so far, up to the last site
    that is asked for.
    """

    def __init__(self, model: Model, batch: Batch, sites: list[Site]) -> None:
        self.model, self.tokens, self.sites = model, batch.tokens, sites
        self.begun: tuple[int, Tensor] | None = None
        self._moment: Moment | None = None
        self._kept: dict[str, Kept] = {}

    def read(self, ids: Tensor, before: int) -> None:
        """While generating: the tokens (batch, pos) that a step reads, and how many columns earlier steps have read."""
        self.tokens = ids if before == 0 else torch.cat([self.tokens[:, :before], ids], 1)

    def at(self, site: Site, moment: Moment) -> Tensor:
        """What the site holds at this moment without the edits, in the shape of the forward that asks."""
        if moment is not self._moment:
            standing = Standing(lambda: self._run(moment))
            standing.resume()
            self._kept, self._moment = standing.result, moment
        tensor = self._kept[site.name].read(site)
        return tensor.narrow(axes_of(site.name).pos, moment.before, moment.length)

    def _run(self, moment: Moment) -> dict[str, Kept]:
        anatomy, batch = self.model.anatomy, Batch(self.tokens, moment.mask)
        plan = Plan(anatomy, Moment(moment.mask, moment.rows, 0, moment.before + moment.length))
        begun = nullcontext() if self.begun is None else starting(self.model, plan, batch, *self.begun)
        with begun, torch.no_grad():
            stores = plan.keep(self.sites, Keeping())
            if len({site.name for site in self.sites}) == 1 and self.sites[-1].layer is not None:
                plan.stop(max(self.sites, key=lambda site: site.layer or 0))
            with tapped(plan.takers, anatomy.doors), suppress(Stopped):
                self.model.call(batch)
        return stores
