"""link: what is chosen in one view is chosen in the others, in the browser and in Python."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import traitlets

from lenskit.widgets.home import HomeThread

FIELDS = ("layer", "pos", "head", "key")

# Linked views in one page tell each other, and Python hears of each. Only what is still apart after this time (a view
# in another frame, or not shown at all) is brought together here: at once, it would overtake a pointer that moves on.
_SETTLED = 0.1


class Linkable(HomeThread):
    """A view that can be linked: its `spec["selection"]` is None or has some of layer, pos (the query), head and key.

    A view derives from it, names its fields in `selection_fields` and writes `follow`. The front-end's half is
    `widgets/shared/linked.ts`.
    """

    links = traitlets.List(traitlets.Dict(), help="The links it is in: a group, and the fields.").tag(sync=True)
    spec: Any
    selection_fields: ClassVar[tuple[str, ...]]
    from_view = False
    """Whether what changes at this moment was said by the front-end."""

    def follow(self, fields: Mapping[str, int]) -> None:
        """Choose what another view chose: the fields that this view has and whose values exist here.

        The other fields of its selection stay as they are.
        """
        raise NotImplementedError

    def set_state(self, sync_data: Any) -> None:
        """Take what the front-end says."""
        self.from_view = True
        try:
            super().set_state(sync_data)
        finally:
            self.from_view = False


class Link:
    """Views whose selections go together, until `unlink()`."""

    def __init__(self, views: Sequence[Linkable], on: Sequence[str]) -> None:
        self.views, self.on = tuple(views), tuple(on)
        self._group = uuid.uuid4().hex
        self._carrying = False
        self._waiting: asyncio.TimerHandle | None = None
        self._waiting_for: Linkable | None = None
        for view in self.views:
            view.links = [*view.links, {"group": self._group, "on": list(self.on)}]
            view.observe(self._changed, names="spec")
        first = next((view for view in self.views if view.spec["selection"] is not None), None)
        if first is not None:
            self._carry(first)

    def unlink(self) -> None:
        """Let each view go its own way again. Unlinking twice does nothing."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        for view in self.views:
            if any(link["group"] == self._group for link in view.links):
                view.unobserve(self._changed, names="spec")
                view.links = [link for link in view.links if link["group"] != self._group]

    def _changed(self, change: Any) -> None:
        view: Linkable = change["owner"]
        before, now = (spec.get("selection") if spec else None for spec in (change["old"], change["new"]))
        if self._carrying or now is None or before == now:
            return
        loop = asyncio._get_running_loop() if view.from_view else None
        if loop is None:
            self._carry(view)
        elif self._waiting is None or self._waiting_for is view:
            # What the other views say meanwhile is what they heard from this one.
            if self._waiting is not None:
                self._waiting.cancel()
            self._waiting_for = view
            self._waiting = loop.call_later(_SETTLED, self._settle, view)

    def _settle(self, view: Linkable) -> None:
        self._waiting = None
        self._carry(view)

    def _carry(self, view: Linkable) -> None:
        """Let the other views follow this one."""
        cell = view.spec["selection"]
        fields = {name: cell[name] for name in self.on if isinstance(cell.get(name), int)}
        self._carrying = True
        try:
            for other in self.views:
                if other is not view:
                    other.follow(fields)
        finally:
            self._carrying = False

    def __repr__(self) -> str:
        return f"Link({', '.join(type(view).__name__ for view in self.views)}, on={self.on})"


def link(*views: Linkable, on: str | Iterable[str] = ("layer", "pos", "head")) -> Link:
    """Tie views together: what is chosen in one is chosen in the others, as far as they have it.

    Within a page the views tell each other without asking Python, in whatever cells they are shown; Python keeps
    `selection` in step, so that it is the same for views in several frames, or in none. A field that a view lacks (a
    lens table has no heads) or a value that does not exist in it is left alone, and so are the others when a view lets
    its selection go. At first the others follow the first view that has something chosen.

    Args:
        views: two or more of `LensTable`, `PatchGrid`, `AttentionView`, `FeatureBrowser` and `CircuitGraph`.
        on: which of "layer", "pos" (the query's position), "head" and "key" go together.

    Returns:
        A `Link`, whose `unlink()` ends it.

    Raises:
        TypeError: something is no view that can be linked.
        ValueError: fewer than two views, one of them twice, or a field that no view has.

    >>> tied = lk.widgets.link(table, attention, on=("layer", "pos"))  # doctest: +SKIP
    >>> tied.unlink()                                                  # doctest: +SKIP
    """
    fields = (on,) if isinstance(on, str) else tuple(on)
    for view in views:
        if not isinstance(view, Linkable):
            views_there = "a LensTable, PatchGrid, AttentionView, FeatureBrowser or CircuitGraph"
            raise TypeError(f"{view!r} cannot be linked: give {views_there}.")
    if len(views) < 2 or len(set(map(id, views))) < len(views):
        raise ValueError(f"link takes two or more different views, and this is {len(set(map(id, views)))}.")
    unknown = [field for field in fields if field not in FIELDS]
    if unknown or not fields:
        what = f"{', '.join(map(repr, unknown))} is no field of a selection" if unknown else "on is empty"
        raise ValueError(f"{what}: views are linked on {', '.join(FIELDS)}.")
    return Link(views, fields)
