"""Rows: the positions of cells that travel through the layers, and which of them join at which layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lenskit.patching.cells import Cell

# What is changed here reaches other positions within the same layer, through keys and values.
_REACHES_OTHERS = ("resid_pre", "attn_in", "k", "v")


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that are alive.

    Attributes:
        cell, pos: (row,), whose row it is, and which position of the prompt.
        place: (cell, pos), which row a position of a cell is; -1 where there is none, and it is as in the base run.
        cells: how many cells have begun.
    """

    cell: Tensor
    pos: Tensor
    place: Tensor
    cells: int

    def __len__(self) -> int:
        return len(self.cell)

    @classmethod
    def none(cls, cells: int, length: int) -> Rows:
        """No row as yet of so many cells."""
        empty = torch.empty(0, dtype=torch.long)
        return cls(empty, empty, torch.full((cells, length), -1), 0)

    def joined_by(self, cell: Tensor, pos: Tensor) -> Rows:
        """These and more, behind them."""
        place = self.place.clone()
        place[cell, pos] = torch.arange(len(self), len(self) + len(cell))
        cells = max(self.cells, int(cell.max()) + 1)
        return Rows(torch.cat([self.cell, cell]), torch.cat([self.pos, pos]), place, cells)

    def only(self, which: Tensor) -> Rows:
        """Some of them, in a new order."""
        place = torch.full_like(self.place, -1)
        place[self.cell[which], self.pos[which]] = torch.arange(len(which))
        return replace(self, cell=self.cell[which], pos=self.pos[which], place=place)

    def source(self, cells: slice | Tensor) -> Tensor:
        """(cell, pos), where a position is found in the base run's positions with the rows put behind them."""
        place, length = self.place[cells], self.place.shape[1]
        return torch.where(place >= 0, place + length, torch.arange(length))


Joining = dict[int, tuple[Tensor, Tensor]]
"""By layer, the cell and the position of each row that joins there."""


def joining(cells: Sequence[Cell], last: int, depth: int) -> Joining:
    """When the rows of cells, in the order in which these begin, are needed first; none after position `last`.

    A cell is all of its positions from the first one that is changed. In the layer where it begins, only those have to
    be computed that can differ from the base run there.
    """
    pairs = dict[int, list[tuple[int, int]]]()
    for number, cell in enumerate(cells):
        begin, every = cell.layer, range(cell.pos, last + 1)
        here = [change for change in cell.changes if change.layer == begin]
        if any(change.site in _REACHES_OTHERS for change in here):
            first = list(every)
        else:
            first = sorted({pos for change in here for pos in change.pos if pos <= last})
        pairs.setdefault(begin, []).extend((number, pos) for pos in first)
        if begin + 1 < depth:
            rest = sorted(set(every) - set(first))
            pairs.setdefault(begin + 1, []).extend((number, pos) for pos in rest)
    columns = {layer: torch.tensor(sorted(found), dtype=torch.long) for layer, found in pairs.items() if found}
    return {layer: (column[:, 0], column[:, 1]) for layer, column in columns.items()}


def count_rows(cells: Sequence[Cell], last: int, depth: int) -> int:
    """How often a row goes through a layer, where no position after `last` is read."""
    return sum(max(0, last + 1 - cell.pos) * (depth - cell.layer) for cell in cells)
