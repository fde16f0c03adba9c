"""PatchGrid: two prompts, and which activation carries the answer from one to the other, live."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import traitlets

from lenskit.models.sites import HEADED, SiteUnavailable
from lenskit.widgets.latest import Latest
from lenskit.widgets.link import Linkable
from lenskit.widgets.page import page
from lenskit.widgets.patch_metric import as_written, metric_by_default, metric_of
from lenskit.widgets.patch_spec import FIELDS, checked, facts_of
from lenskit.widgets.patch_wire import (
    QUESTION,
    Message,
    Pace,
    SweepSender,
    known_patch,
    patched_message,
    region_of,
    reply,
)
from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.models.run import Run
    from lenskit.patching.live import Asked, Begun, Patched
    from lenskit.patching.metrics import Metric
    from lenskit.patching.swept import Sweep

_STATIC = Path(__file__).parent / "static"


class PatchedCell(NamedTuple):
    """The chosen cell: a position of a layer, or a head of it.

    >>> PatchedCell("z", 16, head=3).layer
    16
    """

    site: str
    layer: int
    pos: int | None = None
    head: int | None = None


class PatchGrid(Linkable):
    """Activation patching, live: edit either prompt, choose what is measured, click a cell and see what it changes.

    The gradient's estimate is painted first, and the exact cells take its place as they come.

    Args:
        model: the model that answers.
        clean, corrupt: the two prompts to begin with, of one number of tokens.
        site: what is patched, in every layer: at each position, or head by head where the site has heads.
        metric: `lk.logit_diff(" Mary", " John")`, `prob`, `log_prob`, `rank`, `kl`, or a function of a `Run`. By
            default the logit difference of what the two prompts predict, or the probability where both predict one.
        direction: "denoise" puts the clean prompt's activations into the corrupt one, "noise" the other way round.

    Attributes:
        spec: everything that a person chose, as JSON; see `widgets/WIRE.md`. Set it to restore a view.
        selection: the chosen cell as a `PatchedCell`, or None. Read it, set it (also to `(layer, position)`, or over
            heads `(layer, head)`), observe it.

    Raises what `lk.patching.sweep` raises for the first prompts; later ones are answered in the view.

    >>> grid = lk.widgets.PatchGrid(model, clean, corrupt, metric=lk.logit_diff(" Mary", " John"))  # doctest: +SKIP
    >>> grid.selection = (21, 9)                                                                    # doctest: +SKIP
    >>> grid.sweep.normalised[grid.selection.layer]                                                 # doctest: +SKIP
    """

    _esm = _STATIC / "patch_grid.js"
    _css = _STATIC / "patch_grid.css"
    selection_fields = FIELDS

    spec = traitlets.Dict(help="What a person chose, as JSON.").tag(sync=True)
    facts = traitlets.Dict(help="What is being looked at, as JSON.").tag(sync=True)
    selection = traitlets.Any(None, allow_none=True, help="The chosen cell, or None.")

    def __init__(
        self,
        model: Model,
        clean: str,
        corrupt: str,
        site: str = "resid_pre",
        metric: Metric | Callable[[Run], Any] | None = None,
        *,
        direction: str = "denoise",
    ) -> None:
        from lenskit.patching.live import LivePatching
        from lenskit.patching.metrics import as_metric

        self._sweeps: Latest[Message] = Latest()
        self._patches: Latest[Patched] = Latest()
        for name, prompt in (("clean", clean), ("corrupt", corrupt)):
            if not isinstance(prompt, str):
                raise TypeError(f"the {name} prompt of a PatchGrid is a text, not a {type(prompt).__name__}.")
        self.model = model
        self._live = LivePatching(model)
        self._patching, self._newest_patch, self._stopped = False, "", ""
        self._chosen: PatchedCell | None = None
        self._given = as_metric(metric) if metric is not None else metric_by_default(model, clean, corrupt)
        name, answer, against = as_written(model, self._given)
        spec = {
            "v": VERSION,
            "clean": clean,
            "corrupt": corrupt,
            "site": site,
            "direction": direction,
            "metric": name,
            "answer": answer,
            "against": against,
            "selection": None,
            "to": None,
            "tried": [],
            "scale": None,
        }
        self._live.check(self._asked(spec))
        super().__init__(spec=spec, facts=facts_of(model, site))
        self.on_msg(self._receive)

    # What Python sees

    @property
    def sweep(self) -> Sweep:
        """The exact sweep of the present prompts, site and metric; what is left of it is computed now."""
        from lenskit.models.steps import finish

        asked = self._asked(self.spec)
        self._patches.finish()
        if self._live.holds(asked):
            self._sweeps.finish()  # a view that waits for this very sweep must still get it
        else:
            self._sweeps.stop()
        return finish(self._live.sweep(asked))

    @property
    def metric(self) -> Metric:
        """What is measured, as the view has it now."""
        return self._metric(self.spec)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the grid as one HTML file that can be explored offline: all but editing and patching works in it.

        The whole sweep is computed first. The file holds the front-end and the numbers, about 100 KB; it loads nothing.
        """
        from lenskit.models.steps import finish

        sweep, spec = self.sweep, self.spec
        begun = finish(self._live.begun(self._asked(spec)))
        html = page(
            title=f"Patching · {self.facts['model']}",
            front_end=(_STATIC / "patch_grid.js").read_text(encoding="utf-8"),
            css=(_STATIC / "patch_grid.css").read_text(encoding="utf-8"),
            state={"spec": spec, "facts": {**self.facts, "live": False, "patched": self._known()}, "links": []},
            reply=SweepSender(self.model, spec, "frozen:0").swept(begun, sweep, stopped=False, ms=0.0),
            static=sweep._repr_html_(),
        )
        Path(path).write_text(html, encoding="utf-8")

    def _known(self) -> list[dict[str, Any]]:
        """What is chosen and what was tried of the present question, with its result: for a page without a kernel."""
        from lenskit.models.steps import finish

        asked, spec = self._asked(self.spec), self.spec
        tried = [trial for trial in spec["tried"] if all(trial[key] == spec[key] for key in QUESTION)]
        known = {}
        for chosen in [spec, *tried]:
            if chosen["selection"] is not None:
                layers, columns = region_of(chosen["selection"], chosen["to"])
                patched = finish(self._live.patch(asked, layers, columns))
                known[tuple(layers), tuple(columns)] = known_patch(self.model, layers, columns, patched)
        return list(known.values())

    def close(self) -> None:
        """Close the view and give up what it was computing."""
        self._sweeps.stop()
        self._patches.stop()
        super().close()

    def __repr__(self) -> str:
        spec = self.spec
        prompts = ", ".join(repr(_short(spec[name])) for name in ("clean", "corrupt"))
        what = f"{spec['direction']} {spec['site']}, {self._metric(spec)!r}"
        return f"PatchGrid({prompts}, {what}, {self.facts['layers']} layers of {self.facts['model']})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        from lenskit.models.steps import finish

        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        # What the view paints first, for readers without a kernel; the exact cells come when it is looked at.
        static = finish(self._live.estimate(self._asked(self.spec))).sweep._repr_html_()
        return {**(data or {}), "text/html": static}, metadata

    # Selection and spec are one thing seen from two sides

    @traitlets.validate("spec")
    def _check_spec(self, proposal: Any) -> dict[str, Any]:
        return checked(proposal["value"])

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> PatchedCell | None:
        value, site = proposal["value"], self.spec["site"]
        if value is None or value == self._chosen:
            return value  # what a spec says is checked by the view, and costs no run of the prompts
        headed = site in HEADED
        if isinstance(value, Mapping):
            value = (value.get("layer"), value.get("head" if headed else "pos"))
        elif isinstance(value, PatchedCell):
            if value.site != site:
                raise traitlets.TraitError(f"{value} is of another site: this grid patches {site!r}.")
            value = (value.layer, value.head if headed else value.pos)
        if not (isinstance(value, Sequence) and len(value) == 2 and all(isinstance(i, int) for i in value)):
            column = "head" if headed else "position"
            raise traitlets.TraitError(f"a selection is None, (layer, {column}) or a PatchedCell, not {value!r}.")
        layers, columns = self._axes()
        layer, column = int(value[0]), int(value[1])  # pyright: ignore[reportArgumentType] -- just checked
        layer = layer + self.model.n_layers if layer < 0 else layer
        column = column + len(columns) if column < 0 else column
        if layer not in layers or column not in columns:
            raise traitlets.TraitError(
                f"({value[0]}, {value[1]}) is not in the grid: it has layers {layers[0]} to {layers[-1]} and "
                f"{'heads' if headed else 'positions'} {columns[0]} to {columns[-1]}."
            )
        return PatchedCell(site, layer, head=column) if headed else PatchedCell(site, layer, pos=column)

    def _axes(self) -> tuple[Sequence[int], Sequence[int]]:
        """The layers, and the positions or heads, of the present grid."""
        from lenskit.models.steps import finish

        axes = finish(self._live.begun(self._asked(self.spec))).sweep.axes
        return axes[0].ticks, axes[1].ticks

    @traitlets.observe("spec")
    def _spec_changed(self, change: Any) -> None:
        cell = change["new"].get("selection")
        chosen = None if cell is None else PatchedCell(change["new"]["site"], **cell)
        self._chosen = chosen
        if self.selection != chosen:
            self.selection = chosen

    @traitlets.observe("selection")
    def _selection_changed(self, change: Any) -> None:
        chosen = change["new"]
        cell = None if chosen is None else {name: getattr(chosen, name) for name in FIELDS}
        if self.spec and self.spec["selection"] != cell:
            self.spec = {**self.spec, "selection": cell, "to": None}

    def follow(self, fields: Mapping[str, int]) -> None:
        """Choose the layer, and the position or head, that a linked view chose, where they exist here."""
        headed = self.spec["site"] in HEADED
        layers, columns = self._axes()
        name = "head" if headed else "pos"
        taken = {}
        if fields.get("layer") in layers:
            taken["layer"] = fields["layer"]
        if fields.get(name) in columns:
            taken[name] = fields[name]
        cell = self.spec["selection"] or {"layer": layers[-1], "pos": None, "head": None, name: columns[-1]}
        if taken:
            self.spec = {**self.spec, "selection": {**cell, **taken}, "to": None}

    # What is asked

    def _asked(self, spec: Mapping[str, Any]) -> Asked:
        from lenskit.patching.live import Asked

        return Asked(spec["clean"], spec["corrupt"], spec["site"], spec["direction"], self._metric(spec))

    def _metric(self, spec: Mapping[str, Any]) -> Metric:
        return metric_of(self.model, spec, self._given)

    # The live half

    def _receive(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        """Answer a view. The work goes on beside the notebook, so that a newer question can overtake it."""
        kinds = {"sweep": self._start_sweep, "patch": self._start_patch, "stop": self._stop}
        if message.get("v") != VERSION or message.get("kind") not in kinds:
            raise ValueError(f"the front-end sent {message!r}; this is version {VERSION} of the wire.")
        kinds[message["kind"]](message)

    def _start_sweep(self, message: dict[str, Any]) -> None:
        identity = message["id"]
        self._patches.stop()  # they belong to what is no longer asked for

        def done(swept: Message) -> None:
            self.send(*swept)

        def failed(error: Exception) -> None:
            self.send(reply("error", identity, message=_in_words(error)))

        def progress(share: float) -> None:
            pass  # the cells themselves tell how far it is

        def superseded() -> None:
            self.send(reply("superseded", identity))

        self._sweeps.start(self._sweeping(message), done, failed, progress, superseded)

    def _sweeping(self, message: dict[str, Any]) -> Generator[float, None, Message]:
        """The sweep as the views see it: what is known first, cells as they come, and at the end the whole."""
        from lenskit.patching.live import Begun

        started, identity = time.perf_counter(), message["id"]
        sender = SweepSender(self.model, message, identity)
        begun: Begun | None = None
        pace: Pace | None = None
        sweep: Sweep | None = None
        stopped = False
        with closing(self._live.sweep(self._asked(message))) as parts:
            while True:
                try:
                    part = next(parts)
                except StopIteration as end:
                    sweep = end.value
                    break
                if isinstance(part, Begun):
                    begun = part
                    self.send(*sender.pair(begun))
                elif part is not None:
                    assert begun is not None
                    pace = pace or Pace(begun.seconds, part)
                    cells = sender.cells(part, pace.left(part))
                    sweep = part
                    if cells is not None:
                        self.send(*cells)
                if self._stopped == identity and pace is not None:
                    stopped = True
                    break
                yield 0.0
                while self._patching:  # a click is answered before the sweep goes on
                    yield 0.0
        assert begun is not None
        assert sweep is not None
        ms = (time.perf_counter() - started) * 1000
        return sender.swept(begun, sweep, stopped=stopped, ms=ms)

    def _stop(self, message: dict[str, Any]) -> None:
        """Stop the sweep that has this id at its next breath, if it is under way: it is answered as it stands."""
        self._stopped = message["id"]

    def _start_patch(self, message: dict[str, Any]) -> None:
        identity = message["id"]

        def ended() -> None:
            self._patching = False

        def done(patched: Patched) -> None:
            ended()
            self.send(*patched_message(self.model, message, patched))

        def failed(error: Exception) -> None:
            ended()
            self.send(reply("error", identity, message=_in_words(error)))

        def superseded() -> None:
            if self._newest_patch == identity:
                ended()
            self.send(reply("superseded", identity))

        def steps() -> Generator[float, None, Patched]:
            patching = self._live.patch(self._asked(message), message["layers"], message["columns"])
            with closing(patching):
                while True:
                    try:
                        next(patching)
                    except StopIteration as end:
                        return end.value
                    yield 0.0

        self._newest_patch = identity
        self._patching = True
        self._patches.start(steps(), done, failed, lambda _: None, superseded)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _in_words(error: Exception) -> str:
    """An error as the view shows it: lenskit's own say what to do, others are named."""
    text = str(error)
    return (
        text
        if isinstance(error, (ValueError, IndexError, SiteUnavailable)) and text
        else f"{type(error).__name__}: {text}"
    )
