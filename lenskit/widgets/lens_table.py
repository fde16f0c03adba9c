"""LensTable: the prompt, and under it what each layer would say next, live."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import traitlets

from lenskit.models.sites import Site, SiteUnavailable
from lenskit.widgets.home import HomeThread
from lenskit.widgets.latest import Latest
from lenskit.widgets.page import page
from lenskit.widgets.wire import VERSION, Sender

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens
    from lenskit.lenses.live import Update
    from lenskit.lenses.trajectory import Trajectory
    from lenskit.models.model import Model

_STATIC = Path(__file__).parent / "static"
_CHOICES = {"statistic": ("probability", "entropy", "kl", "rank"), "order": ("last-first", "first-first")}
_KEYS = ("v", "prompt", "lens", "statistic", "target", "order", "selection", "scale")


class Selection(NamedTuple):
    """The pinned cell: the site that is read there, and the position.

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


class LensTable(HomeThread):
    """A live lens table: type in its prompt and it repaints, click a cell and Python knows.

    Args:
        model: the model that answers.
        prompt: the prompt to begin with.
        lens: the lens to read with; by default the logit lens.
        target: a text that is one token, or a token id, whose rank and probability are followed. By default, at each
            position, the token that the model itself finally predicts there.
        statistic: what colours the cells: `probability` of the top token, `entropy`, `kl` from the final prediction, or
            `rank` of the target.
        order: `last-first` (the last layer on top) or `first-first`.
        top_k: how many tokens a cell shows when it is looked at.

    Attributes:
        spec: everything that a person chose, as JSON; see `widgets/WIRE.md`. Set it to restore a view.
        selection: the pinned cell as a `Selection`, or None. Read it, set it (also to `(layer, pos)`), observe it.

    Raises what `model.run` raises for the first prompt; later ones are answered in the view.

    >>> table = lk.widgets.LensTable(model, "The capital of France is")  # doctest: +SKIP
    >>> table.selection = (27, -1)                                       # doctest: +SKIP
    >>> table.trajectory.entropy[table.selection.layer]                  # doctest: +SKIP
    """

    _esm = _STATIC / "lens_table.js"
    _css = _STATIC / "lens_table.css"

    spec = traitlets.Dict(help="What a person chose, as JSON.").tag(sync=True)
    facts = traitlets.Dict(help="What is being looked at, as JSON.").tag(sync=True)
    selection = traitlets.Any(None, allow_none=True, help="The pinned cell, or None.")

    def __init__(
        self,
        model: Model,
        prompt: str,
        *,
        lens: Lens | None = None,
        target: str | int | None = None,
        statistic: str = "probability",
        order: str = "last-first",
        top_k: int = 10,
    ) -> None:
        from lenskit.lenses.lens import LogitLens
        from lenskit.lenses.live import LiveReading

        self._latest: Latest[Update] = Latest()
        if not isinstance(prompt, str):
            raise TypeError(f"the prompt of a LensTable is a text, not a {type(prompt).__name__}.")
        lens = lens if lens is not None else LogitLens(model)
        if lens.model is not model:
            raise ValueError(f"the lens belongs to {lens.model!r}, not to {model!r}.")
        self.lens = lens
        self._live = LiveReading(lens, top_k)
        self._sender = Sender(model.anatomy.vocab)
        target_id = None if target is None else model.text.token(target)
        self._trajectory = self._live.now(prompt, target_id).trajectory
        self._read = self._asked = (prompt, target_id)
        spec = {
            "v": VERSION,
            "prompt": prompt,
            "lens": lens.name,
            "statistic": statistic,
            "target": target_id,
            "order": order,
            "selection": None,
            "scale": None,
        }
        super().__init__(spec=spec, facts=_facts(model, lens))
        self.on_msg(self._receive)

    # What Python sees

    @property
    def trajectory(self) -> Trajectory:
        """What the lens reads for the present prompt and target; read now if no view has asked yet."""
        prompt, target = self.spec["prompt"], self.spec["target"]
        if (prompt, target) != self._read:
            if self._asked == (prompt, target):
                self._latest.finish()  # a view that waits for this very reading must still get it
            else:
                self._latest.stop()
        if (prompt, target) != self._read:
            self._hold(prompt, target, self._live.now(prompt, target))
        return self._trajectory

    @property
    def prompt(self) -> str:
        """The prompt in the view. Setting it repaints the view."""
        return self.spec["prompt"]

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.spec = {**self.spec, "prompt": prompt}

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the table as one HTML file that can be explored offline: everything but typing works in it.

        The file holds the front-end and the numbers (about 100 KB), opens from disk and loads nothing.
        """
        message = self._message(self.trajectory, Sender(self._sender.vocab), "frozen:0", None, ran=0, ms=0.0)
        state = {"spec": self.spec, "facts": {**self.facts, "live": False}}
        html = page(
            title=f"Lens table · {self.facts['model']}",
            front_end=(_STATIC / "lens_table.js").read_text(encoding="utf-8"),
            css=(_STATIC / "lens_table.css").read_text(encoding="utf-8"),
            state=state,
            reply=message,
            static=self.trajectory._repr_html_(),
        )
        Path(path).write_text(html, encoding="utf-8")

    def close(self) -> None:
        """Close the view and give up what it was computing."""
        self._latest.stop()
        super().close()

    def __repr__(self) -> str:
        prompt = self.spec["prompt"]
        short = prompt if len(prompt) <= 40 else f"{prompt[:39]}…"
        return f"LensTable({short!r}, {self.lens.name} lens, {self.facts['layers']} layers of {self.facts['model']})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/html": self.trajectory._repr_html_()}, metadata

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
                raise traitlets.TraitError(f"{key} is one of {', '.join(choices)}, not {spec[key]!r}.")
        if not isinstance(spec["prompt"], str):
            raise traitlets.TraitError(f"the prompt is a text, not a {type(spec['prompt']).__name__}.")
        cell = spec["selection"]
        if cell is not None and not (isinstance(cell, dict) and set(cell) == {"layer", "pos"}):
            raise traitlets.TraitError(f"the selection of a spec is null or {{'layer': …, 'pos': …}}, not {cell!r}.")
        return spec

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
                f"layer {layer}, position {pos} is not in the table: it has layers 0 to {layers - 1} and positions 0 to "
                f"{positions - 1}."
            )
        return Selection(Site(self.lens.site, layer % layers), pos % positions)

    @traitlets.observe("spec")
    def _spec_changed(self, change: Any) -> None:
        cell = change["new"].get("selection")
        self.selection = None if cell is None else Selection(Site(self.lens.site, cell["layer"]), cell["pos"])

    @traitlets.observe("selection")
    def _selection_changed(self, change: Any) -> None:
        cell = None if change["new"] is None else {"layer": change["new"].layer, "pos": change["new"].pos}
        if self.spec and self.spec["selection"] != cell:
            self.spec = {**self.spec, "selection": cell}

    # The live half

    def _receive(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        """Answer a view. The work goes on beside the notebook, so that a newer request can overtake it."""
        if message.get("v") != VERSION or message.get("kind") != "read":
            raise ValueError(f"the front-end sent {message!r}; this is version {VERSION} of the wire.")
        import time

        identity, prompt, target = message["id"], message["prompt"], message["target"]
        self._asked = (prompt, target)
        begun = time.perf_counter()

        def done(update: Update) -> None:
            self._hold(prompt, target, update)
            ms = (time.perf_counter() - begun) * 1000
            header, arrays = self._message(
                update.trajectory, self._sender, identity, message["have"], ran=update.ran, ms=ms
            )
            self.send(header, arrays)

        def failed(error: Exception) -> None:
            self.send(self._reply("error", identity, prompt=prompt, message=_in_words(error)))

        def progress(share: float) -> None:
            self.send(self._reply("progress", identity, done=round(100 * share), total=100))

        def superseded() -> None:
            self.send(self._reply("superseded", identity))

        self._latest.start(self._live.update(prompt, target), done, failed, progress, superseded)

    def _hold(self, prompt: str, target: int | None, update: Update) -> None:
        self._trajectory, self._read = update.trajectory, (prompt, target)
        if self.selection is not None and self.selection.pos >= len(update.trajectory.ids):
            self.selection = None  # the cell is gone, with the token above it

    @staticmethod
    def _reply(kind: str, identity: str, **fields: Any) -> dict[str, Any]:
        return {"v": VERSION, "kind": kind, "id": identity, **fields}

    def _message(
        self, trajectory: Trajectory, sender: Sender, identity: str, have: int | None, *, ran: int, ms: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        prompt, target = self._read
        more = {"id": identity, "prompt": prompt, "ms": round(ms, 1), "recomputed": ran}
        return sender.message(trajectory, target=target, have=have, more=more)


def _facts(model: Model, lens: Lens) -> dict[str, Any]:
    return {
        "v": VERSION,
        "live": True,
        "title": "Lens table",
        "model": model.name,
        "lenses": [lens.name],
        "site": lens.site,
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
