"""Counting: which tokens a lens reads in a region of layers and positions, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lenskit.models.text import Piece, show

if TYPE_CHECKING:
    import pandas as pd

    from lenskit.lenses.trajectory import Trajectory

_LISTED = 12


@dataclass(frozen=True, eq=False)
class Counts:
    """The tokens that a lens reads in a region, the most frequent first.

    Attributes:
        ids: (token,) their ids.
        counts: (token,) in how many cells of the region each is among the top.
        mass: (token,) the sum of its probabilities there, which decides between equal counts.
        cells: how many cells the region has.
        top: how many tokens of each cell were counted.
        places: for each token the (row, column) of its cells in the region, in reading order.
        pieces: the text of each token, by id.
        title: what was counted, in words.
    """

    ids: np.ndarray
    counts: np.ndarray
    mass: np.ndarray
    cells: int
    top: int
    places: tuple[np.ndarray, ...] = field(repr=False)
    pieces: dict[int, Piece] = field(repr=False)
    title: str

    @property
    def tokens(self) -> list[str]:
        """The tokens' text as it is, the most frequent first."""
        return [piece if isinstance(piece, str) else show(piece) for piece in self._pieces()]

    def _pieces(self) -> list[Piece]:
        return [self.pieces[i] for i in self.ids.tolist()]

    def __len__(self) -> int:
        return len(self.ids)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each token: its id, text, count, share of the cells, and mean probability where it is read."""
        import pandas as pd

        mean = self.mass / self.counts
        columns = {"id": self.ids, "token": self.tokens, "count": self.counts}
        return pd.DataFrame({**columns, "share": self.counts / self.cells, "mean_probability": mean})

    def __repr__(self) -> str:
        listed = ", ".join(f"{show(p)} {n}" for p, n in zip(self._pieces()[:_LISTED], self.counts, strict=False))
        more = f", and {len(self) - _LISTED} more" if len(self) > _LISTED else ""
        return f"Counts({self.title}: {listed}{more})"


def counted(
    trajectory: Trajectory,
    layers: int | slice | Sequence[int],
    pos: int | slice | Sequence[int],
    top: int,
) -> Counts:
    """Count the top tokens of every cell in a region. Raises as `Trajectory.counts` says."""
    held = trajectory.top_ids.shape[-1]
    if not 1 <= top <= held:
        raise ValueError(f"each cell holds its {held} likeliest tokens, not {top}: read with top_k={top}, or less.")
    region = trajectory[layers, pos]
    ids, probs = region.top_ids[..., :top], region.top_probs[..., :top].astype(np.float64)
    found, which = np.unique(ids, return_inverse=True)
    which = which.reshape(ids.shape)
    counts = np.bincount(which.ravel(), minlength=len(found))
    mass = np.bincount(which.ravel(), probs.ravel(), minlength=len(found))
    order = np.lexsort((found, -mass, -counts))
    names, columns = region.layer_names, region.positions
    rows = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    where = str(columns[0]) if len(columns) == 1 else f"{columns[0]} to {columns[-1]}"
    return Counts(
        ids=found[order],
        counts=counts[order],
        mass=mass[order],
        cells=ids.shape[0] * ids.shape[1],
        top=top,
        places=tuple(np.argwhere((which == n).any(-1)) for n in order),
        pieces={i: region.pieces[i] for i in found.tolist()},
        title=f"top {top} at layers {rows}, positions {where}",
    )
