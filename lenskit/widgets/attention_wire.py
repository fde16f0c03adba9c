"""The Python half of the wire of the attention view. `widgets/WIRE.md` describes both halves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.models.head_ablation import HeadAblation
    from lenskit.models.patterns import Attention, HeadScores
    from lenskit.models.text import Piece

Head = tuple[int, int]

# One tile for each head: no more of them than a screen can show apart, in no more than a megabyte.
_SIDE = 48
_TILES = 1024**2
# What a frozen page may hold in exact patterns.
_FROZEN = 2 * 1024**2


@dataclass
class PatternSender:
    """What the views of one widget may hold: the number of the last patterns sent, and of which prompt they are."""

    table: int = 0
    sent: Attention | None = None

    def number(self, seen: Attention) -> int:
        """The number of these patterns: a new one for a new prompt."""
        if seen is not self.sent:
            # Read again with the sizes of the values, the patterns themselves are the very same memory.
            same = self.sent is not None and np.may_share_memory(self.sent.pattern, seen.pattern)
            self.table, self.sent = self.table + (not same), seen
        return self.table

    def message(
        self,
        seen: Attention,
        said: HeadAblation,
        *,
        modes: Sequence[str],
        scores: Sequence[HeadScores],
        heads: Iterable[Head],
        more: dict[str, Any],
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The `patterns` message and its buffers: tiles in these modes, scores of these kinds, these heads in full."""
        number, side = self.number(seen), tile_side(seen, len(modes))
        exact = list(heads)
        arrays = {"ids": _little(seen.ids, "int32")}
        if modes:
            arrays["tiles"] = np.stack([tiles(seen, mode, side) for mode in modes])
        if scores:
            arrays["scores"] = _little(np.stack([each.values for each in scores]), "float32")
        if exact:
            arrays |= _exact(seen, exact)
        arrays["next_ids"] = _little(said.ids, "int32")
        arrays["next_before"] = _little(said.before, "float32")
        arrays["next_after"] = _little(said.after, "float32")
        header = {
            "v": VERSION,
            "kind": "patterns",
            "table": number,
            "positions": len(seen.ids),
            "layers": list(seen.layers),
            "heads": list(seen.heads),
            "side": side,
            "modes": list(modes),
            "scored": [{"kind": s.kind, "positions": s.positions, "random": s.random} for s in scores],
            "exact": [list(head) for head in exact],
            "ablated": [list(head) for head in said.heads],
            "by": said.by,
            "kl": _number(said.kl),
            "pieces": _pieces({**said.pieces, **seen.pieces}),
            **_entries(arrays),
            **more,
        }
        return header, [array.tobytes() for array in arrays.values()]

    def head(self, seen: Attention, head: Head, identity: str) -> tuple[dict[str, Any], list[bytes]]:
        """The `head` message: one head in full."""
        arrays = _exact(seen, [head])
        number = self.number(seen)
        header = {"v": VERSION, "kind": "head", "id": identity, "table": number, "exact": [list(head)]}
        return {**header, **_entries(arrays)}, [array.tobytes() for array in arrays.values()]


def mode(show: str, hide_first: bool) -> str:
    """The name of one way to show patterns, such as `pattern/shown`."""
    return f"{show}/{'hidden' if hide_first else 'shown'}"


def tiles(seen: Attention, name: str, side: int) -> np.ndarray:
    """(layer, head, side, side) of all heads in one mode."""
    show, first = name.split("/")
    return seen.thumbnails(show, hide_first=first == "hidden", side=side)  # pyright: ignore[reportArgumentType]


def tile_side(seen: Attention, modes: int = 1) -> int:
    """How many pixels a tile is wide: as many as there are tokens, but for all heads and modes at most a megabyte."""
    heads = len(seen.layers) * max(seen.heads) * max(1, modes)
    return max(1, min(len(seen.ids), _SIDE, int((_TILES / heads) ** 0.5)))


def frozen_heads(seen: Attention, first: Iterable[Head], scores: Sequence[HeadScores]) -> list[Head]:
    """The heads that a frozen page holds in full: these first, then those with the highest score of any kind."""
    best = np.max([each.values for each in scores], axis=0) if scores else np.zeros(seen.pattern.shape[:2])
    all_heads = [(layer, head) for layer, n in zip(seen.layers, seen.heads, strict=True) for head in range(n)]
    by_score = sorted(all_heads, key=lambda at: -float(best[seen.layers.index(at[0]), at[1]]))
    ordered = list(dict.fromkeys([*first, *by_score]))
    return ordered[: max(1, _FROZEN // (4 * len(seen.ids) ** 2))]


def _exact(seen: Attention, heads: Sequence[Head]) -> dict[str, np.ndarray]:
    rows = [(seen.layers.index(layer), head) for layer, head in heads]
    arrays = {"pattern": _little(np.stack([seen.pattern[at] for at in rows]), "float32")}
    if seen.value_norm is not None:
        arrays["value_norm"] = _little(np.stack([seen.value_norm[at] for at in rows]), "float32")
    return arrays


def _entries(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    entries = [{"name": name, "dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()]
    return {"arrays": entries}


def _little(array: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))


def _number(value: float) -> float | None:
    """As JSON can have it: not infinite."""
    return value if np.isfinite(value) else None


def _pieces(pieces: dict[int, Piece]) -> list[list[Any]]:
    return [[i, piece if isinstance(piece, str) else list(piece)] for i, piece in sorted(pieces.items())]
