"""AttentionView: which tokens every head looks at, the chosen head large, and what the model says without it."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import traitlets

from lenskit.models.sites import SiteUnavailable
from lenskit.widgets.attention_cell import FIELDS, AttentionCell, cell_of, followed
from lenskit.widgets.attention_wire import PatternSender, frozen_heads, mode
from lenskit.widgets.latest import Latest
from lenskit.widgets.link import Linkable
from lenskit.widgets.page import page
from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.models.head_ablation import HeadAblation
    from lenskit.models.model import Model
    from lenskit.models.patterns import Attention, HeadScores

_STATIC = Path(__file__).parent / "static"
_CHOICES = {
    "show": ("pattern", "value-weighted"),
    "hide_first": (False, True),
    "pick": ("all", "previous", "induction", "duplicate"),
    "by": ("zero", "mean"),
}
_KEYS = ("v", "prompt", *_CHOICES, "selection", "ablated")


class Answer(NamedTuple):
    """What one question of a view gave."""

    seen: Attention
    scores: HeadScores | None
    said: HeadAblation
    ran: int


class AttentionView(Linkable):
    """The attention of every head, live: type in its prompt, choose a head, ablate it and see the next token change.

    Args:
        model: the model that answers. Of one without patterns (a state space model), the view says why.
        prompt: the prompt to begin with.
        show: "pattern", or "value-weighted": pattern x |v W_O|, how much is moved rather than looked at, each row
            scaled to sum to 1 (Kobayashi et al., 2020).
        hide_first: leave the first token out, which drowns all else, and scale the rest of each row.
        pick: "all" heads by layer, or sorted by how much they are of a kind: "previous" token, "induction",
            "duplicate" token heads (`lk.head_scores`).

    Attributes:
        spec: everything that a person chose, as JSON; see `widgets/WIRE.md`. Set it to restore a view.
        selection: the chosen head and cell as an `AttentionCell`. Read it, set it (also to `(layer, head)` or
            `(layer, head, pos, key)`), observe it.

    Raises what `model.run` raises for the first prompt; later ones are answered in the view.

    >>> view = lk.widgets.AttentionView(model, "When Mary and John went to the store,")  # doctest: +SKIP
    >>> view.selection = (16, 0)                                                        # doctest: +SKIP
    >>> view.attention.weights(16, 0)                                                   # doctest: +SKIP
    """

    _esm = _STATIC / "attention_view.js"
    _css = _STATIC / "attention_view.css"
    selection_fields = FIELDS

    spec = traitlets.Dict(help="What a person chose, as JSON.").tag(sync=True)
    facts = traitlets.Dict(help="What is being looked at, as JSON.").tag(sync=True)
    selection = traitlets.Any(None, allow_none=True, help="The chosen head and cell, or None.")

    def __init__(
        self,
        model: Model,
        prompt: str,
        *,
        show: str = "pattern",
        hide_first: bool = False,
        pick: str = "all",
    ) -> None:
        from lenskit.models.patterns import LivePatterns
        from lenskit.models.steps import finish

        self._latest: Latest[Answer] = Latest()
        if not isinstance(prompt, str):
            raise TypeError(f"the prompt of an AttentionView is a text, not a {type(prompt).__name__}.")
        self._sender = PatternSender()
        self._live = LivePatterns(model)
        self.model = model
        self._seen: Attention | None = None
        self._said: HeadAblation | None = None
        self._said_of: object = None
        self._read = self._asked = ""
        self._chosen: AttentionCell | None = None
        if model.sites.layers.get("pattern"):  # else every question of the view is answered with the reason
            self._hold(prompt, finish(self._live.update(prompt, values=show == "value-weighted")))
        selection = None if self._seen is None else _first_choice(self._seen)
        spec = {
            "v": VERSION,
            "prompt": prompt,
            "show": show,
            "hide_first": hide_first,
            "pick": pick,
            "by": "zero",
            "selection": selection,
            "ablated": [],
        }
        super().__init__(spec=spec, facts=_facts(model, self._seen))
        self.on_msg(self._receive)

    # What Python sees

    @property
    def attention(self) -> Attention:
        """The patterns of the present prompt, with the sizes of the values; read now if no view has asked yet.

        Raises `SiteUnavailable` where the model has none.
        """
        from lenskit.models.steps import finish

        seen = self._present()
        if seen.value_norm is None and seen.why is None:
            seen = self._seen = finish(self._live.update(self._read, values=True))
        return seen

    def _present(self) -> Attention:
        from lenskit.models.steps import finish

        prompt = self.spec["prompt"]
        if self._seen is not None and self._read != prompt and self._asked == prompt:
            self._latest.finish()  # a view that waits for this very prompt must still get it
        if self._seen is None or self._read != prompt:
            self._latest.stop()
            self._hold(prompt, finish(self._live.update(prompt, values=self.spec["show"] == "value-weighted")))
        assert self._seen is not None
        return self._seen

    @property
    def ablation(self) -> HeadAblation:
        """The next token with the chosen heads ablated, beside what the model says as it is."""
        from lenskit.models.steps import finish

        seen = self._present()
        return finish(self._said_by(seen, self.spec["prompt"], self.spec["ablated"], self.spec["by"]))

    @property
    def prompt(self) -> str:
        """The prompt in the view. Setting it repaints the view."""
        return self.spec["prompt"]

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.spec = {**self.spec, "prompt": prompt}

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the view as one HTML file that can be explored offline: everything but typing and ablating works.

        The file holds the front-end, every head as it is small, and up to 2 MB of heads in full: the chosen one, the
        ablated ones and those with the highest scores. It loads nothing.
        """
        html = page(
            title=f"Attention · {self.facts['model']}",
            front_end=(_STATIC / "attention_view.js").read_text(encoding="utf-8"),
            css=(_STATIC / "attention_view.css").read_text(encoding="utf-8"),
            state={"spec": self.spec, "facts": {**self.facts, "live": False}, "links": []},
            reply=self._frozen(),
            static=self._static(),
        )
        Path(path).write_text(html, encoding="utf-8")

    def _frozen(self) -> tuple[dict[str, Any], list[bytes]]:
        from lenskit.models.head_scores import KINDS
        from lenskit.models.steps import finish

        seen = self.attention
        shows = ["pattern", "value-weighted"] if seen.value_norm is not None else ["pattern"]
        scores = [finish(self._live.scores(kind)) for kind in KINDS if len(seen.ids) > 1]
        first = [tuple(head) for head in self.spec["ablated"]]
        if self._chosen is not None:
            first.insert(0, (self._chosen.layer, self._chosen.head))
        return PatternSender().message(
            seen,
            self.ablation,
            modes=[mode(show, hidden) for show in shows for hidden in (False, True)],
            scores=scores,
            heads=frozen_heads(seen, first, scores),
            more={"id": "frozen:0", "prompt": self.spec["prompt"], "ms": 0.0, "recomputed": 0},
        )

    def close(self) -> None:
        """Close the view and give up what it was computing."""
        self._latest.stop()
        super().close()

    def __repr__(self) -> str:
        prompt = self.spec["prompt"]
        short = prompt if len(prompt) <= 40 else f"{prompt[:39]}…"
        heads = f"{len(self.facts['layers'])} layers x {self.facts['heads']} heads"
        return f"AttentionView({short!r}, {heads} of {self.facts['model']})"

    def _static(self) -> str:
        from lenskit.widgets.attention_html import html_table

        if not self.facts["layers"] or self._chosen is None:
            return html_table(None, None, self.facts["why"] or "no head is chosen")
        return html_table(self._present(), self._chosen, "")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/html": self._static()}, metadata

    # Selection and spec are one thing seen from two sides

    @traitlets.validate("spec")
    def _check_spec(self, proposal: Any) -> dict[str, Any]:
        spec = dict(proposal["value"])
        if not spec:
            return spec
        wrong = set(spec) ^ set(_KEYS)
        if wrong:
            raise traitlets.TraitError(
                f"a spec has exactly the keys {', '.join(_KEYS)}; this differs in {sorted(wrong)}."
            )
        for key, choices in _CHOICES.items():
            if spec[key] not in choices:
                raise traitlets.TraitError(f"{key} is one of {', '.join(map(str, choices))}, not {spec[key]!r}.")
        if not isinstance(spec["prompt"], str):
            raise traitlets.TraitError(f"the prompt is a text, not a {type(spec['prompt']).__name__}.")
        cell = spec["selection"]
        if cell is not None and not (isinstance(cell, dict) and set(cell) == set(FIELDS)):
            raise traitlets.TraitError(
                f"the selection of a spec is null or has exactly {', '.join(FIELDS)}; this is {cell!r}."
            )
        if not all(isinstance(head, Sequence) and len(head) == 2 for head in spec["ablated"]):
            raise traitlets.TraitError(f"ablated is a list of [layer, head], not {spec['ablated']!r}.")
        return spec

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> AttentionCell | None:
        value = proposal["value"]
        return None if value is None else cell_of(value, self._present())

    @traitlets.observe("spec")
    def _spec_changed(self, change: Any) -> None:
        cell = change["new"].get("selection")
        self._chosen = None if cell is None else AttentionCell(**cell)
        if self._seen is not None and self.selection != self._chosen:
            self.set_trait("selection", self._chosen)

    @traitlets.observe("selection")
    def _selection_changed(self, change: Any) -> None:
        cell = None if change["new"] is None else change["new"]._asdict()
        if self.spec and self.spec["selection"] != cell:
            self.spec = {**self.spec, "selection": cell}

    def follow(self, fields: Mapping[str, int]) -> None:
        """Choose the layer, head, query and key that a linked view chose, where they exist here."""
        cell = self.spec["selection"]
        if self._seen is not None and cell is not None:
            self.spec = {**self.spec, "selection": followed(cell, fields, self._seen)}

    # The live half

    def _receive(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        """Answer a view. The work goes on beside the notebook, so that a newer question can overtake it."""
        if message.get("v") != VERSION or message.get("kind") not in ("read", "head"):
            raise ValueError(f"the front-end sent {message!r}; this is version {VERSION} of the wire.")
        identity = message["id"]
        if message["kind"] == "head":
            if self._seen is None or message["table"] != self._sender.table:
                self.send(_reply("superseded", identity))
            else:
                self.send(*self._sender.head(self._seen, (message["layer"], message["head"]), identity))
            return
        self._asked = message["prompt"]
        begun = time.perf_counter()

        def done(answer: Answer) -> None:
            self._hold(message["prompt"], answer.seen)
            ms = round((time.perf_counter() - begun) * 1000, 1)
            self.send(*self._message(message, answer, ms))

        def failed(error: Exception) -> None:
            self.send(_reply("error", identity, prompt=message["prompt"], message=_in_words(error)))

        def progress(share: float) -> None:
            self.send(_reply("progress", identity, done=round(100 * share), total=100))

        def superseded() -> None:
            self.send(_reply("superseded", identity))

        self._latest.start(self._answer(message), done, failed, progress, superseded)

    def _answer(self, asked: Mapping[str, Any]) -> Generator[float, None, Answer]:
        live = self._live
        seen = yield from live.update(asked["prompt"], values=asked["show"] == "value-weighted")
        ran = live.ran
        if asked["show"] == "value-weighted" and seen.value_norm is None:
            raise SiteUnavailable(seen.why or "there are no value-weighted patterns.")
        kind: Any = asked["pick"]
        scores = (yield from live.scores(kind)) if kind != "all" and len(seen.ids) > 1 else None
        said = yield from self._said_by(seen, asked["prompt"], asked["ablated"], asked["by"])
        return Answer(seen, scores, said, ran)

    def _said_by(
        self, seen: Attention, prompt: str, ablated: Sequence[Sequence[int]], by: Any
    ) -> Generator[float, None, HeadAblation]:
        """The prediction with these heads ablated, kept as long as the question is the same."""
        from lenskit.models.head_ablation import ablating

        heads = [(int(layer), int(head)) for layer, head in ablated]
        question = (seen.ids.tobytes(), tuple(heads), by, self.model.edits)
        if self._said is None or self._said_of != question:
            self._said = yield from ablating(self.model, prompt, heads, by, self._live.logits)
            self._said_of = question
        return self._said

    def _message(self, asked: Mapping[str, Any], answer: Answer, ms: float) -> tuple[dict[str, Any], list[bytes]]:
        """The answer, without what the view says that it has."""
        number, have = self._sender.number(answer.seen), asked["have"]
        if have["table"] != number:
            have = {"modes": [], "kinds": [], "heads": []}
        wanted = mode(asked["show"], asked["hide_first"])
        head = asked["head"]
        heads = [(head[0], head[1])] if head and head not in have["heads"] and _exists(answer.seen, head) else []
        return self._sender.message(
            answer.seen,
            answer.said,
            modes=[] if wanted in have["modes"] else [wanted],
            scores=[] if answer.scores is None or answer.scores.kind in have["kinds"] else [answer.scores],
            heads=heads,
            more={"id": asked["id"], "prompt": asked["prompt"], "ms": ms, "recomputed": answer.ran},
        )

    def _hold(self, prompt: str, seen: Attention) -> None:
        self._seen, self._read = seen, prompt
        cell = self._chosen
        if cell is not None and max(cell.pos or 0, cell.key or 0) >= len(seen.ids):
            self.selection = cell._replace(pos=None, key=None)  # the cell is gone, with its token


def _exists(seen: Attention, head: Sequence[int]) -> bool:
    return head[0] in seen.layers and 0 <= head[1] < seen.heads[seen.layers.index(head[0])]


def _first_choice(seen: Attention) -> dict[str, int | None]:
    """The head that looks at the previous token most: every model of some size has one, and it is plain to see."""
    import numpy as np

    row, head = 0, 0
    if len(seen.ids) > 1:
        share = np.diagonal(seen.pattern, -1, 2, 3).mean(-1)  # (layer, head)
        row, head = (int(i) for i in np.unravel_index(share.argmax(), share.shape))
    return AttentionCell(seen.layers[row], head)._asdict()


def _reply(kind: str, identity: str, **fields: Any) -> dict[str, Any]:
    return {"v": VERSION, "kind": kind, "id": identity, **fields}


def _facts(model: Model, seen: Attention | None) -> dict[str, Any]:
    return {
        "v": VERSION,
        "live": True,
        "title": "Attention",
        "model": model.name,
        "layers": [] if seen is None else list(seen.layers),
        "heads": 0 if seen is None else max(seen.heads),
        "why": None if seen is not None else model.sites.reasons["pattern"],
        "vocab": model.anatomy.vocab,
        "context": model.anatomy.context,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def _in_words(error: Exception) -> str:
    """An error as the view shows it: lenskit's own say what to do, others are named."""
    text = str(error)
    return text if isinstance(error, (ValueError, SiteUnavailable)) and text else f"{type(error).__name__}: {text}"
