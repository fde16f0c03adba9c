"""Patch: the edit that puts another run's activation in the place of this one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, astuple, dataclass

from torch import Tensor

from lenskit.models.edits import At, Edit, equal
from lenskit.models.run import Run
from lenskit.models.running.places import Choice, Moment, Places, columns_of, places
from lenskit.models.running.which import Which, as_which
from lenskit.models.sites import Axes, Site, axes_of


@dataclass(frozen=True, eq=False)
class Source:
    """A site's activations as a `Patch` takes them: by layer (None for a site that exists once).

    moment: where in their text they stand; None where they begin it and nothing is padded.
    pos: which positions of the text they are, if not all were kept.
    """

    layers: Mapping[int | None, Tensor]
    moment: Moment | None = None
    pos: Which = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Source) or (self.moment is None) != (other.moment is None):
            return False
        same = equal(self.layers, other.layers) and equal(self.pos, other.pos)
        if self.moment is None or other.moment is None:
            return same
        moments = zip(astuple(self.moment), astuple(other.moment), strict=True)
        return same and all(equal(a, b) for a, b in moments)

    def __hash__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f"<{len(self.layers)} tensors>"


@dataclass(frozen=True, eq=False, repr=False)
class Patch(Edit):
    """Put another run's activation in the place of this one's: activation patching.

    source: a `Run` that kept the site, or its activation itself (batch, pos, ...) where one layer is patched. A source
    of one row serves every row.
    source_pos: which positions to take, as many as are patched; by default the same ones.

    >>> clean = model.run(a, keep="resid_pre")                                      # doctest: +SKIP
    >>> model.run(b, edits=[lk.Patch("resid_pre", clean, layers=5, pos=9)])         # doctest: +SKIP
    """

    source: Run | Tensor | Mapping[int | None, Tensor] | Source
    _: KW_ONLY
    source_pos: Which = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_pos is not None:
            object.__setattr__(self, "source_pos", as_which("source_pos", self.source_pos))

    def new(self, part: Tensor, at: At) -> Tensor:
        raise NotImplementedError("a Patch is taken from its source by places (see running/act.py).")

    def of(self, sites: Sequence[Site]) -> Source:
        """The source's activations at these sites of one name. Raises where it has not all of them."""
        if isinstance(self.source, Run):
            store = self.source.kept.get(sites[0].name)
            if store is None:
                return Source({site.layer: self.source[site] for site in sites})
            if len(sites) == 1:
                return Source({sites[0].layer: store.read(sites[0])}, store.moment, store.how.pos)
            return Source({site.layer: store.read(site) for site in sites}, store.moment, store.how.pos)
        layers = [site.layer for site in sites]
        if isinstance(self.source, Tensor):
            if len(layers) > 1:
                raise ValueError(
                    f"{self!r}: one tensor is the activation of one layer, and this edits layers {layers}. Say which "
                    "with layers=, or give a run or a mapping from layers to tensors."
                )
            return Source({layers[0]: self.source})
        made = self.source if isinstance(self.source, Source) else Source(self.source)
        if missing := [layer for layer in layers if layer not in made.layers]:
            raise ValueError(f"{self!r}: the source has nothing for layer {missing[0]}: say which with layers=.")
        return made


def taken(edit: Patch, source: Source, site: Site, chosen: Places, part: Tensor, here: Moment) -> Tensor:
    """What a patch takes of its source, in the shape of the chosen part. Raises `ValueError` where it does not fit."""
    tensor, axes = source.layers[site.layer], axes_of(site.name)
    there = source.moment
    if same_places(edit, source, here):
        return chosen.take(tensor, axes).to(part.device, part.dtype)  # the very same places
    if tensor.dim() != part.dim() + (0 if chosen.gridded else 1):
        raise ValueError(f"{edit!r}: the source has shape {tuple(tensor.shape)}, and {site} (batch, pos, ...).")
    rows = tensor.shape[0]
    if rows not in (1, here.rows):
        raise ValueError(f"{edit!r}: the source has {rows} rows, and this batch {here.rows}.")
    there = there or Moment(None, rows, 0, tensor.shape[axes.pos])
    if axes.pos == 2:
        _check_keys(edit, site, there, here)
    pos = edit.pos if edit.source_pos is None else edit.source_pos
    if source.pos is not None:
        if [*map(list, columns_of(there, pos))] != [*map(list, columns_of(there, source.pos))]:
            raise ValueError(
                f"{edit!r}: the source kept pos={source.pos!r} only, and this takes others. Run it again without pos=."
            )
        there, pos = Moment(None, rows, 0, tensor.shape[axes.pos]), None
    heads = None if axes.head is None else tensor.shape[axes.head]
    choice = Choice(None if rows == 1 else edit.rows, pos, edit.heads)
    found = places(there, choice, heads, tensor.device)
    new = None if found is None else found.take(tensor, axes)
    if found is None or new is None or not _fits(chosen, found, part, new, axes):
        has = "nothing" if new is None else str(tuple(new.shape))
        raise ValueError(
            f"{edit!r}: what is taken of the source, {has}, does not fit what is chosen of {site}, "
            f"{tuple(part.shape)}: prompts of different length? Say pos and source_pos (and steps, when generating)."
        )
    return new.to(part.device, part.dtype).expand(part.shape)


def same_places(edit: Patch, source: Source, here: Moment) -> bool:
    """Whether what is chosen here stands in the very same rows and columns of the source."""
    there = source.moment
    if edit.source_pos is not None or source.pos is not None or there is None:
        return False
    if there.mask is not None or here.mask is not None:
        return False
    return (there.rows, there.before, there.length) == (here.rows, here.before, here.length)


def _fits(chosen: Places, found: Places, part: Tensor, new: Tensor, axes: Axes) -> bool:
    if chosen.gridded != found.gridded or new.shape[1:] != part.shape[1:]:
        return False
    if chosen.gridded:
        return new.shape[0] in (1, part.shape[0])
    return list(chosen.counts) == list(found.counts)


def _check_keys(edit: Patch, site: Site, there: Moment, here: Moment) -> None:
    """Raise where the keys of scores and pattern are not the same columns in both batches."""
    if there.mask is None and here.mask is None:
        return
    texts = there.texts if len(there.texts) > 1 else [there.texts[0]] * here.rows
    if [*map(list, texts)] != [*map(list, here.texts)]:
        raise ValueError(
            f"{edit!r}: the two batches are padded differently, so the keys of {site.name!r} do not stand in the same "
            "columns. Patch prompts of the same lengths, padded on the same side."
        )
