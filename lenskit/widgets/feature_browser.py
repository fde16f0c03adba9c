"""FeatureBrowser: thousands of features in a cell, a card for each, and what fires on a sentence as one types it."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from lenskit.models.sites import SiteUnavailable
from lenskit.widgets import feature_wire as wire
from lenskit.widgets.feature_order import QUESTION, Ordered
from lenskit.widgets.feature_spec import DEFAULT, FIELDS, FeaturePlace, checked, facts_of, place_of
from lenskit.widgets.latest import Latest
from lenskit.widgets.link import Linkable
from lenskit.widgets.page import page
from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.transcoders.index.bases import Basis
    from lenskit.transcoders.index.feature_index import FeatureIndex
    from lenskit.transcoders.live import Fired, Steered

_STATIC = Path(__file__).parent / "static"
_KINDS = ("rows", "card", "through", "on", "read", "steer")
# Rows of the static picture.
_SHOWN = 12


class FeatureBrowser(Linkable):
    """A browser of features: a list that already tells, a card for each, and with a model a sentence to try them on.

    Args:
        index: of a dictionary's features or of neurons. It is read lazily: a list of tens of thousands opens at once.
        model: its model, to type a sentence and see which features fire where, and to ablate or amplify one and watch
            the next token move beside random directions of the same size. Without one the browser needs only the index.
        prompt: the sentence to begin with.
        basis: the dictionary, where the index was made of an object and cannot load it by itself.
        feature: the feature to begin with, by default the first of the list.
        sort: "peakedness" (maximum over mean: fires rarely in earnest), "density", "max", "number"; with a model also
            "prompt" (the share of its maximum that a feature reaches on the prompt) and "token" (at the chosen token).

    Attributes:
        spec: everything that a person chose, pins and notes too, as JSON; see `widgets/WIRE.md`. Set it to restore a
            view.
        selection: the chosen feature and token as a `FeaturePlace`. Read it, set it (also to a feature or to
            `(feature, pos)`), observe it.

    Raises `ModelMismatch` where the index belongs to another model, and what `model.run` raises for the first prompt;
    later ones are answered in the view.

    >>> browser = lk.widgets.FeatureBrowser(index, model, "He had not seen her for three long")  # doctest: +SKIP
    >>> browser.selection = 1144                                                                 # doctest: +SKIP
    >>> browser.fired.of(1144)                                                                   # doctest: +SKIP
    """

    _esm = _STATIC / "feature_browser.js"
    _css = _STATIC / "feature_browser.css"
    selection_fields = FIELDS

    spec = traitlets.Dict(help="What a person chose, as JSON.").tag(sync=True)
    facts = traitlets.Dict(help="What is being looked at, as JSON.").tag(sync=True)
    selection = traitlets.Any(None, allow_none=True, help="The chosen feature and token, or None.")

    def __init__(
        self,
        index: FeatureIndex,
        model: Model | None = None,
        prompt: str = "",
        *,
        basis: Basis | None = None,
        feature: int | None = None,
        sort: str = "peakedness",
    ) -> None:
        self._reading: Latest[Fired] = Latest()
        self._changing: Latest[Steered] = Latest()
        if not isinstance(prompt, str):
            raise TypeError(f"the prompt of a FeatureBrowser is a text, not a {type(prompt).__name__}.")
        if prompt and model is None:
            raise TypeError("a prompt needs the model that reads it: FeatureBrowser(index, model, prompt).")
        self.index, self.model = index, model
        self._busy = False
        self._live: Any = None
        self._fired: tuple[str, Fired] | None = None
        self._steered: tuple[Steered, dict[str, Any]] | None = None
        self._ordered: tuple[object, Ordered] | None = None
        self._chosen: FeaturePlace | None = None
        if model is not None:
            from lenskit.transcoders.live import LiveFeatures

            self._live = LiveFeatures(index, model, basis)
            if prompt:
                self._fired = (prompt, self._now(prompt))
        spec = {**DEFAULT, "prompt": prompt, "sort": sort, "order": "up" if sort == "number" else "down"}
        if feature is None:
            first = self._list(spec).features[:1]
            feature = int(first[0]) if len(first) else 0
        place = place_of(feature, index.n_features, 0)
        super().__init__(spec={**spec, "selection": place._asdict()}, facts=facts_of(index, model))
        self.on_msg(self._receive)

    # What Python sees

    @property
    def fired(self) -> Fired:
        """What fires on the present prompt; read now if no view has asked yet. Raises `ValueError` without a prompt."""
        prompt = self.spec["prompt"]
        if self._live is None or not prompt:
            raise ValueError("nothing fires without a sentence: give a model, and set the prompt.")
        if self._fired is None or self._fired[0] != prompt:
            self._reading.stop()
            self._busy = False
            self._fired = (prompt, self._now(prompt))
        return self._fired[1]

    @property
    def prompt(self) -> str:
        """The sentence in the view. Setting it repaints the view."""
        return self.spec["prompt"]

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.spec = {**self.spec, "prompt": prompt}

    @property
    def steered(self) -> Steered | None:
        """What the chosen change does to the next token, or None where nothing is changed."""
        from lenskit.models.steps import finish

        spec = self.spec
        steer, place = spec["steer"], spec["selection"]
        if self._live is None or not spec["prompt"] or place is None or _is_neutral(steer):
            return None
        pos = place["pos"] if steer["by"] == "add" else None
        asked = {"prompt": spec["prompt"], "feature": place["feature"], **steer, "pos": pos}
        if self._steered is None or self._steered[1] != asked:
            self._changing.stop()
            self._steered = (finish(self._change(asked)), asked)
        return self._steered[0]

    def to_html(self, path: str | os.PathLike[str], *, features: int = 120) -> None:
        """Write the view as one HTML file that can be explored offline; it says how many of the features it holds.

        It holds the chosen and the pinned and noted ones, what lies near the chosen one, and the first of the list as
        it is now: rows, cards and what fires on the prompt; about 15 KB each. Typing and steering need the notebook.
        """
        html = page(
            title=f"Features · {self.facts['about']}",
            front_end=(_STATIC / "feature_browser.js").read_text(encoding="utf-8"),
            css=(_STATIC / "feature_browser.css").read_text(encoding="utf-8"),
            state={"spec": self.spec, "facts": {**self.facts, "live": False}, "links": []},
            reply=self._frozen(features),
            static=self._static(),
        )
        Path(path).write_text(html, encoding="utf-8")

    def close(self) -> None:
        """Close the view and give up what it was computing."""
        self._reading.stop()
        self._changing.stop()
        super().close()

    def __repr__(self) -> str:
        unit = self.facts["unit"]
        return f"FeatureBrowser({self.facts['features']:,} {unit}s: {self.facts['about']})"

    def _frozen(self, most: int) -> wire.Message:
        fired = (self.spec["prompt"], self.fired) if self._live is not None and self.spec["prompt"] else None
        steered = self.steered
        change = None if steered is None or self._steered is None else self._steered
        return wire.frozen_message(self.index, self._first(most), fired, change)

    def _first(self, most: int) -> list[int]:
        """The features that a bounded picture holds."""
        spec = self.spec
        first = [spec["selection"]["feature"]] if spec["selection"] is not None else []
        near = [
            other for each in first for find in (self.index.similar, self.index.coactive) for other, _ in find(each)
        ]
        listed = self._list(spec).features[:most].tolist()
        wanted = [*first, *spec["pinned"], *map(int, spec["notes"]), *near, *listed]
        return list(dict.fromkeys(int(each) for each in wanted))[: max(1, most)]

    def _static(self) -> str:
        from lenskit.widgets.feature_html import html_table

        place = self.spec["selection"]
        listed = self._list(self.spec).features[:_SHOWN].tolist()
        shown = list(dict.fromkeys([*self.spec["pinned"], *listed]))[:_SHOWN]
        return html_table(self.index, shown, None if place is None else place["feature"], self.spec)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/html": self._static()}, metadata

    # Selection and spec are one thing seen from two sides

    @traitlets.validate("spec")
    def _check_spec(self, proposal: Any) -> dict[str, Any]:
        spec = checked(proposal["value"], self.index.n_features) if proposal["value"] else {}
        if spec and self.model is None and (spec["prompt"] or spec["sort"] in ("prompt", "token")):
            raise traitlets.TraitError("without a model there is no prompt, and no order by what fires on it.")
        return spec

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> FeaturePlace | None:
        value = proposal["value"]
        length = 0 if self._fired is None else len(self._fired[1].ids)
        return None if value is None else place_of(value, self.index.n_features, length)

    @traitlets.observe("spec")
    def _spec_changed(self, change: Any) -> None:
        place = change["new"].get("selection")
        self._chosen = None if place is None else FeaturePlace(**place)
        if self.selection != self._chosen:
            self.set_trait("selection", None if self._chosen is None else self._within(self._chosen))

    @traitlets.observe("selection")
    def _selection_changed(self, change: Any) -> None:
        place = None if change["new"] is None else change["new"]._asdict()
        if self.spec and self.spec["selection"] != place:
            self.spec = {**self.spec, "selection": place}

    def _within(self, place: FeaturePlace) -> FeaturePlace:
        """The place, without a token that the prompt read last does not have."""
        length = 0 if self._fired is None else len(self._fired[1].ids)
        return place if place.pos is None or place.pos < length else place._replace(pos=None)

    def follow(self, fields: Mapping[str, int]) -> None:
        """Choose the token that a linked view chose, where the prompt has it."""
        pos, place = fields.get("pos", -1), self.spec["selection"]
        if self._fired is not None and place is not None and 0 <= pos < len(self._fired[1].ids):
            self.spec = {**self.spec, "selection": {**place, "pos": pos}}

    # The live half

    def _receive(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        """Answer a view: what is in the index at once, what the model must run beside the notebook."""
        if message.get("v") != VERSION or message.get("kind") not in _KINDS:
            raise ValueError(f"the front-end sent {message!r}; this is version {VERSION} of the wire.")
        kind, identity = message["kind"], message["id"]
        if kind in ("read", "steer"):
            (self._read if kind == "read" else self._steer)(message)
            return
        try:
            answer = self._at_once(message)
        except Exception as error:  # it is shown: in the view, as its reply
            self.send(wire.reply("error", identity, message=_in_words(error)))
            return
        self.send(*(answer or (wire.reply("superseded", identity), [])))

    def _at_once(self, asked: Mapping[str, Any]) -> wire.Message | None:
        """The answer, or None where it depends on a prompt that is not the one read last."""
        kind = asked["kind"]
        if kind == "card":
            return wire.card_message(self.index, asked["feature"], asked["id"])
        if kind == "through":
            if self.model is None:
                raise ValueError("what reaches a feature through a head is worked out by the model: give one.")
            return wire.through_message(self.index, self.model, asked)
        if asked["prompt"] is not None and (self._fired is None or self._fired[0] != asked["prompt"]):
            return None
        if kind == "on" and self._fired is not None:
            return wire.on_message(self._fired[1], self._fired[0], asked["feature"], asked["id"])
        return wire.rows_message(self.index, self._list(asked), asked)

    def _list(self, asked: Mapping[str, Any]) -> Ordered:
        """The order that is asked for, kept while it is the same: one scrolls through it."""
        fires = asked["sort"] in ("prompt", "token")
        fired = self._fired[1] if fires and self._fired is not None else None
        question = {name: asked.get(name) for name in QUESTION}
        question["prompt"] = self._fired[0] if fired is not None and self._fired is not None else None
        if fires and fired is None:
            question["sort"] = "peakedness"
        if asked["sort"] == "token" and fired is not None and question["pos"] is None:
            question["pos"] = len(fired.ids) - 1
        key = (tuple(map(str, question.values())), fired)
        if self._ordered is None or self._ordered[0] != key:
            self._ordered = (key, Ordered(self.index, question, fired))
        return self._ordered[1]

    def _read(self, asked: Mapping[str, Any]) -> None:
        identity, prompt = asked["id"], asked["prompt"]
        begun = time.perf_counter()
        self._changing.stop()  # it is of another prompt
        self._busy = True

        def done(fired: Fired) -> None:
            self._busy, self._fired = False, (prompt, fired)
            ms = round((time.perf_counter() - begun) * 1000, 1)
            self.send(*wire.fired_message(self.index, fired, prompt, asked["feature"], identity, ms))

        self._reading.start(self._firing(prompt), done, self._failed(identity), *self._told(identity))

    def _firing(self, prompt: str) -> Generator[float, None, Fired]:
        if self._live is None:
            raise ValueError("without a model nothing can be read: FeatureBrowser(index, model).")
        return (yield from self._live.read(prompt))

    def _steer(self, asked: Mapping[str, Any]) -> None:
        identity = asked["id"]
        if self._busy:  # the view asks again
            self.send(wire.reply("superseded", identity))
            return
        question = {name: asked[name] for name in ("prompt", "feature", "by", "amount", "pos")}

        def done(steered: Steered) -> None:
            self._steered = (steered, question)
            self.send(*wire.steered_message(steered, asked, final=True))

        self._changing.start(self._change(asked, tell=True), done, self._failed(identity), *self._told(identity))

    def _change(self, asked: Mapping[str, Any], *, tell: bool = False) -> Generator[float, None, Steered]:
        """A change in steps; what is known so far is told as it comes."""
        from lenskit.transcoders.live import Steered

        if self._live is None:
            raise ValueError("without a model nothing can be changed: FeatureBrowser(index, model).")
        steps = self._live.steer(asked["prompt"], asked["feature"], asked["by"], asked["amount"], asked["pos"])
        while True:
            try:
                part = next(steps)
            except StopIteration as end:
                return end.value
            if isinstance(part, Steered):
                if tell:
                    self.send(*wire.steered_message(part, asked, final=False))
            else:
                yield part

    def _failed(self, identity: str) -> Any:
        def failed(error: Exception) -> None:
            self._busy = False
            self.send(wire.reply("error", identity, message=_in_words(error)))

        return failed

    def _told(self, identity: str) -> tuple[Any, Any]:
        """How a view hears of the share done, and that something newer came."""

        def progress(share: float) -> None:
            self.send(wire.reply("progress", identity, done=round(100 * share), total=100))

        def superseded() -> None:
            self.send(wire.reply("superseded", identity))

        return progress, superseded

    def _now(self, prompt: str) -> Fired:
        from lenskit.models.steps import finish

        return finish(self._live.read(prompt))


def _is_neutral(steer: Mapping[str, Any]) -> bool:
    return steer["amount"] == (1 if steer["by"] == "scale" else 0)


def _in_words(error: Exception) -> str:
    """An error as the view shows it: lenskit's own say what to do, others are named."""
    text = str(error)
    return (
        text
        if isinstance(error, (ValueError, IndexError, SiteUnavailable)) and text
        else f"{type(error).__name__}: {text}"
    )
