"""The Python half of the patch grid's wire: sweeps and patches as messages. `widgets/WIRE.md` describes both halves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.patching.live import Begun, Patched
    from lenskit.patching.swept import Sweep

QUESTION = ("clean", "corrupt", "site", "direction", "metric", "answer", "against")

Message = tuple[dict[str, Any], list[bytes]]


def reply(kind: str, identity: str, **fields: Any) -> dict[str, Any]:
    """A message without arrays."""
    return {"v": VERSION, "kind": kind, "id": identity, **fields}


class SweepSender:
    """One sweep on its way to the views: the cells that they know are not sent again."""

    def __init__(self, model: Model, asked: Mapping[str, Any], identity: str) -> None:
        self._model, self._identity = model, identity
        self._asked = {key: asked[key] for key in QUESTION}
        self._known: np.ndarray | None = None

    def pair(self, begun: Begun) -> Message:
        """What is known before any patch."""
        header, arrays = self._header(begun)
        return _message("pair", self._identity, header, arrays)

    def cells(self, sweep: Sweep, left: float | None) -> Message | None:
        """What is new: first the estimate with what is exact already, then the cells that have become exact."""
        exact, values = sweep.exact.ravel(), sweep.values.ravel()
        new = np.isfinite(values) if self._known is None else exact & ~self._known
        first, self._known = self._known is None, exact.copy()
        if not (first or new.any()):
            return None
        index = np.flatnonzero(new)
        more = {"done": int(exact.sum()), "total": exact.size, "left": left}
        arrays = {"index": (index, "int32"), "value": (values[index], "float32"), "exact": (exact[index], "uint16")}
        return _message("cells", self._identity, more, arrays)

    def swept(self, begun: Begun, sweep: Sweep, *, stopped: bool, ms: float) -> Message:
        """The whole sweep, which is the reply to its request."""
        header, arrays = self._header(begun)
        more = {
            "done": int(sweep.exact.sum()),
            "total": sweep.exact.size,
            "stopped": stopped,
            "ms": round(ms, 1),
            "engine": sweep.engine or "",
            "why": sweep.why,
        }
        whole = {"values": (sweep.values.ravel(), "float32"), "exact": (sweep.exact.ravel(), "uint16")}
        return _message("swept", self._identity, {**header, **more}, {**arrays, **whole})

    def _header(self, begun: Begun) -> tuple[dict[str, Any], dict[str, tuple[np.ndarray, str]]]:
        sweep = begun.sweep
        assert isinstance(sweep.clean, float)
        assert isinstance(sweep.corrupt, float)
        ends = (sweep.corrupt, sweep.clean) if sweep.direction == "denoise" else (sweep.clean, sweep.corrupt)
        header = {
            **self._asked,
            "layers": list(sweep.axes[0].ticks),
            "over": sweep.axes[1].name,
            "columns": len(sweep.axes[1].ticks),
            "read": begun.read,
            "base": ends[0],
            "target": ends[1],
            "pieces": pieces_of(self._model, begun.clean_ids, begun.corrupt_ids, begun.next_ids),
        }
        arrays = {
            "clean_ids": (begun.clean_ids, "int32"),
            "corrupt_ids": (begun.corrupt_ids, "int32"),
            "next_ids": (begun.next_ids, "int32"),
            "next_clean": (begun.next_clean, "float32"),
            "next_corrupt": (begun.next_corrupt, "float32"),
        }
        return header, arrays


class Pace:
    """How long the rest of a sweep will take: as estimated, until cells have come."""

    def __init__(self, seconds: float, first: Sweep) -> None:
        self._seconds, self._begun, self._first = seconds, time.perf_counter(), int(first.exact.sum())

    def left(self, sweep: Sweep) -> float:
        """Seconds."""
        gone, exact = time.perf_counter() - self._begun, int(sweep.exact.sum())
        done, rest = exact - self._first, sweep.exact.size - exact
        return round(gone * rest / done if done else max(0.0, self._seconds - gone), 1)


def patched_message(model: Model, asked: Mapping[str, Any], patched: Patched) -> Message:
    """The reply to a `patch`."""
    header = {
        **{key: asked[key] for key in (*QUESTION, "layers", "columns")},
        "value": patched.value,
        "pieces": pieces_of(model, patched.ids),
    }
    arrays = {
        "ids": (patched.ids, "int32"),
        "before": (patched.before, "float32"),
        "after": (patched.after, "float32"),
    }
    return _message("patched", asked["id"], header, arrays)


def region_of(selection: Mapping[str, Any], to: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """The layers, and the positions or heads, of a spec's selection: one cell, or all from one corner to the other."""
    column = "pos" if selection["head"] is None else "head"
    sides = [sorted((selection[name], (to or selection)[name])) for name in ("layer", column)]
    layers, columns = ([*range(first, last + 1)] for first, last in sides)
    return layers, columns


def known_patch(model: Model, layers: list[int], columns: list[int], patched: Patched) -> dict[str, Any]:
    """What one patch did, as plain data, for the facts of a frozen page."""
    odds = zip(patched.ids.tolist(), patched.before.tolist(), patched.after.tolist(), strict=True)
    return {
        "layers": layers,
        "columns": columns,
        "value": patched.value,
        "odds": [{"id": i, "before": before, "after": after} for i, before, after in odds],
        "pieces": pieces_of(model, patched.ids),
    }


def pieces_of(model: Model, *ids: Iterable[int]) -> list[list[Any]]:
    """The texts of tokens, once each: `[id, text]`, or `[id, bytes]` where they are not valid UTF-8 by themselves."""
    shown = sorted({int(i) for some in ids for i in some})
    pieces = model.text.pieces(shown)
    return [[i, p if isinstance(p, str) else list(p)] for i, p in zip(shown, pieces, strict=True)]


def _message(kind: str, identity: str, header: dict[str, Any], arrays: Mapping[str, tuple[np.ndarray, str]]) -> Message:
    little = {
        name: np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")) for name, (array, dtype) in arrays.items()
    }
    entries = [{"name": name, "dtype": arrays[name][1], "shape": list(array.shape)} for name, array in little.items()]
    return reply(kind, identity, **header, arrays=entries), [array.tobytes() for array in little.values()]
