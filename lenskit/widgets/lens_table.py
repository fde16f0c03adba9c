"""LensTable: the prompt, and under it what each layer would say next, live."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from lenskit.widgets.latest import Latest
from lenskit.widgets.lens_acting import LensActing
from lenskit.widgets.lens_messages import STATIC, facts_of, in_words, panel, reply, senders_for, table_message
from lenskit.widgets.lens_rows import Selection, chosen, question_of, rows_of_spec, with_lens
from lenskit.widgets.lens_spec import DEFAULTS, checked
from lenskit.widgets.link import Linkable
from lenskit.widgets.named_lenses import name_of, named, of_model
from lenskit.widgets.page import page
from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.lenses.between import Comparison
    from lenskit.lenses.lens import Lens
    from lenskit.lenses.live_comparison import Answer, Question
    from lenskit.lenses.trajectory import Trajectory
    from lenskit.models.model import Model


class LensTable(Linkable):
    """A live lens table: type in its prompt and it repaints, click a cell and Python knows.

    With several lenses it is switched from one to the other in place. A second lens, or a second prompt, is shown
    beside the first or as the difference of the two.

    Args:
        model: the model that answers.
        prompt: the prompt to begin with.
        lens: the lens to read with, by default the logit lens; or several, as a list or by the names that the view
            shows, of which the first is shown at first.
        second: a lens, or the name of one, that reads the same prompt beside the first.
        other: a prompt that the same lens reads beside the first; both need as many tokens.
        target: a text that is one token, or a token id, whose rank and probability are followed. By default, at each
            position, the token that the model itself finally predicts there.
        versus: a second target, for the difference of the two log-probabilities.
        statistic: what colours the cells: `probability` of the top token, `entropy`, `kl` from the final prediction,
            `rank`, `target_probability` or `cross_entropy` of the target; with `versus` also `log_prob_difference` and
            `log_prob_difference_change`, its change from the layer before.
        difference: what colours a difference: `js`, `kl`, `total_variation` or `largest_change` between the two
            predictions; or the second's `target_probability`, `target_log_prob`, `entropy` or `rank` less the first's.
        view: `one`, `side` or `difference`; by default `side` where there is something beside the first.
        order: `last-first` (the last layer on top) or `first-first`.
        top_k: how many tokens a cell shows when it is looked at.

    A row is what its lens reads: after a layer (`resid_post`, the logit lens) or before it (`resid_pre`, a tuned lens).
    In a comparison of the two both read `resid_pre`, so that a row holds the same states on either side. A lens that
    lacks layers has rows for those it has. The last row is the model's own prediction in all of them.

    Drag over cells to count what is read there; `R` follows a token's rank over the whole grid; `G` lets the model
    write on, column by column; *Steer*, *Swap with...* and *Ablate* act along a token's direction in the lens, and show
    what the model then writes beside what it writes by itself and with a random direction of the same length.

    Attributes:
        spec: everything that a person chose, as JSON; see `widgets/WIRE.md`. Set it to restore a view.
        selection: the pinned cell as a `Selection`, or None. Read it, set it (also to `(row, pos)`), observe it.

    Raises what `model.run` raises for the first prompt, and `ValueError` for lenses of another model or of one name,
    and for two prompts that do not line up; later ones are answered in the view.

    >>> table = lk.widgets.LensTable(model, "The capital of France is")  # doctest: +SKIP
    >>> table.selection = (27, -1)                                       # doctest: +SKIP
    >>> table.trajectory.entropy[table.selection.layer]                  # doctest: +SKIP
    >>> lk.widgets.LensTable(model, "The keys to the", lens=lk.LogitLens(model), second=tuned)  # doctest: +SKIP
    """

    _esm = STATIC / "lens_table.js"
    _css = STATIC / "lens_table.css"
    selection_fields = ("layer", "pos")

    spec = traitlets.Dict(help="What a person chose, as JSON.").tag(sync=True)
    facts = traitlets.Dict(help="What is being looked at, as JSON.").tag(sync=True)
    selection = traitlets.Any(None, allow_none=True, help="The pinned cell, or None.")

    def __init__(
        self,
        model: Model,
        prompt: str,
        *,
        lens: Lens | Sequence[Lens] | Mapping[str, Lens] | None = None,
        second: Lens | str | None = None,
        other: str | None = None,
        target: str | int | None = None,
        versus: str | int | None = None,
        statistic: str = "probability",
        difference: str = "js",
        view: str | None = None,
        order: str = "last-first",
        top_k: int = 10,
    ) -> None:
        from lenskit.lenses.live_comparison import LiveComparison

        self._latest: Latest[Answer] = Latest()
        self._acting = LensActing(lambda *message: self.send(*message))
        if not isinstance(prompt, str):
            raise TypeError(f"the prompt of a LensTable is a text, not a {type(prompt).__name__}.")
        self.lenses = named(model, lens)
        beside = second
        if second is not None and not isinstance(second, str):
            beside = name_of(second, self.lenses)
            self.lenses.setdefault(beside, of_model(model, second))
        ids = [None if token is None else model.text.token(token) for token in (target, versus)]
        given = {
            "prompt": prompt,
            "lens": next(iter(self.lenses)),
            "second": beside,
            "other": other,
            "target": ids[0],
            "versus": ids[1],
            "statistic": statistic,
            "difference": difference,
            "view": view or ("one" if second is None and other is None else "side"),
            "order": order,
        }
        spec = checked(given, self.lenses)
        self._live = LiveComparison(self.lenses, top_k)
        self._senders = senders_for(model)
        self._read = self._asked = question_of(spec)
        self._answer = self._live.now(self._read)
        super().__init__(spec=spec, facts=facts_of(model, self.lenses))
        self.on_msg(self._receive)

    # What Python sees

    @property
    def lens(self) -> Lens:
        """The lens that reads now. Set it, also by its name, to one of `lenses`."""
        return self.lenses[self.spec["lens"]]

    @lens.setter
    def lens(self, lens: Lens | str) -> None:
        name = lens if isinstance(lens, str) else name_of(lens, self.lenses)
        self.spec = with_lens(self.spec, name, self.lenses)

    @property
    def trajectory(self) -> Trajectory:
        """What the lens reads for the present prompt and target; read now if no view has asked yet."""
        return self._answer_now().first.trajectory

    @property
    def comparison(self) -> Comparison | None:
        """The two readings that are shown and how far apart they are, or None where one is shown alone."""
        return self._answer_now().comparison

    def _answer_now(self) -> Answer:
        question = question_of(self.spec)
        if question != self._read:
            if self._asked == question:
                self._latest.finish()  # a view that waits for this very reading must still get it
            else:
                self._latest.stop()
        if question != self._read:
            self._hold(question, self._live.now(question))
        return self._answer

    @property
    def prompt(self) -> str:
        """The prompt in the view. Setting it repaints the view."""
        return self.spec["prompt"]

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.spec = {**self.spec, "prompt": prompt, "written": []}

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the table as one HTML file that can be explored offline: everything but typing works in it.

        The file holds the front-end and the numbers of what is shown and of each lens by itself (about 100 KB each),
        opens from disk and loads nothing.
        """
        shown = self._answer_now()
        alone = [question_of({**self.spec, "lens": name, "view": "one"}) for name in self.lenses]
        answers = [(shown, self._read), *((self._live.now(each), each) for each in alone if each != self._read)]
        nothing = {"id": "frozen:0", "have": None, "have_beside": None}
        model = self.lens.model
        first, *others = (table_message(*each, senders_for(model), nothing) for each in answers)
        html = page(
            title=f"Lens table · {self.facts['model']}",
            front_end=(STATIC / "lens_table.js").read_text(encoding="utf-8"),
            css=(STATIC / "lens_table.css").read_text(encoding="utf-8"),
            state={"spec": self.spec, "facts": {**self.facts, "live": False}, "panel": panel()},
            reply=first,
            others=others,
            static=self._static(),
        )
        Path(path).write_text(html, encoding="utf-8")

    def _static(self) -> str:
        made = self.comparison
        sides = [self.trajectory] if made is None else [made.first, made.second]
        return "\n".join(side._repr_html_() for side in sides)

    def close(self) -> None:
        """Close the view and give up what it was computing."""
        self._latest.stop()
        self._acting.stop()
        super().close()

    def __repr__(self) -> str:
        spec = self.spec
        beside = {"one": ""}.get(spec["view"])
        if beside is None:
            beside = f" beside {_short(spec['other'])!r}" if spec["other"] is not None else f" beside {spec['second']}"
        rows = f"{self.facts['layers']} layers of {self.facts['model']}"
        return f"LensTable({_short(spec['prompt'])!r}, {spec['lens']} lens{beside}, {rows})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/html": self._static()}, metadata

    # Selection and spec are one thing seen from two sides

    @traitlets.validate("spec")
    def _check_spec(self, proposal: Any) -> dict[str, Any]:
        try:
            return checked(proposal["value"], self.lenses) if proposal["value"] else {}
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from None

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> Selection | None:
        value = proposal["value"]
        if value is None or isinstance(value, Selection):
            return value
        if isinstance(value, Mapping):
            value = (value.get("layer"), value.get("pos"))
        if not (isinstance(value, Sequence) and len(value) == 2 and all(isinstance(i, int) for i in value)):
            raise traitlets.TraitError(f"a selection is None, (layer, pos) or a Selection, not {value!r}.")
        rows = rows_of_spec(self.spec, self.lenses)
        try:
            layer, pos = chosen(value, rows, self.trajectory.shape[1])
        except IndexError as error:
            raise traitlets.TraitError(str(error)) from None
        return Selection(rows[layer], pos)

    @traitlets.observe("spec")
    def _spec_changed(self, change: Any) -> None:
        cell = change["new"].get("selection")
        site = rows_of_spec(change["new"], self.lenses).get(cell["layer"]) if cell is not None else None
        self.selection = Selection(site, cell["pos"]) if cell is not None and site is not None else None

    @traitlets.observe("selection")
    def _selection_changed(self, change: Any) -> None:
        if not self.spec:
            return
        held, cell = change["new"], None
        if held is not None:
            number = next((n for n, site in rows_of_spec(self.spec, self.lenses).items() if site == held.site), None)
            cell = None if number is None else {"layer": number, "pos": held.pos}
        if self.spec["selection"] != cell:
            self.spec = {**self.spec, "selection": cell, "to": None}

    def follow(self, fields: Mapping[str, int]) -> None:
        """Choose the layer and the position that a linked view chose, where they exist here."""
        trajectory = self._answer.first.trajectory
        there = {"layer": trajectory.layers.tolist(), "pos": list(range(trajectory.shape[1]))}
        taken = {name: fields[name] for name, values in there.items() if fields.get(name) in values}
        cell = self.spec["selection"] or {name: values[-1] for name, values in there.items()}
        if taken:
            self.spec = {**self.spec, "selection": {**cell, **taken}, "to": None}

    # The live half

    def _receive(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        """Answer a view. The work goes on beside the notebook, so that a newer request can overtake it."""
        kinds = {"read": self._start_read, "act": self._start_act, "panel": self._send_panel}
        if message.get("v") != VERSION or message.get("kind") not in kinds:
            raise ValueError(f"the front-end sent {message!r}; this is version {VERSION} of the wire.")
        kinds[message["kind"]](message)

    def _start_act(self, message: Mapping[str, Any]) -> None:
        self._acting.start(message, self.lenses)

    def _send_panel(self, message: Mapping[str, Any]) -> None:
        self.send(reply("panel", message["id"], **panel()))

    def _start_read(self, message: Mapping[str, Any]) -> None:
        import time

        from lenskit.lenses.live_comparison import Question

        identity, defaults = message["id"], {**DEFAULTS, "lens": self.spec["lens"]}
        defaults["words"] = False
        asked = {f.name: message.get(f.name, defaults[f.name]) for f in fields(Question)}
        question = Question(**{**asked, "written": tuple(asked["written"])})
        self._asked = question
        begun = time.perf_counter()

        def done(answer: Answer) -> None:
            self._hold(question, answer)
            ms = (time.perf_counter() - begun) * 1000
            self.send(*table_message(answer, question, self._senders, message, ms=ms))

        def failed(error: Exception) -> None:
            self.send(reply("error", identity, prompt=question.prompt, message=in_words(error)))

        def progress(share: float) -> None:
            self.send(reply("progress", identity, done=round(100 * share), total=100))

        def superseded() -> None:
            self.send(reply("superseded", identity))

        self._latest.start(self._live.answer(question), done, failed, progress, superseded)

    def _hold(self, question: Question, answer: Answer) -> None:
        self._answer, self._read = answer, question
        if self.selection is not None and self.selection.pos >= len(answer.first.trajectory.ids):
            self.selection = None  # the cell is gone, with the token above it


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
