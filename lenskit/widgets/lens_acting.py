"""Acting from a lens table: one request, and what the model writes before, after and with a placebo."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.widgets.latest import Latest
from lenskit.widgets.lens_messages import Message, in_words, reply
from lenskit.widgets.wire import entries, little, text_of

if TYPE_CHECKING:
    from lenskit.lenses.acting_live import Act, Acted, LiveActing
    from lenskit.lenses.lens import Lens
    from lenskit.models.model import Model

MOST = 64
"""How many tokens are written at most."""


class LensActing:
    """The acting half of a lens table. A newer request overtakes an older one; readings go on beside it.

    Args:
        send: sends a message and its buffers to the views.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        self.send = send
        self._latest: Latest[Acted] = Latest()
        self._live: LiveActing | None = None

    def stop(self) -> None:
        """Give up what is under way."""
        self._latest.stop()

    def start(self, message: Mapping[str, Any], lenses: Mapping[str, Lens]) -> None:
        """Answer an `act` message: with any number of `acting`, and one `acted`, `error` or `superseded`."""
        if message["how"] is None:  # nothing is to be done any more
            self.stop()
            return
        identity = message["id"]

        def failed(error: Exception) -> None:
            self.send(reply("error", identity, message=in_words(error)))

        def superseded() -> None:
            self.send(reply("superseded", identity))

        def done(acted: Acted) -> None:
            pass  # its last step has sent it

        self._latest.start(self._steps(message, lenses[message["lens"]]), done, failed, lambda _: None, superseded)

    def _steps(self, message: Mapping[str, Any], lens: Lens) -> Generator[float, None, Acted]:
        from lenskit.lenses.acting_live import LiveActing, as_python

        model = lens.model
        if self._live is None:
            self._live = LiveActing(model)
        act, count = _act_of(model, message), max(1, min(MOST, int(message["count"])))
        ids = [*model.batch(message["prompt"]).tokens[0].tolist(), *message["written"]]
        code = as_python(model, message["prompt"], message["written"], act, count)
        steps = self._live.act(lens, ids, act, count)
        with closing(steps):
            while True:
                try:
                    part = next(steps)
                except StopIteration as end:
                    self.send(*_message("acted", message["id"], model, end.value, act, code))
                    return end.value
                if part is not None:
                    self.send(*_message("acting", message["id"], model, part, act, code))
                yield 0.0


def _message(kind: str, identity: str, model: Model, acted: Acted, act: Act, code: str) -> Message:
    """What there is, and its buffers."""
    from lenskit.lenses.acting_live import SIDES

    ids = acted.next_ids()
    arrays = {side: little(np.asarray(acted.written.get(side, []), np.int32), "int32") for side in SIDES}
    arrays["next_ids"] = little(np.asarray(ids, np.int32), "int32")
    for side, odds in acted.odds.items():
        arrays[f"next_{side}"] = little(odds[ids].cpu().numpy(), "float32")
    other = [] if act.other is None else [act.other]
    known = sorted({act.token, *other, *ids, *(i for each in acted.written.values() for i in each)})
    pieces = [[i, text_of(piece)] for i, piece in zip(known, model.text.pieces(known), strict=True)]
    fields = {"token": act.token, "with": act.other, "python": code, "pieces": pieces, "arrays": entries(arrays)}
    return reply(kind, identity, **fields), [array.tobytes() for array in arrays.values()]


def _act_of(model: Model, message: Mapping[str, Any]) -> Act:
    """What a message asks for. Raises `ValueError` for a word that is not one token."""
    from lenskit.lenses.acting_live import Act

    token, other = (_token(model, message[name]) for name in ("token", "with"))
    if token is None or (other is None and message["how"] == "swap"):
        raise ValueError("which word? Give one that is one token.")
    first, last = sorted(int(layer) for layer in message["layers"])
    return Act(
        how=message["how"],
        token=token,
        other=other if message["how"] == "swap" else None,
        strength=float(message["strength"]),
        layers=(first, last),
        pos=int(message["pos"]),
        seed=int(message.get("seed", 0)),
    )


def _token(model: Model, given: str | int | None) -> int | None:
    """A word as a person types it: with a space before it where that is one token, else as it stands."""
    if not isinstance(given, str):
        return given
    if not given.strip():
        return None
    if not given.startswith(" "):
        try:
            return model.text.token(f" {given}")
        except ValueError:  # then it is as it stands, or refused in its own words
            pass
    return model.text.token(given)
