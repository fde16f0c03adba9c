"""Act: one edit at work in a forward: where it applies, what it makes of the tensors there, and whether it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.models.ablations import AblateLayer
from lenskit.models.edits import At, Call, Edit, Mean, NothingEdited, Resample, Splice
from lenskit.models.finding.spots import Spot
from lenskit.models.running.patch import Patch, same_places, taken
from lenskit.models.running.places import Box, Choice, Moment, Places, Whole, check_layout, places
from lenskit.models.running.which import contains, indices
from lenskit.models.sites import LAYERED, Axes, Site, axes_of
from lenskit.models.taps import Taker

if TYPE_CHECKING:
    from lenskit.models.anatomy import Anatomy
    from lenskit.models.running.plan import Plan

_CPU = torch.device("cpu")


class Act:
    """One edit at work. Making it adds its takers to the plan, and raises where the edit can match nothing.

    stays: whether it is one of `model.edits`, which need not act in a run that leaves out their layers.
    """

    def __init__(self, edit: Edit, plan: Plan, stays: bool = False) -> None:
        self.edit, self.plan, self.stays = edit, plan, stays
        self.sites = edited_sites(edit, plan.anatomy)
        self.reached: set[Site] = set()
        self.source = edit.of(self.sites) if isinstance(edit, Patch) else None
        self._read: dict[int | None, tuple[Moment, Tensor]] = {}
        self._chosen: tuple[Moment, int | None, torch.device, Places | None] | None = None
        self._check_beforehand()
        reads = edit.reads
        for site in self.sites:
            if reads is not None:
                source = plan.anatomy.spot(Site(reads, site.layer))
                plan.add(source.point, source.taking(self._reading(site.layer), plan.moment.rows))
            (spot,) = plan.anatomy.spots(site.name, () if site.layer is None else (site.layer,))
            take = self._at(site, spot)
            if not spot.plain or spot.shared:
                take = spot.taking(take, plan.moment.rows)
            plan.add_at(site.name, spot.point, take)

    def _check_beforehand(self) -> None:
        """Raise for steps, rows and positions that cannot exist, before anything runs."""
        edit, moment = self.edit, self.plan.moment
        if self.plan.generating:
            return
        if edit.steps is not None and not contains(edit.steps, 0):
            raise NothingEdited(f"{edit!r}: a run has step 0 only. Steps are for generate and trace(generate=n).")
        if self.plan.anatomy.is_language_model and self._choose(None, _CPU) is None:
            length = max(map(len, moment.texts))
            raise NothingEdited(f"{edit!r}: pos={edit.pos!r} chooses no position of a prompt of {length} tokens.")

    def _choose(self, n_heads: int | None, device: torch.device) -> Places | None:
        """What is chosen at this moment; without the heads where their number is not known yet."""
        edit, moment = self.edit, self.plan.moment
        if self._chosen is not None:
            at, heads, where, chosen = self._chosen
            if at is moment and heads == n_heads and where == device:
                return chosen
        choice = Choice(edit.rows, edit.pos, None if n_heads is None else edit.heads)
        try:
            chosen = places(moment, choice, n_heads, device, self.plan.generating)
        except IndexError as error:
            raise NothingEdited(f"{edit!r}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{edit!r}: {error}") from None
        self._chosen = moment, n_heads, device, chosen
        return chosen

    def _reading(self, layer: int | None) -> Taker:
        def read(tensor: Tensor) -> None:
            # A copy: the model may write into its own, and the module into what it is given.
            self._read[layer] = self.plan.moment, tensor.clone()

        return read

    def _at(self, site: Site, spot: Spot) -> Taker:
        edit, axes = self.edit, axes_of(site.name)
        # While generating, the cache must hold for later steps what attention sees now.
        cached = self.plan.generating and site.name in ("k", "v")
        plain = not self.plan.anatomy.is_language_model

        def take(tensor: Tensor) -> Tensor | None:
            if plain:
                self.plan.moment = _moment_of(tensor, self.plan.moment)
            if edit.steps is not None and not contains(edit.steps, self.plan.moment.step):
                return None
            n_heads = None if edit.heads is None or axes.head is None else tensor.shape[axes.head]
            chosen = self._choose(n_heads, tensor.device)
            if chosen is None:
                return None
            if not isinstance(chosen, Whole):
                check_layout(tensor, axes, self.plan.moment, edit, site)
            if spot.shared and torch.is_grad_enabled():
                tensor = tensor.clone()  # it will be written into, and gradients may need what was read
            new = self._new(tensor, site, chosen, axes)
            self.reached.add(site)
            if cached:
                tensor.copy_(new)
                return None
            return new

        return self._quickly(site, axes, take)

    def _quickly(self, site: Site, axes: Axes, take: Taker) -> Taker:
        """A patch of the very same places, looked up before the forward runs: what sweeps consist of."""
        edit, source, plan = self.edit, self.source, self.plan
        if not isinstance(edit, Patch) or source is None or plan.generating or not plan.anatomy.is_language_model:
            return take
        if edit.heads is not None or axes.pos != 1 or not same_places(edit, source, plan.moment):
            return take
        there = source.layers[site.layer]
        chosen = None if self._chosen is None else self._chosen[3]  # as it was checked beforehand
        if not isinstance(chosen, Box):
            return take
        index = chosen.index(axes)
        part, shape = there[index], there.shape

        def patch(tensor: Tensor) -> Tensor | None:
            if tensor.shape != shape:
                return take(tensor)
            new = tensor.clone()
            new[index] = part
            self.reached.add(site)
            return new

        return patch

    def _new(self, tensor: Tensor, site: Site, chosen: Places, axes: Axes) -> Tensor:
        edit = self.edit
        if isinstance(edit, Call) and edit.rows is None and edit.pos is None and edit.heads is None:
            made = edit.new(tensor, At(site, True, axes.pos, edit))
            _check_shape(edit, site, made, tensor)
            return chosen.put(tensor, chosen.take(made, axes), axes)
        part = chosen.take(tensor, axes)
        if isinstance(edit, Patch):
            assert self.source is not None
            new = taken(edit, self.source, site, chosen, part, self.plan.moment)
        elif isinstance(edit, Splice):
            new = chosen.take(self._spliced(edit, site, tensor), axes)
        elif isinstance(edit, AblateLayer):
            entered = chosen.take(self._seen(edit, site), axes)
            new = entered + edit.new(part - entered, At(site, chosen.gridded, axes.pos, edit))
        else:
            if axes.pos == 2 and isinstance(edit, Mean | Resample):
                _check_keys(edit, site, self.plan.moment)
            clean = None
            if edit.recalls:
                assert self.plan.clean is not None
                clean = chosen.take(self.plan.clean.at(site, self.plan.moment), axes)
            new = edit.new(part, At(site, chosen.gridded, axes.pos, edit, clean))
        _check_shape(edit, site, new, part)
        return chosen.put(tensor, new, axes)

    def _spliced(self, edit: Splice, site: Site, tensor: Tensor) -> Tensor:
        """What the spliced module makes of what was read, for the whole of the site."""
        made = edit.fn(self._seen(edit, site))
        if not isinstance(made, Tensor):
            raise TypeError(f"{edit!r}: the module returned {type(made).__name__} and must return a tensor.")
        if edit.error is not None:
            assert site.layer is not None
            if site.layer not in edit.error:
                raise ValueError(f"{edit!r}: error has nothing for layer {site.layer}.")
            made = made + edit.error[site.layer].to(made.device, made.dtype)
        _check_shape(edit, site, made, tensor)
        return made + tensor.mean(-1, keepdim=True) if edit.keeps_mean else made

    def _seen(self, edit: Edit, site: Site) -> Tensor:
        """The whole of the other site that the edit has to see first."""
        moment, read = self._read.pop(site.layer, (None, None))
        if read is None or moment is not self.plan.moment:
            raise ValueError(f"{edit!r}: {edit.reads!r} comes after {edit.writes!r}, so it cannot be read for it.")
        return read

    def finished(self, cut: bool) -> None:
        """Raise where the edit never acted. `cut`: the forward left out layers, as it was asked to."""
        missed = [str(site) for site in self.sites if site not in self.reached]
        # Without layers= it stands for every layer that is computed.
        if not missed or (cut and (self.stays or (self.edit.layers is None and self.reached))):
            return
        raise NothingEdited(
            f"{self.edit!r} changed nothing at {', '.join(missed)}: the forward did not come by there, or its "
            "positions and steps were never reached."
        )


def _check_shape(edit: Edit, site: Site, new: Tensor, old: Tensor) -> None:
    if new.shape != old.shape:
        raise ValueError(
            f"{edit!r} gave a tensor of shape {tuple(new.shape)} for what is chosen of {site}, {tuple(old.shape)}."
        )


def _moment_of(tensor: Tensor, moment: Moment) -> Moment:
    """In a plain module rows and positions are the first two axes of each tensor, whatever the module was given."""
    rows, length = (*tensor.shape, 1, 1)[:2]
    return moment if (moment.rows, moment.length) == (rows, length) else Moment(None, rows, 0, length)


def _check_keys(edit: Mean | Resample, site: Site, moment: Moment) -> None:
    """Raise where a row would be given scores or a pattern whose keys stand in other columns than its own."""
    if moment.mask is None or (isinstance(edit, Mean) and edit.over == "pos"):
        return
    texts = [list(moment.texts[row]) for row in indices(edit.rows, moment.rows, "row")]
    if any(text != texts[0] for text in texts):
        raise ValueError(
            f"{edit!r}: the rows are padded differently, so the keys of {site.name!r} do not stand in the same columns."
        )


def edited_sites(edit: Edit, anatomy: Anatomy) -> list[Site]:
    """The sites that an edit changes: in the layers it names, or in all in which the site exists.

    Raises `NothingEdited` for layers and heads that do not exist, `SiteUnavailable` for a site that does not.
    """
    name, layers = edit.writes, edit.layers
    if type(layers) is int and edit.heads is None and 0 <= layers < anatomy.depth and name in LAYERED:
        return [Site(name, layers)]  # as nearly always
    if edit.heads is not None and axes_of(name).head is None:
        raise NothingEdited(f"{edit!r}: {name!r} has no heads to choose from.")
    if name not in LAYERED:
        anatomy.spot(Site(name))
        if edit.layers is not None:
            raise NothingEdited(f"{edit!r}: {name!r} exists once in a model, so it has no layers to choose.")
        return [Site(name)]
    if edit.layers is not None and anatomy.depth:
        try:
            return [Site(name, layer) for layer in indices(edit.layers, anatomy.depth, "layer")]
        except IndexError as error:
            raise NothingEdited(f"{edit!r}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{edit!r}: {error}") from None
    there = anatomy.layers_of(name) if anatomy.depth else []
    if not there:
        anatomy.spot(Site(name, 0))  # raises with the reason
    return [Site(name, layer) for layer in there]
