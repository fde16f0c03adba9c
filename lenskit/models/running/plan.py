"""Plan: what a forward has to do at each point, made of the edits and of what is to be kept, before it runs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lenskit.models.edits import Call, Edit, Splice
from lenskit.models.finding.spots import Spot
from lenskit.models.running.act import Act
from lenskit.models.running.captured import Captured
from lenskit.models.running.doors import in_order
from lenskit.models.running.kept import Keeping, Kept
from lenskit.models.running.places import Moment
from lenskit.models.sites import LAYERED, Site, SiteLike, SiteUnavailable
from lenskit.models.taps import Point, Taker

if TYPE_CHECKING:
    from lenskit.models.anatomy import Anatomy
    from lenskit.models.running.clean import Clean


_STREAM = ("resid_pre", "resid_post")
_NO_MODULES = frozenset[nn.Module]()


class Stopped(BaseException):
    """Ends a forward that has nothing more to show; never seen outside."""


class Plan:
    """The takers of a forward: edits in their order, then what is to be kept, which is what the model goes on with.

    Raises `SiteUnavailable`, `NothingEdited` or `IndexError` before anything runs, for a site that does not exist here
    and for an edit that can match nothing. A plan whose moment has no length yet is one of a generation: `moment` is
    then set anew before each forward.

    staying: how many of the edits, the first ones, are those of `model.edits`.
    """

    def __init__(self, anatomy: Anatomy, moment: Moment, edits: Sequence[Edit] = (), staying: int = 0) -> None:
        self.anatomy, self.moment = anatomy, moment
        self.generating = moment.length == 0
        self.edits = tuple(edits)
        self._takes: dict[Point, list[Taker]] = {}
        self._stores: list[tuple[Kept, frozenset[int]]] = []
        self.clean: Clean | None = None
        self._left_out: frozenset[nn.Module] = _NO_MODULES
        self._begun_at: int | None = None
        self._stop: Site | None = None
        self._stopped = self._taking = False
        self._acts: list[Act] = []
        self.recalled: list[Site] = []
        """The sites of which an edit has to see what they hold without any edit."""
        for n, edit in enumerate(self.edits):
            if not edit.elsewhere:
                self._acts.append(act := Act(edit, self, n < staying))
                if edit.recalls:
                    self.recalled += [site for site in act.sites if site not in self.recalled]
            elif n >= staying:
                raise TypeError(f"{edit!r} is no edit for a run: see what makes it.")

    # What is kept

    def keep(self, keep: SiteLike | Iterable[SiteLike], how: Keeping) -> dict[str, Kept]:
        """Stores for what is to be kept, which the forward will fill."""
        stores: dict[str, Kept] = {}
        depth = self.anatomy.depth
        asked = _asked(_key(keep), depth)
        if not asked:
            return stores
        for name, (layers, named) in asked.items():
            stores[name] = store = Kept(name, list(layers), depth, self.moment, how)
            self._stores.append((store, named))
        joined = how.plain and self._stream_is_untouched(asked)
        if joined:
            stores["resid_post"].continues(stores["resid_pre"])
        takes = self._takes
        for name, store in stores.items():
            spots = self.anatomy.spots(name, asked[name].layers)
            as_it_is = how.in_place and self._may_stay(name, spots, joined)
            for row, spot in enumerate(spots[:1] if joined and name == "resid_pre" else spots):
                point = spot.point
                if self._left_out and point.module in self._left_out:
                    continue
                take = store.leaving(row, spot) if as_it_is else store.taker(row, spot)
                if point in takes or name == "pos_embed":
                    self.add_at(name, point, take)
                else:
                    takes[point] = [take]
        return stores

    def _may_stay(self, name: str, spots: Sequence[Spot], joined: bool) -> bool:
        """Whether the model's own tensors can be kept of a site in all these layers. (Outside of the layers, what the
        model has there may be its own table.)"""
        written = self.anatomy.overwrites
        if name not in LAYERED or (not written.isdisjoint(_STREAM) if joined and name in _STREAM else name in written):
            return False
        return all(spot.factor == 1.0 and spot.shift is None for spot in spots)

    def capture(self, keep: SiteLike | Iterable[SiteLike], how: Keeping) -> dict[str, Captured]:
        """Stores for live activations, through which gradients flow."""
        depth, stores = self.anatomy.depth, dict[str, Captured]()
        asked = _asked(key := _key(keep), depth)
        if any(site.name == "logits" for site in sites_of(key)):
            asked = {**asked, "logits": _NOT_IN_LAYERS}
        if not asked:
            raise ValueError("grads= gives the gradients at what is kept, and nothing is: say where with keep=.")
        for name, (layers, named) in asked.items():
            store = stores[name] = Captured(name, list(layers), depth, self.moment, how)
            store.start()
            self._stores.append((store, named))
            for row, spot in enumerate(self.anatomy.spots(name, layers)):
                if spot.point.module not in self._left_out:
                    self.add_at(name, spot.point, store.capturing(row, spot))
        return stores

    def _stream_is_untouched(self, asked: Mapping[str, _Layers]) -> bool:
        """Whether both ends of all blocks are kept and nothing can stand between a block's end and the next's begin.

        Then each is stored once. (Whether what leaves a block is what enters the next one, the anatomy has verified.)
        """
        depth, pre, post = self.anatomy.depth, asked.get("resid_pre"), asked.get("resid_post")
        if pre is None or post is None or not len(pre.layers) == len(post.layers) == depth > 1:
            return False
        hooked = bool(torch.nn.modules.module._global_forward_pre_hooks)
        return not (hooked or self.moment.mask is not None or self._left_out) and not any(
            block._forward_pre_hooks or Point(block, "input") in self._takes
            for block in islice(self.anatomy.blocks, 1, None)  # a slice would be a new ModuleList
        )

    @property
    def leaves_alone(self) -> bool:
        """Whether the forward would compute the same again, and writes nothing into what others hold."""
        training = self.anatomy.model.training or not self.anatomy.is_language_model
        return not (training or self.edits or torch.is_inference_mode_enabled())

    def overwritten(self) -> set[str]:
        """Make last what was kept without a copy; gives the sites of which the model wrote into something since."""
        addresses = set[int]()
        return {store.name for store, _ in self._stores if not store.settle(addresses)}

    # Where it ends and begins

    def stop(self, at: SiteLike) -> Site:
        """End the forward at a site, when all that is to be done there is done, by raising `Stopped`."""
        site = Site.parse(at)
        if site.name in LAYERED and site.layer is None:
            raise TypeError(f"stop_at={at!r}: say the layer, such as ({at!r}, 5).")
        if site.layer is not None:
            site = Site(site.name, _layer(site, self.anatomy.depth))
        point = self.anatomy.spot(site).point
        if point.module in self._left_out:
            raise ValueError(f"stop_at={site}: the run begins after it, at start_at={self._begun_at}.")
        if site.name != "logits":  # the end as it is, with logits
            self._stop = site
            self.add(point, self._end)
        return site

    def _end(self, _: Tensor) -> None:
        self._stopped = True
        raise Stopped

    def begin(self, layer: int, resid: Tensor) -> None:
        """Let `resid` enter a layer. To be said before `keep` and `stop`: nothing before it is edited or kept."""
        blocks = self.anatomy.blocks
        stream = self.anatomy.probe.residuals(blocks[0])[0].shape
        before = [call.module for call in self.anatomy.probe.before_blocks() if call.output.shape == stream]
        self._left_out = frozenset([*before, *(module for block in blocks[:layer] for module in block.modules())])
        self._begun_at = layer
        if self.clean is not None:
            self.clean.begun = layer, resid
        for point in [point for point in self._takes if point.module in self._left_out]:
            del self._takes[point]
        # A copy: the model may write into what it is given.
        self.first(self.anatomy.spot(Site("resid_pre", layer)).point, lambda _: resid.clone())

    # For the forward

    def add(self, point: Point, take: Taker) -> None:
        """Something more to do at a point, after what is done there already."""
        self._takes.setdefault(point, []).append(take)

    def add_at(self, name: str, point: Point, take: Taker) -> None:
        """As `add`, for a site. Positions that the model looked up once for all rows are shown once for each."""
        if name == "pos_embed":
            take = _for_each_row(take, self.moment.rows)
        takes = self._takes.get(point)
        if takes is None:
            self._takes[point] = [take]
        else:
            takes.append(take)

    def first(self, point: Point, take: Taker) -> None:
        """Something to do at a point before all else."""
        self._takes.setdefault(point, []).insert(0, take)

    @property
    def takers(self) -> dict[Point, Taker]:
        """What `tapped` is given."""
        takers: dict[Point, Taker] = {}
        for point, takes in self._takes.items():
            takers[point] = takes[0] if len(takes) == 1 else in_order(takes)
        for edit in self.edits:
            if isinstance(edit, (Call, Splice)):
                return {point: self._once_at_a_time(take) for point, take in takers.items()}
        return takers

    def _once_at_a_time(self, take: Taker) -> Taker:
        """Leave alone what a function of the user's calls of the model, such as the MLP that it stands in for."""

        def alone(tensor: Tensor) -> Tensor | None:
            if self._taking:
                return None
            self._taking = True
            try:
                return take(tensor)
            finally:
                self._taking = False

        return alone

    def finished(self) -> None:
        """Raise `NothingEdited` for an edit that never acted, `ValueError` for what was to be kept and never came.

        The plan is used up then, and nothing in it leads back to it: it goes at once, with what it holds.
        """
        cut = self._stop is not None or self._begun_at is not None
        for act in self._acts:
            if len(act.reached) < len(act.sites):
                act.finished(cut)
        self._acts, self._takes = [], {}
        if self._stop is not None and not self._stopped:
            raise ValueError(f"stop_at={self._stop}: the forward never came by there.")
        for store, named in self._stores:
            missed = store.unreached()
            if any(site.layer is None or site.layer in named for site in missed) or len(missed) == store.count:
                raise ValueError(f"{', '.join(map(str, missed))} cannot be kept: {self._why_missed()}.")

    def _why_missed(self) -> str:
        if self._begun_at is not None:
            return f"the run began at layer {self._begun_at}" + (f" and stopped at {self._stop}" if self._stop else "")
        return f"the run stopped at {self._stop}, before" if self._stop else "the forward never came by there"


