"""The Python half of the wire: a trajectory as one message and its buffers. `widgets/WIRE.md` describes both halves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lenskit.lenses.trajectory import Trajectory
    from lenskit.models.text import Piece

VERSION = 1
_DTYPES = {"int32": np.int32, "uint16": np.uint16, "float32": np.float32}


@dataclass
class Sender:
    """What the views of one widget hold: the last table sent, and the tokens whose text they know.

    A table goes out whole, or as the columns that are new, on top of the table that the asking view holds.
    """

    vocab: int
    table: int = 0
    sent: Trajectory | None = None
    target: int | None = None
    known: set[int] = field(default_factory=set)

    def message(
        self, trajectory: Trajectory, *, target: int | None, have: int | None, more: dict[str, Any]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The `table` message of a trajectory and its buffers; `more` are the fields that depend on the request."""
        start, base = 0, None
        if have is not None and have == self.table and self.sent is not None and target == self.target:
            start, base = _shared(self.sent.ids, trajectory.ids), have
        if base is None:
            self.known = set()
        self.table, self.sent, self.target = self.table + 1, trajectory, target
        arrays = self._arrays(trajectory, start)
        shown = {int(i) for name in ("ids", "top_ids", "target_ids") for i in np.unique(arrays[name])}
        header = {
            "v": VERSION,
            "kind": "table",
            "table": self.table,
            "base": base,
            "start": start,
            "positions": len(trajectory.ids),
            "target": target,
            "layers": list(range(trajectory.shape[0])),
            "k": trajectory.top_ids.shape[-1],
            "pieces": self._pieces(trajectory, shown),
            "arrays": [
                {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()
            ],
            **more,
        }
        return header, [array.tobytes() for array in arrays.values()]

    def _arrays(self, trajectory: Trajectory, start: int) -> dict[str, np.ndarray]:
        token = "uint16" if self.vocab <= 1 << 16 else "int32"
        columns = {
            "ids": (trajectory.ids, "int32"),
            "top_ids": (trajectory.top_ids.swapaxes(0, 1), token),
            "top_probs": (trajectory.top_probs.swapaxes(0, 1), "float32"),
            "entropy": (trajectory.entropy.T, "float32"),
            "kl": (trajectory.kl.T, "float32"),
            "target_ids": (trajectory.target_ids, "int32"),
            "target_prob": (trajectory.target_probability.T, "float32"),
            "target_rank": (trajectory.rank.T, "int32"),
        }
        little = {name: np.dtype(_DTYPES[dtype]).newbyteorder("<") for name, (_, dtype) in columns.items()}
        return {name: np.ascontiguousarray(array[start:], little[name]) for name, (array, _) in columns.items()}

    def _pieces(self, trajectory: Trajectory, shown: Iterable[int]) -> list[list[Any]]:
        new = sorted(set(shown) - self.known)
        self.known.update(new)
        return [[i, _text(trajectory.pieces[i])] for i in new]


def _text(piece: Piece) -> str | list[int]:
    return piece if isinstance(piece, str) else list(piece)


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length
