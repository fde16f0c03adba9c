"""Cell: one intervention of a sweep, as the parts of activations that it puts in place of a prompt's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lenskit.models.sites import Site


@dataclass(frozen=True, eq=False)
class Change:
    """What becomes of a part of one site in one layer, in a prompt of one row.

    Attributes:
        site: a site's name: `resid_pre`, `z`, `pattern`, `mlp_post`, ...
        layer: the layer.
        pos: the positions, ascending; of `scores` and `pattern` the queries.
        value: what is put there: (pos, d), with heads (pos, head, d_head), with neurons (pos, neuron), and of
            `scores` and `pattern` (head, query, key).
        heads: which heads, or None for all of them or for a site without heads. `k` and `v` have key-value heads.
        neurons: which entries of the last axis, or None for all.
    """

    site: str
    layer: int
    pos: tuple[int, ...]
    value: Tensor
    heads: tuple[int, ...] | None = None
    neurons: tuple[int, ...] | None = None

    @property
    def where(self) -> Site:
        """The site with its layer."""
        return Site(self.site, self.layer)


@dataclass(frozen=True, eq=False)
class Cell:
    """One intervention: changes that are made together. Before its first layer and position nothing is touched."""

    changes: tuple[Change, ...]

    @cached_property
    def layer(self) -> int:
        """The first layer that is changed."""
        return min(change.layer for change in self.changes)

    @cached_property
    def pos(self) -> int:
        """The first position that is changed."""
        return min(change.pos[0] for change in self.changes)