def _for_each_row(take: Taker, rows: int) -> Taker:
    return lambda tensor: take(tensor.expand(rows, *tensor.shape[1:]) if tensor.dim() > 2 else tensor)


class _Layers(NamedTuple):
    """Which layers of a site are to be kept, and which of them were named: these must be reached.

    A name without a layer stands for those layers that are computed.
    """

    layers: tuple[int, ...]
    named: frozenset[int]


_NOT_IN_LAYERS = _Layers((), frozenset())


def _key(keep: SiteLike | Iterable[SiteLike]) -> Any:
    return keep if isinstance(keep, str | tuple) else tuple(keep)


@lru_cache(maxsize=256)
def _asked(keep: Hashable, depth: int) -> Mapping[str, _Layers]:
    """What is asked to be kept: a pure function of its words, and half of the time that making a plan takes."""
    sites: Any = keep
    sites = sites_of(sites)
    return {
        name: _Layers(
            tuple(layers),
            frozenset(site.layer % depth for site in sites if site.name == name and site.layer is not None),
        )
        for name, layers in wanted(sites, depth).items()
    }


def wanted(keep: SiteLike | Iterable[SiteLike], depth: int) -> dict[str, list[int]]:
    """The layers wanted of each site, ascending; none for a site that exists once."""
    found = dict[str, list[int]]()
    for site in sites_of(keep):
        if site.name in LAYERED:
            layers = range(depth) if site.layer is None else [_layer(site, depth)]
            found[site.name] = sorted({*found.get(site.name, ()), *layers})
        elif site.name != "logits":
            found[site.name] = []
    return found


def _layer(site: Site, depth: int) -> int:
    assert site.layer is not None
    if not -depth <= site.layer < depth:
        if not depth:
            raise SiteUnavailable(f"{site} does not exist in a plain module: its sites are the paths of its modules.")
        raise SiteUnavailable(f"{site} does not exist: this model has layers 0 to {depth - 1}.")
    return site.layer % depth


def sites_of(keep: SiteLike | Iterable[SiteLike]) -> list[Site]:
    """One site or several, as a list."""
    if isinstance(keep, str | Site):
        return [Site.parse(keep)]
    items = tuple(keep)
    if len(items) in (2, 3) and isinstance(items[0], str) and all(isinstance(i, int) or i is None for i in items[1:]):
        return [Site.parse(items)]  # pyright: ignore[reportArgumentType] -- ("resid_post", 5), one site
    return [Site.parse(item) for item in items]  # pyright: ignore[reportArgumentType]
