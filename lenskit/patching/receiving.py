"""Receiving: heads, MLPs or the logits that read, in an otherwise plain prompt, what senders say straight to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lenskit.models.edits import Set
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.patching.cells import Cell, Change
from lenskit.patching.frozen import Frozen, comes_after
from lenskit.patching.nodes import Node, heads_in

if TYPE_CHECKING:
    from lenskit.models.model import Model

Through = Literal["q", "k", "v"]


@dataclass(frozen=True)
class Receiving:
    """The receivers of some paths, and what they are given in the place of what they would have read.

    Attributes:
        frozen: the base prompt in which the senders' values arrive.
        nodes: heads, MLPs, or the logits.
        through: by which of `q k v` a head receives.
    """

    frozen: Frozen
    nodes: tuple[Node, ...]
    through: tuple[Through, ...]

    @cached_property
    def sites(self) -> dict[Site, list[Node]]:
        """Where in the residual stream each receiver reads."""
        return reading(self.frozen.model, self.nodes)

    def cells(self, senders: Sequence[Node]) -> Iterator[tuple[list[int], list[Cell]]]:
        """Which senders have a path here, and of each the cell that gives the receivers what it sends."""
        reaching = [n for n, sender in enumerate(senders) if any(comes_after(site, sender) for site in self.sites)]
        for group, arrived in self.frozen.arriving([senders[n] for n in reaching], list(self.sites)):
            indices = [reaching[n] for n in group]
            changes = list[list[Change]]([] for _ in indices)
            for site, value in arrived.items():
                for row, change in enumerate(self._given(site, value)):
                    if comes_after(site, senders[indices[row]]):
                        changes[row] += change
            yield indices, [Cell(tuple(each)) for each in changes]

    def _given(self, site: Site, arrived: Tensor) -> list[list[Change]]:
        """For each sender the changes at one site's receivers, made of what arrives there (sender, pos, d_model)."""
        assert site.layer is not None
        if site.name != "resid_pre":
            return [[Change(site.name, site.layer, self.frozen.pos, value)] for value in arrived]
        layer, model, base, pos = site.layer, self.frozen.model, self.frozen.base, list(self.frozen.pos)
        resid = base[site].repeat(len(arrived), 1, 1)
        resid[:, pos] = arrived
        tokens = base.tokens.expand(len(arrived), -1)
        keep = [Site(name, layer) for name in self.through]
        run = model.run(tokens, start_at=layer, resid=resid, keep=keep, stop_at=Site("z", layer))
        heads = sorted(node.head for node in self.sites[site])
        count = heads_in(model, layer)
        read = {name: _heads_of(name, heads, count, run[name, layer].shape[2]) for name in self.through}
        if all(read.values()):
            return [
                [
                    Change(name, layer, self.frozen.pos, run[name, layer][row, pos][:, which], tuple(which))
                    for name, which in read.items()
                ]
                for row in range(len(arrived))
            ]
        return self._by_what_they_make_of_it(layer, heads, {name: run[name, layer] for name in self.through})

    def _by_what_they_make_of_it(
        self, layer: int, heads: list[int], given: dict[Through, Tensor]
    ) -> list[list[Change]]:
        """The changes for heads that share keys and values with others: the `z` that they alone make of them."""
        earlier = [node for node in self.nodes if node.layer < layer]
        if earlier:
            raise SiteUnavailable(
                f"heads {', '.join(f'{layer}.{head}' for head in heads)} share their keys and values with other heads "
                f"of layer {layer}, so they cannot be given their own while {earlier[0]}, an earlier receiver, changes "
                "what else reaches them. Take all heads of the group as receivers, or one layer at a time."
            )
        model, base, pos = self.frozen.model, self.frozen.base, self.frozen.pos
        rows = len(next(iter(given.values())))
        edits = [Set(name, value[:, list(pos)], layers=layer, pos=list(pos)) for name, value in given.items()]
        resid = base["resid_pre", layer].repeat(rows, 1, 1)
        z = Site("z", layer)
        run = model.run(base.tokens.expand(rows, -1), start_at=layer, resid=resid, edits=edits, keep=z, stop_at=z)
        after = tuple(range(pos[0], base.tokens.shape[1]))
        return [[Change("z", layer, after, each[list(after)][:, heads], tuple(heads))] for each in run[z]]


def _heads_of(name: Through, heads: list[int], count: int, there: int) -> list[int]:
    """Which heads of a layer's `q`, `k` or `v` some heads read, or none where other heads read the same."""
    if name == "q":
        return heads
    group = count // there
    shared = sorted({head // group for head in heads})
    return shared if len(shared) * group == len(heads) else []


def reading(model: Model, receivers: Sequence[Node]) -> dict[Site, list[Node]]:
    """Where in the residual stream each receiver reads: heads a block's input, MLPs their own, the logits its end."""
    found = dict[Site, list[Node]]()
    for node in receivers:
        if node.kind == "logits":
            site = Site("resid_post", model.n_layers - 1)
        else:
            site = Site("mlp_in" if node.kind == "mlp" else "resid_pre", node.layer)
        found.setdefault(site, []).append(node)
    return found
