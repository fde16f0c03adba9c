"""What a lens table says to its views: its facts, its tables, and the front-end's second module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenskit.models.sites import SiteUnavailable
from lenskit.widgets.wire import VERSION, Sender, between

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens
    from lenskit.lenses.live_comparison import Answer, Question
    from lenskit.models.model import Model

STATIC = Path(__file__).parent / "static"
Message = tuple[dict[str, Any], list[bytes]]


def reply(kind: str, identity: str, **fields: Any) -> dict[str, Any]:
    """A message that answers the request of this id."""
    return {"v": VERSION, "kind": kind, "id": identity, **fields}


def senders_for(model: Model) -> tuple[Sender, Sender]:
    """What keeps track of what the views hold, of either side; new ones send all."""
    return Sender(model.anatomy.vocab), Sender(model.anatomy.vocab)


def table_message(
    answer: Answer, question: Question, senders: tuple[Sender, Sender], request: Mapping[str, Any], *, ms: float = 0.0
) -> Message:
    """The `table` message of an answer, and its buffers."""
    table, buffers = senders[0].table_of(answer.first.trajectory, request["have"])
    more: dict[str, Any] = {"beside": None, "between": None}
    if answer.comparison is not None:
        beside, second = senders[1].table_of(answer.comparison.second, request.get("have_beside"))
        apart, third = between(answer.comparison)
        more = {"beside": beside, "between": apart}
        buffers = [*buffers, *second, *third]
    asked = {**asdict(question), "written": list(question.written)}
    facts = {"ms": round(ms, 1), "recomputed": answer.ran}
    return reply("table", request["id"], **asked, **table, **more, **facts), buffers


def panel() -> dict[str, str]:
    """The front-end's second module, which a view asks for when it first needs it: its source and its stylesheet."""
    return {name: (STATIC / f"lens_panel.{end}").read_text(encoding="utf-8") for name, end in _PARTS.items()}


_PARTS = {"source": "js", "css": "css"}


def facts_of(model: Model, lenses: Mapping[str, Lens]) -> dict[str, Any]:
    """What is being looked at."""
    ends = getattr(getattr(model.anatomy.model, "generation_config", None), "eos_token_id", None)
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
        "ends": ends if isinstance(ends, list) else [] if ends is None else [ends],
        "words": model.text.tokenizer is not None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def in_words(error: Exception) -> str:
    """An error as the view shows it: lenskit's own say what to do, others are named."""
    text = str(error)
    known = isinstance(error, (ValueError, IndexError, SiteUnavailable)) and text
    return text if known else f"{type(error).__name__}: {text}"
