"""Passage: one forward that is led from site to site, and stands still at each."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lenskit.models.attention import SIDES, ready, shown
from lenskit.models.finding.order import Station, Time
from lenskit.models.running.attention_written import RECIPES
from lenskit.models.running.places import Moment
from lenskit.models.running.plan import Plan
from lenskit.models.running.standing import Standing
from lenskit.models.sites import Site, SiteUnavailable, head_of
from lenskit.models.taps import Hooks, Point, Taker, first_tensor, tapped

if TYPE_CHECKING:
    from lenskit.models.batch import Batch
    from lenskit.models.model import Model

_START: Time = (-1.0, 0)


class Passage:
    """A forward that runs up to a site when it is told to.

    It knows nothing of the `Trace` that holds it, so that dropping the trace ends it: a greenlet's own frames are out
    of the garbage collector's sight, and nothing in them may lead back to what holds it.

    Attributes:
        here, live: the site where it stands, and the tensor there that whoever looks may change.
        step: in which step of a generation it is; -1 before the first, and 0 where nothing is generated.
        ending: how it ended, in words; None while it goes on.
    """

    def __init__(
        self, model: Model, batch: Batch, plan: Plan, grads: bool, generate: Callable[..., Any] | None
    ) -> None:
        self.anatomy, self.plan, self.grads = model.anatomy, plan, grads
        self.step, self.generation, self.logits = -1 if generate else 0, None, None
        self.here: Site | None = None
        self.live: Tensor | None = None
        self.ending: str | None = None
        self._wanted: Station | None = None
        self._point: Point | None = None
        self._now = _START
        self._awake, self._heard = set[nn.Module](), set[Point]()
        self._sides = dict[nn.Module, dict[str, Taker]]()
        self._readied: ExitStack | None = None
        self._changed_by: tuple[Site, str, int] | None = None

        takers = plan.takers
        self._has_edits_to_put_on = bool(takers)

        def forward() -> None:
            if generate is None:
                self.logits = first_tensor(model.call(batch))
            else:
                self.generation = generate(self._between_steps)
                self.logits = self.generation.last_logits

        def compute() -> None:
            torch._C._set_grad_enabled(grads)  # on this side only
            try:
                if takers:
                    with tapped(takers):
                        self._standing.pause()  # so that edits are heard before what the trace listens to
                        forward()
                else:
                    forward()
            finally:
                self._fall_silent()
            plan.finished()

        self._standing = Standing(compute)
        self._hooks = Hooks(self._standing.greenlet, self.anatomy.doors)

    # Told from outside

    @property
    def state(self) -> str:
        """In words, where it is."""
        step = f" in step {self.step}" if self.step > 0 else ""
        return self.ending or (
            "not begun" if self.here is None and not step else f"at {self.here or 'its beginning'}{step}"
        )

    def check_open(self) -> None:
        """Raise `ValueError` if it has ended."""
        if self.ending is not None:
            raise ValueError(f"this trace is {self.ending}: begin a new one with model.trace(...).")

    def go_to(self, station: Station) -> Tensor:
        """Run up to a site, and give the live tensor there. Raises `SitePassed`, and what the forward raises."""
        site = station.site
        if self.here is not site:
            if self.ending is not None:
                self.check_open()
            if self.step < 0:
                self.next_step()
            step, times = self.step, station.times
            if station.spot.point is self._point:  # another name of the same place
                self._run_to(station)
            elif times and times[-1] <= self._now:
                raise self.anatomy.order.passed(site, self.state.removeprefix("at "))
            else:
                self._run_to(station)
                while times and times[0] <= self._now:  # a module that is called more than once
                    times = times[1:]
                self._now = times[0] if times else self._now
            if self.here is not site:
                where = "come to its end" if self.ending else f"come to step {self.step}"
                raise SiteUnavailable(f"{str(site)!r} was not reached in step {step}: the forward has {where}.")
        assert self.live is not None
        return self.live

    def put(self, site: Site, value: Tensor | float, frame: FrameType) -> None:
        """Let the forward go on with a value at the site where it stands. Raises `ValueError` for one that misfits."""
        assert self.live is not None
        # What is made in inference mode would be of no use to a forward that is not in it.
        with torch.inference_mode(torch.is_inference_mode_enabled() and self.live.is_inference()):
            part = head_of(self.live, site)
            new = torch.as_tensor(value, device=part.device)
            if not torch.can_cast(new.dtype, part.dtype):
                raise ValueError(f"{site} holds {part.dtype}, and the value is of {new.dtype}.")
            try:
                new = new.to(part.dtype).expand(part.shape)
            except RuntimeError:
                raise ValueError(f"{site} has shape {tuple(part.shape)}, and the value {tuple(new.shape)}.") from None
            # A copy: else the model might write into a tensor that belongs to another forward, or to the user.
            if site.head is None:
                self.live = new.clone(memory_format=torch.contiguous_format)
            else:
                if self.grads:  # what was read may be part of a graph
                    self.live = self.live.clone()
                head_of(self.live, site).copy_(new)
        self._changed_by = site, frame.f_code.co_filename, frame.f_lineno

    def next_step(self) -> bool:
        """Run to the beginning of the next step of a generation; False where there is none."""
        step = self.step
        if self.ending is None:
            self._run_to(None)
        return self.step > step

    def finish(self) -> None:
        """Run to the end."""
        while self.ending is None:
            self._run_to(None)

    def unwind(self) -> None:
        """Give up. In another thread than its own, nothing acts any more, and the rest is put off."""
        if self.ending is None:
            self.ending = "stopped"
            self.here = self.live = self._wanted = None
            if get_ident() != self._standing.thread:
                self._fall_silent()
            self._standing.unwind()

    def check_thread(self) -> None:
        """Raise `RuntimeError` in another thread than its own."""
        self._standing.check_thread()

    # How it gets there

    def _run_to(self, station: Station | None) -> None:
        try:
            if self._has_edits_to_put_on:
                self._has_edits_to_put_on = False
                self._standing.resume()
            self._wanted = station
            if station is not None and station.spot.point not in self._heard:
                self._listen(station)
            if station is not None and station.spot.point.side in SIDES:
                self._run_into_attention(station.spot.point)
            else:
                self._standing.resume()
        except BaseException as error:
            if self._standing.over:
                self.ending = "ended by an error"
                self._note(error)
            raise
        if self._standing.over:
            self.ending = "finished"

    def _listen(self, station: Station) -> None:
        """Hook the point; and see to it that the modules around it, once running, look for hooks at their end."""
        module, side = point = station.spot.point
        self._heard.add(point)
        for outer in station.around:
            if outer not in self._awake:
                self._awake.add(outer)
                self._hooks.awake(outer)
                if outer in RECIPES:
                    self._readied = self._readied or ExitStack()
                    self._readied.enter_context(ready([outer], self._standing.greenlet))
        if side == "input":
            self._hooks.on_input(module, partial(self._arrive, point))
        elif side == "output":
            self._hooks.on_output(module, partial(self._arrive, point))

    def _fall_silent(self) -> None:
        """Take off all that was put on the model."""
        self._hooks.remove()
        if self._readied is not None:
            self._readied.close()

    def _run_into_attention(self, point: Point) -> None:
        # The same dictionary for each attention module: a forward that stands within one looks into it again.
        sides = self._sides.setdefault(point.module, {})
        sides[point.side] = partial(self._arrive, point)
        # Entered here and left when the tensor has come: nothing of the trace stays with the model.
        with shown({point.module: sides}, self._standing.greenlet):
            self._standing.resume()

    def _arrive(self, point: Point, tensor: Tensor) -> Tensor | None:
        """In the forward: stand still for every site that is wanted at this point, one after another."""
        changed = None
        while (station := self._wanted) is not None and station.spot.point is point:
            self._wanted, self._point = None, point
            new = self._look(station, tensor)
            if new is not None:
                tensor = changed = new
        if self._point is point:
            self._point = None
            if point.side in SIDES:
                self._sides[point.module].pop(point.side)
        return changed

    def _look(self, station: Station, tensor: Tensor) -> Tensor | None:
        """Stand still, and give what was made of the tensor, or None where nothing was.

        What is shown of the residual stream is the model's own tensor. All else is a copy: others may read the tensor
        as well, and the model may write into it later.
        """
        if self.grads and tensor.is_floating_point():
            # Where nothing before needs a gradient (frozen weights), the graph begins here.
            raw = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
            seen = self._read(station, raw).clone()
        elif station.stream:
            seen = tensor
        else:
            seen = self._read(station, tensor).clone()
        self.here, self.live = station.site, seen
        outside = self._standing.greenlet.parent
        assert outside is not None
        outside.switch()  # `pause`, without a call of its own: this is what looking consists of
        live, self.live, self.here = self.live, None, None
        assert live is not None
        if live is tensor:
            return None
        # With gradients always: what was shown is what they flow through.
        if not self.grads and torch.equal(live, self._read(station, tensor)):
            return None
        if self.plan.generating and station.spot.point.side in ("k", "v"):
            tensor.copy_(live)  # so that the cache holds for later steps what attention sees now
            return None
        return station.spot.written(tensor, live)

    def _read(self, station: Station, tensor: Tensor) -> Tensor:
        rows = self.plan.moment.rows
        return for_each_row(station.site.name, station.spot.read(tensor, rows), rows)

    def _between_steps(self, moment: Moment) -> None:
        """Called by the generation before each step: stand still at its beginning."""
        self.step, self._now = moment.step, _START
        self._standing.pause()

    def _note(self, error: BaseException) -> None:
        """Say in the error where the user's last assignment was: it may have come up much later."""
        if self._changed_by is not None:
            site, file, line = self._changed_by
            source = linecache.getline(file, line).strip()
            error.add_note(
                f'This forward went on with what was assigned to {site}\n  File "{file}", line {line}\n    {source}'
            )


def for_each_row(name: str, tensor: Tensor, rows: int) -> Tensor:
    """Positions that a model looked up once for all rows, shown once for each; any other tensor as it is."""
    return tensor.expand(rows, *tensor.shape[1:]) if name == "pos_embed" and tensor.dim() > 2 else tensor
