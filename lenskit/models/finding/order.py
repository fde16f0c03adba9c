"""Order: when sites come in a forward, as the probe saw it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from lenskit.models.attention import SIDES
from lenskit.models.finding.spots import Spot
from lenskit.models.running.attention_written import RECIPES
from lenskit.models.sites import NAMES, SINGLE, Site, SiteLike, SiteUnavailable
from lenskit.models.taps import Point

if TYPE_CHECKING:
    from lenskit.models.anatomy import Anatomy

Time = tuple[float, int]
# An attention that computes its own products takes up the values when the scores are there.
_WRITTEN_OUT = ("q", "k", "scores", "v", "pattern")
_STREAM = ("resid_pre", "resid_mid", "resid_post", "final_norm", "logits")
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict)


class SitePassed(LookupError):
    """Raised when a trace is asked for a site that its forward has passed: a forward does not go back.

    >>> with model.trace("Hello") as t:   # doctest: +SKIP
    ...     late = t["resid_post", 5]
    ...     early = t["resid_post", 2]    # SitePassed: ask in the order in which the forward comes by
    """


class Station(NamedTuple):
    """Where a forward can stand still: a site, its spot, and the times at which the forward comes by, ascending.

    around: the modules that are running at that time.
    stream: it is the residual stream, as it is: what a trace shows may be the model's own tensor.
    """

    site: Site
    spot: Spot
    times: list[Time]
    around: list[nn.Module]
    stream: bool


class Order:
    """The times of every point of a model in one forward, and which modules each module is inside of."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._inside: dict[nn.Module, list[nn.Module]] | None = None
        self._stations: dict[Site, Station] = {}
        self._points: dict[Point, Point] = {}
        self.asked: dict[SiteLike, tuple[Site, Station]] = {}
        """For traces: what has been asked for, and what was meant."""

    def station(self, site: Site) -> Station:
        """Where a forward stands still for a whole site. Raises `SiteUnavailable` where it does not exist."""
        found = self._stations.get(site)
        if found is None:
            spot = self.anatomy.spot(site)
            point = self._points.setdefault(spot.point, spot.point)  # one object, that can be told by its identity
            around = self.around(point.module)
            if point.side != "output":  # the module itself is running, too
                around = [point.module, *around]
            stream = site.name in _STREAM and spot.plain
            found = Station(site, replace(spot, point=point), self.times(point), around, stream)
            self._stations[site] = found
        return found

    def times(self, point: Point) -> list[Time]:
        """When the forward comes by a point, ascending; empty where the probe did not come by."""
        if not self.anatomy.is_language_model:
            return []
        calls = self.anatomy.probe.by_module.get(point.module, [])
        if point.side == "input":
            return sorted((float(call.begin), 0) for call in calls)
        if point.side == "output":
            return sorted((float(call.end), 0) for call in calls)
        # Between the call's beginning and its end, and after its projections, whose times are whole numbers.
        at = [call.at for call in self.anatomy.probe.attention if call.module is point.module]
        moments = at or [call.end - 1 for call in calls]
        recipe = RECIPES.get(point.module)
        sides = SIDES if recipe is None or recipe.softmax is None else _WRITTEN_OUT
        return sorted((moment - 0.5, sides.index(point.side)) for moment in moments)

    def around(self, module: nn.Module) -> list[nn.Module]:
        """The modules that the module is inside of, in the tree or when it is called."""
        if self._inside is None:
            self._inside = {}
            for outer in self.anatomy.model.modules():
                for inner in outer.modules():
                    if inner is not outer and not isinstance(outer, _NEVER_CALLED):
                        self._inside.setdefault(inner, []).append(outer)
        around = dict.fromkeys(self._inside.get(module, ()))
        if self.anatomy.is_language_model:
            calls = self.anatomy.probe.by_module.get(module, ())
            every = self.anatomy.probe.calls
            around |= dict.fromkeys(o.module for c in calls for o in every if o.begin < c.begin and c.end < o.end)
        return list(around)

    def of_layer(self, layer: int | None) -> list[str]:
        """The names of a layer's sites, or of those that exist once, in the order in which a forward comes by."""
        found = list[tuple[Time, int, str]]()
        for rank, name in enumerate(NAMES):
            if (name in SINGLE) != (layer is None):
                continue
            try:
                times = self.times(self.anatomy.spot(Site(name, layer)).point)
            except SiteUnavailable:
                continue
            found += [(time, rank, name) for time in times[:1]]
        return [name for _, _, name in sorted(found)]

    def passed(self, asked: Site, here: str) -> SitePassed:
        """The error for a site that the forward has passed."""
        order = [] if asked.is_path else self.of_layer(asked.layer)
        where = "of a layer" if asked.layer is not None else "that exist once"
        come = f" The sites {where} come in this order: {', '.join(order)}." if order else ""
        return SitePassed(
            f"{str(asked)!r} has passed: the forward stands at {here}.{come} Ask for it earlier, or begin a new trace."
        )
