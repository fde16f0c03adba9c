"""Ends: what an engine gives: where the cells' forwards end, at the positions that are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ends:
    """The ends of a number of cells at the positions that are read; one of the two is None.

    Attributes:
        resid: (cell, read, d_model), the last `resid_post`, before the final norm; None where the model's way from
            there to the logits could not be followed.
        logits: (cell, read, vocab), where `resid` is None.
    """

    resid: Tensor | None
    logits: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """Whichever of the two is there."""
        there = self.resid if self.resid is not None else self.logits
        assert there is not None
        return there


class Chunk(NamedTuple):
    """Some cells that are done: which of the given ones, and their ends in the same order."""

    indices: Sequence[int]
    ends: Ends


@dataclass(frozen=True)
class Cost:
    """What a sweep will take, estimated before anything runs.

    Attributes:
        rows: how often a row (a position of a cell) goes through a layer.
        seconds: the time that takes here.
        bytes: the memory of one chunk.
    """

    rows: int
    seconds: float
    bytes: int
