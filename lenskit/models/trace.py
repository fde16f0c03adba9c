"""Trace: a forward that stands still where you look."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lenskit.models.finding.order import Station
from lenskit.models.run import shape_of
from lenskit.models.running.passage import Passage
from lenskit.models.running.plan import Plan
from lenskit.models.running.shapes import Shapes, shapes_of
from lenskit.models.sites import LAYERED, Site, SiteLike, SiteUnavailable, head_of

if TYPE_CHECKING:
    from lenskit.models.batch import Batch
    from lenskit.models.model import Model


class Trace:
    """A forward that stands still where you look: what it gives is what the model has there, at this very moment.

    The forward runs up to a site when you ask for it. Reading, writing in place and assigning all take effect, with
    ordinary Python in between; sites must be asked for in the order in which the forward comes by. At the end of the
    `with` block it runs to its end. Several traces may stand side by side.

    Writing in place takes effect until the forward goes on.

    Attributes:
        tokens, mask: (batch, pos), what was read.
        logits: (batch, pos, vocab). Asking for them lets the forward run to its end.

    >>> with model.trace("The capital of France is") as t:   # doctest: +SKIP
    ...     h = t["resid_post", 5]                           # the forward ran up to here
    ...     if h.norm() > 100:
    ...         t["resid_post", 5] = h / 2
    >>> t.logits                                             # doctest: +SKIP

    Across cells, without a block: `t = model.trace(...).start()`, and `t.finish()` or `t.stop()` at the end.
    """

    def __init__(
        self, model: Model, batch: Batch, plan: Plan, grads: bool, generate: Callable[..., Any] | None = None
    ) -> None:
        if grads and torch.is_inference_mode_enabled():
            raise ValueError("in torch.inference_mode no gradients are recorded: leave it, or trace with grads=False.")
        self.tokens, self.mask = batch.tokens, batch.mask
        self._model, self._batch = model, batch
        self._known: dict[SiteLike, tuple[Site, Station]] = model.anatomy.order.asked
        self._forward = Passage(model, batch, plan, grads, generate)
        self._generates = generate is not None

    # Beginning and ending

    def start(self) -> Trace:
        """Make it ready to be looked into, across cells; it runs when you first ask for a site. Gives itself."""
        self._forward.check_open()
        return self

    def finish(self) -> Trace:
        """Let the forward run to its end. Raises what it raises, and `NothingEdited` for an edit that did nothing."""
        self._forward.finish()
        return self

    def stop(self) -> None:
        """End the forward here: what comes after is not computed, and there are no logits."""
        self._forward.check_thread()
        self._forward.unwind()

    def __enter__(self) -> Trace:
        if self._forward.ending is not None:
            self._forward.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._forward.unwind()
        else:
            self._forward.finish()

    def __del__(self) -> None:
        forward = getattr(self, "_forward", None)
        if forward is not None and forward.ending is None and not sys.is_finalizing():
            forward.unwind()

    # Looking and changing

    def __getitem__(self, what: SiteLike) -> Tensor:
        """The live tensor at a site, in the shapes of `lk.Site`; of one head, a view of that head."""
        site, station = self._known.get(what) or self._find(what)
        live = self._forward.go_to(station)
        return live if site.head is None else head_of(live, site)

    def __setitem__(self, what: SiteLike, value: Tensor | float) -> None:
        site, station = self._known.get(what) or self._find(what)
        self._forward.go_to(station)
        self._forward.put(site, value, sys._getframe(1))

    @property
    def logits(self) -> Tensor:
        """(batch, pos, vocab) of the whole forward; while generating, of the last step."""
        self._forward.finish()
        if self._forward.logits is None:
            raise ValueError(f"this trace has no logits: it is {self._forward.ending}.")
        return self._forward.logits

    @property
    def generated(self) -> Any:
        """The `Generation` of a trace that generates."""
        if not self._generates:
            raise ValueError("this trace generates nothing: model.trace(prompt, generate=n) does.")
        self._forward.finish()
        if self._forward.generation is None:
            raise ValueError(f"this trace has generated nothing whole: it is {self._forward.ending}.")
        return self._forward.generation

    @property
    def steps(self) -> Iterator[int]:
        """The steps of a generation, one after another: 0 reads the prompt, each later one the token before.

        >>> with model.trace("I think", generate=5) as t:  # doctest: +SKIP
        ...     for step in t.steps:
        ...         t["resid_post", 6] += v
        """
        if not self._generates:
            raise ValueError("this trace has one step: model.trace(prompt, generate=n) has several.")
        while self._forward.next_step():
            yield self._forward.step

    @property
    def shapes(self) -> Shapes:
        """The shapes of every site for this prompt, without running the model: `t.shapes["z", 5]`."""
        return shapes_of(self._model, self._batch)

    def _find(self, what: SiteLike) -> tuple[Site, Station]:
        """The site that is meant, and where the forward stands still for it."""
        site, depth = Site.parse(what), self._model.anatomy.depth
        if site.name in LAYERED and site.layer is None:
            raise TypeError(f"t[{site.name!r}] has several layers: say which, t[{site.name!r}, 5].")
        if site.layer is not None and depth:  # a plain module has none, and says so
            if not -depth <= site.layer < depth:
                raise SiteUnavailable(f"{site} does not exist: this model has layers 0 to {depth - 1}.")
            site = Site(site.name, site.layer % depth, site.head)
        self._known[what] = found = site, self._model.anatomy.order.station(Site(site.name, site.layer))
        return found

    def __repr__(self) -> str:
        return f"Trace({shape_of(self.tokens)}, {self._forward.state}, {self._model.name})"
