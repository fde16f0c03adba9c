"""LensTable: the prompt, and under it what each layer would say next, live."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import traitlets

from lenskit.models.sites import Site, SiteUnavailable
from lenskit.widgets.latest import Latest
from lenskit.widgets.lens_spec import DEFAULTS, checked
from lenskit.widgets.link import Linkable
from lenskit.widgets.named_lenses import name_of, named, of_model
from lenskit.widgets.page import page
from lenskit.widgets.wire import VERSION, Sender, between

if TYPE_CHECKING:
    from lenskit.lenses.between import Comparison
    from lenskit.lenses.lens import Lens
    from lenskit.lenses.live_comparison import Answer, Question
    from lenskit.lenses.trajectory import Trajectory
    from lenskit.models.model import Model

_STATIC = Path(__file__).parent / "static"


class Selection(NamedTuple):
    """The pinned cell: the site whose state is read there, and the position.

    The last row of a table is the model's own prediction, which is that of `resid_post` of the last layer.

    >>> selection = Selection(Site("resid_post", 27), 4)
    >>> selection.layer, selection.pos
    (27, 4)
    """

    site: Site
    pos: int

    @property
    def layer(self) -> int:
        """The cell's layer."""
        assert self.site.layer is not None
        return self.site.layer


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
    In a comparison of the two both read `resid_pre`, so that a row holds the same states on either side. The last row
    is the model's own prediction in all of them.

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

    _esm = _STATIC / "lens_table.js"
    _css = _STATIC / "lens_table.css"
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
        self._senders = (Sender(model.anatomy.vocab), Sender(model.anatomy.vocab))
        self._read = self._asked = self._question(spec)
        self._answer = self._live.now(self._read)
        super().__init__(spec=spec, facts=_facts(model, self.lenses))
        self.on_msg(self._receive)

    # What Python sees

    @property
    def lens(self) -> Lens:
        """The lens that reads now. Set it, also by its name, to one of `lenses`."""
        return self.lenses[self.spec["lens"]]

    @lens.setter
    def lens(self, lens: Lens | str) -> None:
        name = lens if isinstance(lens, str) else name_of(lens, self.lenses)
        beside = self.spec["lens"] if self.spec["second"] == name else self.spec["second"]
        spec = {**self.spec, "lens": name, "second": beside}
        cell = spec["selection"]
        if cell is not None and name in self.lenses:
            # The chosen state stays chosen: rows are counted from the last, which is the same for every lens.
            layer = cell["layer"] + len(self._sites(spec)) - len(self._sites(self.spec))
            spec["selection"] = {**cell, "layer": max(0, layer)}
        self.spec = spec

    @property
    def trajectory(self) -> Trajectory:
        """What the lens reads for the present prompt and target; read now if no view has asked yet."""
        return self._answer_now().first.trajectory

    @property
    def comparison(self) -> Comparison | None:
        """The two readings that are shown and how far apart they are, or None where one is shown alone."""
        return self._answer_now().comparison

    def _answer_now(self) -> Answer:
        question = self._question(self.spec)
        if question != self._read:
            if self._asked == question:
                self._latest.finish()  # a view that waits for this very reading must still get it
            else:
                self._latest.stop()
        if question != self._read:
            self._hold(question, self._live.now(question))
        return self._answer

    @staticmethod
    def _question(spec: Mapping[str, Any]) -> Question:
        from lenskit.lenses.live_comparison import Question

        fields = ("prompt", "lens", "target", "versus", *(("second", "other") if spec["view"] != "one" else ()))
        return Question(**{name: spec[name] for name in fields})

    @property
    def prompt(self) -> str:
        """The prompt in the view. Setting it repaints the view."""
        return self.spec["prompt"]

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.spec = {**self.spec, "prompt": prompt}

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the table as one HTML file that can be explored offline: everything but typing works in it.

        The file holds the front-end and the numbers of what is shown (about 100 KB for each side), opens from disk and
        loads nothing.
        """
        senders = (Sender(self._senders[0].vocab), Sender(self._senders[1].vocab))
        answer = self._answer_now()
        message = self._message(answer, senders, {"id": "frozen:0", "have": None, "have_beside": None}, ms=0.0)
        # Nobody can ask for another lens there, nor for another side.
        facts = {**self.facts, "live": False, "lenses": [self.spec["lens"]]}
        html = page(
            title=f"Lens table · {self.facts['model']}",
            front_end=(_STATIC / "lens_table.js").read_text(encoding="utf-8"),
            css=(_STATIC / "lens_table.css").read_text(encoding="utf-8"),
            state={"spec": self.spec, "facts": facts},
            reply=message,
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

    def _sites(self, spec: Mapping[str, Any]) -> list[Site]:
        """Where each row comes from."""
        from lenskit.lenses.live_comparison import site_of
        from lenskit.lenses.reading import rows_of

        question = self._question(spec)
        return rows_of(self.lenses[question.lens], site_of(self.lenses, question))

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> Selection | None:
        value = proposal["value"]
        if value is None or isinstance(value, Selection):
            return value
        if isinstance(value, Mapping):
            value = (value.get("layer"), value.get("pos"))
        if not (isinstance(value, Sequence) and len(value) == 2 and all(isinstance(i, int) for i in value)):
            raise traitlets.TraitError(f"a selection is None, (layer, pos) or a Selection, not {value!r}.")
        layers, positions = self.trajectory.shape
        layer, pos = int(value[0]), int(value[1])  # pyright: ignore[reportArgumentType] -- just checked
        if not (-layers <= layer < layers and -positions <= pos < positions):
            raise traitlets.TraitError(
                f"layer {layer}, position {pos} is not in the table: it has layers 0 to {layers - 1} and positions "
                f"0 to {positions - 1}."
            )
        return Selection(self._sites(self.spec)[layer], pos % positions)

    @traitlets.observe("spec")
    def _spec_changed(self, change: Any) -> None:
        cell = change["new"].get("selection")
        sites = self._sites(change["new"]) if cell is not None else []
        chosen = None
        if cell is not None and 0 <= cell["layer"] < len(sites):
            chosen = Selection(sites[cell["layer"]], cell["pos"])
        self.selection = chosen

    @traitlets.observe("selection")
    def _selection_changed(self, change: Any) -> None:
        if not self.spec:
            return
        chosen, sites = change["new"], self._sites(self.spec)
        cell = None
        if chosen is not None and chosen.site in sites:
            cell = {"layer": sites.index(chosen.site), "pos": chosen.pos}
        if self.spec["selection"] != cell:
            self.spec = {**self.spec, "selection": cell}

    def follow(self, fields: Mapping[str, int]) -> None:
        """Choose the layer and the position that a linked view chose, where they exist here."""
        sizes = dict(zip(self.selection_fields, self._answer.first.trajectory.shape, strict=True))
        taken = {name: fields[name] for name, size in sizes.items() if 0 <= fields.get(name, -1) < size}
        cell = self.spec["selection"] or {name: size - 1 for name, size in sizes.items()}
        if taken:
            self.spec = {**self.spec, "selection": {**cell, **taken}}

    # The live half

    def _receive(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        """Answer a view. The work goes on beside the notebook, so that a newer request can overtake it."""
        if message.get("v") != VERSION or message.get("kind") != "read":
            raise ValueError(f"the front-end sent {message!r}; this is version {VERSION} of the wire.")
        import time

        from lenskit.lenses.live_comparison import Question

        identity, defaults = message["id"], {**DEFAULTS, "lens": self.spec["lens"]}
        question = Question(**{f.name: message.get(f.name, defaults[f.name]) for f in fields(Question)})
        self._asked = question
        begun = time.perf_counter()

        def done(answer: Answer) -> None:
            self._hold(question, answer)
            self.send(*self._message(answer, self._senders, message, ms=(time.perf_counter() - begun) * 1000))

        def failed(error: Exception) -> None:
            self.send(self._reply("error", identity, prompt=question.prompt, message=_in_words(error)))

        def progress(share: float) -> None:
            self.send(self._reply("progress", identity, done=round(100 * share), total=100))

        def superseded() -> None:
            self.send(self._reply("superseded", identity))

        self._latest.start(self._live.answer(question), done, failed, progress, superseded)

    def _hold(self, question: Question, answer: Answer) -> None:
        self._answer, self._read = answer, question
        if self.selection is not None and self.selection.pos >= len(answer.first.trajectory.ids):
            self.selection = None  # the cell is gone, with the token above it

    @staticmethod
    def _reply(kind: str, identity: str, **fields: Any) -> dict[str, Any]:
        return {"v": VERSION, "kind": kind, "id": identity, **fields}

    def _message(
        self, answer: Answer, senders: tuple[Sender, Sender], request: Mapping[str, Any], *, ms: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The `table` message of an answer, and its buffers."""
        table, buffers = senders[0].table_of(answer.first.trajectory, request["have"])
        more: dict[str, Any] = {"beside": None, "between": None}
        if answer.comparison is not None:
            beside, second = senders[1].table_of(answer.comparison.second, request.get("have_beside"))
            apart, third = between(answer.comparison)
            more = {"beside": beside, "between": apart}
            buffers = [*buffers, *second, *third]
        facts = {"ms": round(ms, 1), "recomputed": answer.ran}
        return self._reply("table", request["id"], **asdict(self._read), **table, **more, **facts), buffers


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _facts(model: Model, lenses: Mapping[str, Lens]) -> dict[str, Any]:
    return {
        "v": VERSION,
        "live": True,
        "title": "Lens table",
        "model": model.name,
        "lenses": list(lenses),
        "sites": {name: lens.site for name, lens in lenses.items()},
        "layers": model.n_layers,
        "vocab": model.anatomy.vocab,
        "context": model.anatomy.context,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def _in_words(error: Exception) -> str:
    """An error as the view shows it: lenskit's own say what to do, others are named."""
    text = str(error)
    return text if isinstance(error, (ValueError, SiteUnavailable)) and text else f"{type(error).__name__}: {text}"
