"""Run: the frozen result of one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lenskit.models.sites import LAYERED, Site, SiteLike, SiteUnavailable
from lenskit.models.taps import Point

if TYPE_CHECKING:
    from lenskit.models.anatomy import Anatomy
    from lenskit.models.text import Text


@dataclass(frozen=True, eq=False)
class Run:
    """What a forward gave: logits, tokens, and the activations that were asked for.

    `run["resid_post"]` stacks the layers in front, (layer, batch, pos, d_model); `run["resid_post", 5]` is one layer,
    (batch, pos, d_model). A site that was not kept raises `KeyError` and names what was.

    Attributes:
        logits: (batch, pos, vocab), bit-equal to what the Hugging Face model returns.
        tokens: the token ids, (batch, pos).
        mask: (batch, pos), 1 for a real token and 0 for padding; None where nothing is padded.
        provenance: model, revision, dtype, device, attention, edits and versions.
    """

    logits: Tensor
    tokens: Tensor
    mask: Tensor | None
    kept: Mapping[str, Kept] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)
    text: Text = field(repr=False)

    def __getitem__(self, what: SiteLike) -> Tensor:
        site = Site.parse(what)
        if site.name == "logits":
            return self.logits
        if site.name not in self.kept:
            has = ", ".join(map(repr, self.kept)) or "nothing"
            raise KeyError(f"{str(site)!r} was not kept: this run kept {has}. Run again with keep={site.name!r}.")
        return self.kept[site.name].read(site)

    @cached_property
    def str_tokens(self) -> list[list[str]]:
        """The text of each token, row by row, as `show` makes it visible."""
        from lenskit.models.text import show

        return [[show(piece) for piece in self.text.pieces(row)] for row in self.tokens.tolist()]

    def __repr__(self) -> str:
        batch, pos = self.tokens.shape
        kept = ", ".join(f"{name}[{len(kept.layers)}]" if kept.layers else name for name, kept in self.kept.items())
        return f"Run({batch} x {pos} tokens, kept: {kept or 'nothing'}, {self.provenance['model']})"


class Kept:
    """The activations of one site, written while the forward runs: one tensor for all layers."""

    def __init__(self, name: str, layers: list[int], depth: int) -> None:
        self.name, self.layers, self.depth = name, layers, depth
        self.values: Tensor | None = None
        self._rows: tuple[Tensor, ...] = ()

    def taker(self, row: int, factor: float) -> Callable[[Tensor], None]:
        """What a tap calls with the tensor of the layer stored in `row`: it copies, so what is kept cannot change."""

        def take(tensor: Tensor) -> None:
            (self._rows or self._make(tensor))[row].copy_(tensor)

        def take_scaled(tensor: Tensor) -> None:
            take(tensor * factor)

        return take if factor == 1.0 else take_scaled

    def _make(self, like: Tensor) -> tuple[Tensor, ...]:
        self.values = like.new_empty((max(1, len(self.layers)), *like.shape))
        self._rows = self.values.unbind(0)
        return self._rows

    def read(self, site: Site) -> Tensor:
        """The stack, or one layer of it."""
        assert self.values is not None, f"{self.name} was never reached"
        if not self.layers:
            return self.values[0]
        if site.layer is None:
            if len(self.layers) < self.depth:
                raise KeyError(
                    f"{self.name!r} was kept in layers {self.layers} only: ask for ({self.name!r}, layer), "
                    f"or run again with keep={self.name!r}."
                )
            return self.values
        layer = site.layer % self.depth if -self.depth <= site.layer < self.depth else site.layer
        if layer not in self.layers:
            raise KeyError(f"{str(site)!r} was not kept: {self.name!r} was kept in layers {self.layers}.")
        return self.values[self.layers.index(layer)]


def keeping(
    keep: SiteLike | Iterable[SiteLike], anatomy: Anatomy
) -> tuple[dict[str, Kept], dict[Point, Callable[[Tensor], None]]]:
    """Prepare what is to be kept: the stores, and at each point what a tap has to call.

    Raises `SiteUnavailable` before anything runs if one of the sites does not exist here.
    """
    depth, stores, takers = len(anatomy.blocks), dict[str, Kept](), dict[Point, list[Callable[[Tensor], None]]]()
    for name, layers in _wanted(keep, depth).items():
        store = stores[name] = Kept(name, layers, depth)
        for row, spot in enumerate(anatomy.spots(name, tuple(layers))):
            takers.setdefault(spot.point, []).append(store.taker(row, spot.factor))
    return stores, {point: takes[0] if len(takes) == 1 else _all_of(takes) for point, takes in takers.items()}


def _wanted(keep: SiteLike | Iterable[SiteLike], depth: int) -> dict[str, list[int]]:
    """The layers wanted of each site, ascending; none for a site that exists once."""
    wanted = dict[str, list[int]]()
    for site in _sites(keep):
        if site.name in LAYERED:
            layers = range(depth) if site.layer is None else [_layer(site, depth)]
            wanted[site.name] = sorted({*wanted.get(site.name, ()), *layers})
        elif site.name != "logits":
            wanted[site.name] = []
    return wanted


def _all_of(takes: list[Callable[[Tensor], None]]) -> Callable[[Tensor], None]:
    """Two sites may be seen at the same point, such as the end of one block and the beginning of what reads it."""

    def take(tensor: Tensor) -> None:
        for each in takes:
            each(tensor)

    return take


def _layer(site: Site, depth: int) -> int:
    assert site.layer is not None
    if not -depth <= site.layer < depth:
        raise SiteUnavailable(f"{site} does not exist: this model has layers 0 to {depth - 1}.")
    return site.layer % depth


def _sites(keep: SiteLike | Iterable[SiteLike]) -> list[Site]:
    if isinstance(keep, str):
        return [Site.parse(keep)]
    items = tuple(keep)
    if len(items) == 2 and isinstance(items[0], str) and (isinstance(items[1], int) or items[1] is None):
        return [Site.parse(items)]  # pyright: ignore[reportArgumentType] -- ("resid_post", 5), one site
    return [Site.parse(item) for item in items]  # pyright: ignore[reportArgumentType]
