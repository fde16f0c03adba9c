"""The Python half of the wire: a trajectory as one message and its buffers. `widgets/WIRE.md` describes both halves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lenskit.lenses.between import Comparison
    from lenskit.lenses.trajectory import Trajectory
    from lenskit.models.text import Piece

VERSION = 1
_BETWEEN = ("kl", "js", "total_variation", "largest_change", "changed_ids")
_DTYPES = {"int32": np.int32, "uint16": np.uint16, "float32": np.float32}


@dataclass
class Sender:
    """What the views of one widget hold of one side: the last table sent, and the tokens whose text they know.

    A table goes out whole, or as the columns that are new, on top of the table that the asking view holds.
    """

    vocab: int
    table: int = 0
    sent: dict[str, np.ndarray] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)

    def table_of(self, trajectory: Trajectory, have: int | None) -> tuple[dict[str, Any], list[bytes]]:
        """A trajectory as fields of a message and its buffers, for a view that holds the table `have`."""
        whole = self._arrays(trajectory)
        start, base = 0, None
        if have is not None and have == self.table:
            start, base = _shared(self.sent, whole), have
        else:
            self.known = set()
        self.table, self.sent = self.table + 1, whole
        arrays = {name: array[start:] for name, array in whole.items()}
        shown = {int(i) for name in arrays if name.endswith("ids") for i in np.unique(arrays[name])}
        fields = {
            "table": self.table,
            "base": base,
            "start": start,
            "positions": len(trajectory.ids),
            "site": trajectory.site,
            "layers": trajectory.layers.tolist(),
            "k": trajectory.top_ids.shape[-1],
            "pieces": self._pieces(trajectory, shown),
            "arrays": entries(arrays),
        }
        return fields, [array.tobytes() for array in arrays.values()]

    def _arrays(self, trajectory: Trajectory) -> dict[str, np.ndarray]:
        token = "uint16" if self.vocab <= 1 << 16 else "int32"
        columns = {
            "ids": (trajectory.ids, "int32"),
            "top_ids": (trajectory.top_ids.swapaxes(0, 1), token),
            "top_probs": (trajectory.top_probs.swapaxes(0, 1), "float32"),
            "entropy": (trajectory.entropy.T, "float32"),
            "kl": (trajectory.kl.T, "float32"),
            "target_ids": (trajectory.target_ids, "int32"),
            "target_log_prob": (trajectory.target_log_prob.T, "float32"),
            "target_rank": (trajectory.rank.T, "int32"),
        }
        if trajectory.versus_ids is not None and trajectory.versus_log_prob is not None:
            columns["versus_ids"] = (trajectory.versus_ids, "int32")
            columns["versus_log_prob"] = (trajectory.versus_log_prob.T, "float32")
        return {name: little(array, dtype) for name, (array, dtype) in columns.items()}

    def _pieces(self, trajectory: Trajectory, shown: Iterable[int]) -> list[list[Any]]:
        new = sorted(set(shown) - self.known)
        self.known.update(new)
        return [[i, text_of(trajectory.pieces[i])] for i in new]


def between(comparison: Comparison) -> tuple[dict[str, Any], list[bytes]]:
    """How far apart the two sides are, whole: the position first."""
    arrays = {
        name: little(getattr(comparison, name).T, "int32" if name == "changed_ids" else "float32") for name in _BETWEEN
    }
    pieces = [[i, text_of(piece)] for i, piece in comparison.pieces.items()]
    return {"pieces": pieces, "arrays": entries(arrays)}, [array.tobytes() for array in arrays.values()]


def little(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array as it travels: contiguous, little-endian."""
    return np.ascontiguousarray(array, np.dtype(_DTYPES[dtype]).newbyteorder("<"))


def entries(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """What a message says of its buffers."""
    return [{"name": name, "dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()]


def text_of(piece: Piece) -> str | list[int]:
    """A token as it travels: its text, or its bytes where they are no text by themselves."""
    return piece if isinstance(piece, str) else list(piece)


def _shared(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> int:
    """How many columns are the same, number by number: an edit of the model changes them below the same tokens."""
    if before.keys() != now.keys():
        return 0
    length = min(len(before["ids"]), len(now["ids"]))
    for name, array in now.items():
        old = before[name]
        if old.shape[1:] != array.shape[1:]:
            return 0
        same = old[:length] == array[:length]
        differ = np.flatnonzero(~same.reshape(length, -1).all(1)) if length else []
        length = int(differ[0]) if len(differ) else length
    return length
