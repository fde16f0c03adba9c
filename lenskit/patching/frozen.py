"""Frozen: a prompt in which attention is held, so that a change goes straight down the stream to what reads it.

With every attention's output held nothing mixes positions any more. So each position of each sender is a row of one
token: only positions that can differ are computed, the layers are the model's own, and whatever should mix positions
all the same has nothing to mix, which the row of the unchanged prompt, always among them, would show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from lenskit.models.edits import Edit, Set
from lenskit.models.finding.probe import same
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.patching.nodes import Node

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.models.run import Run

_NUMBERS = 32_000_000
"""How many numbers the held activations of one batch may have together."""


Arrived = tuple[list[int], dict[Site, Tensor]]
"""Which senders, and what each makes of some sites, (sender, pos, ...)."""


@dataclass(frozen=True)
class Frozen:
    """A base prompt whose attention is held, and another prompt from which one sender at a time takes its value.

    Attributes:
        model: the model.
        base, other: runs of one row that kept what `sites_kept` names.
        pos: the positions that are computed.
        mlps: whether MLPs see the change and pass it on, or are held as well.
    """

    model: Model
    base: Run
    other: Run
    pos: tuple[int, ...]
    mlps: bool = True

    def arriving(self, senders: Sequence[Node], sites: Sequence[Site]) -> Iterator[Arrived]:
        """What each sender's value from the other prompt makes of the sites, by groups of senders.

        Gives the indices of the senders, and of each site that comes after any of these (sender, pos, ...). Raises
        `SiteUnavailable` where the base prompt itself does not come out as it should: something else mixes positions.
        """
        order = sorted(range(len(senders)), key=lambda n: _begin(senders[n]))
        depth = self.model.n_layers
        width = self.base["resid_pre", 0].shape[-1]
        most = _NUMBERS // (depth * len(self.pos) * width)
        rows = max(1, min(most, -(-len(order) // 4)))  # a few groups: each begins at its own first layer
        for start in range(0, len(order), rows):
            group = order[start : start + rows]
            yield group, self._together([senders[n] for n in group], sites)

    def _together(self, senders: Sequence[Node], sites: Sequence[Site]) -> dict[Site, Tensor]:
        first = _begin(senders[0])
        seen = [site for site in sites if any(comes_after(site, sender) for sender in senders)]
        rows, count = len(senders) + 1, len(self.pos)
        if not seen:
            return {}
        last = max(seen, key=_place)
        resid = self._here(self.base, Site("resid_pre", first)).repeat(rows, 1, 1)
        for row, sender in enumerate(senders, 1):
            if sender.kind == "embed":
                resid[row * count : (row + 1) * count] = self._here(self.other, sender.writes)
        run = self.model.run(
            self.base.tokens[:, list(self.pos)].T.repeat(rows, 1),
            start_at=first,
            resid=resid,
            edits=self._held(senders, first, last, rows),
            keep=seen,
            stop_at=last,
        )
        found = dict[Site, Tensor]()
        for site in seen:
            value = run[site].unflatten(0, (rows, count)).squeeze(2)
            if not same(value[0], self._here(self.base, site).squeeze(1), least=1e-4):
                raise SiteUnavailable(
                    f"a path cannot be followed in {self.model.anatomy.family}: with its attention held, {site} of an "
                    "unchanged prompt is not what it was, so something else mixes positions."
                )
            found[site] = value[1:]
        return found

    def _held(self, senders: Sequence[Node], first: int, last: Site, rows: int) -> list[Edit]:
        """The edits that hold attention (and MLPs) where they were, but for each row's own sender."""
        assert last.layer is not None
        end = last.layer + (last.name != "resid_pre")
        edits, count = list[Edit](), len(self.pos)
        for layer in range(first, end):
            here = [(row, sender) for row, sender in enumerate(senders, 1) if sender.layer == layer]
            for site in _held_sites(self.model, layer, self.mlps):
                if layer == last.layer and not self._comes_before(site, last):
                    continue
                if site.name == "attn_out" and any(sender.kind == "head" for _, sender in here):
                    site = Site("z", layer)
                value = self._here(self.base, site)
                edits.append(Set(site.name, value.repeat(rows, *[1] * (value.dim() - 1)), layers=layer))
            for row, sender in here:
                if layer == last.layer and not self._comes_before(sender.writes, last):
                    continue
                site, which = sender.writes, range(row * count, (row + 1) * count)
                heads = [sender.head] if sender.kind == "head" else None
                value = self._here(self.other, site)
                value = value if heads is None else value[:, :, heads]
                edits.append(Set(site.name, value, layers=layer, heads=heads, rows=which))
        return edits

    def _comes_before(self, site: Site, other: Site) -> bool:
        assert site.layer is not None
        order = self.model.anatomy.order.of_layer(site.layer)
        return order.index(site.name) < order.index(other.name)

    def _here(self, run: Run, site: Site) -> Tensor:
        """(pos, 1, ...): the positions of a run's site as rows of one token."""
        return run[site][0, list(self.pos)][:, None]


def sites_kept(model: Model, senders: Sequence[Node], sites: Sequence[Site], mlps: bool) -> list[Site]:
    """What the two runs have to keep. Raises `SiteUnavailable` for a block whose attention cannot be held."""
    held = [site for layer in range(model.n_layers) for site in _held_sites(model, layer, mlps)]
    streams = [Site("resid_pre", layer) for layer in range(model.n_layers)]
    return list(dict.fromkeys([*streams, *held, *(sender.writes for sender in senders), *sites]))


def _held_sites(model: Model, layer: int, mlps: bool) -> list[Site]:
    """What is held in a layer: its attention's output and, unless MLPs pass the change on, its MLP's."""
    spots = model.anatomy.layers[layer].spots
    if "attn_out" not in spots and "mlp_out" not in spots:
        model.anatomy.spot(Site("attn_out", layer))  # raises with the reason
    names = ("attn_out",) if mlps else ("attn_out", "mlp_out")
    return [Site(name, layer) for name in names if name in spots]


_STAGES = ("resid_pre", "attn_out", "mlp_in", "mlp_out", "resid_post")


def _place(site: Site) -> tuple[int, int]:
    """When a site comes in the forward, as far as paths go."""
    assert site.layer is not None
    return site.layer, _STAGES.index(site.name)


def _after(sender: Node) -> tuple[int, int]:
    """When a sender has written."""
    if sender.kind == "embed":
        return -1, 0
    return sender.layer, _STAGES.index("mlp_out" if sender.kind == "mlp" else "attn_out")


def _begin(sender: Node) -> int:
    return max(0, sender.layer)


def comes_after(site: Site, sender: Node) -> bool:
    """Whether what a sender writes can be in what a site reads."""
    return _place(site) > _after(sender)
