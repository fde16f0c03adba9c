"""The strongest products of the rows of two matrices, of which there may be hundreds of millions, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lenskit.circuits.by_weights.stream import Rows
from lenskit.largest import group_peaks, largest_under
from lenskit.row_products import row_products

TILE = 2048
"""So many rows by so many are multiplied at once: 17 MB of products."""


def strongest_pairs(left: Rows, n_left: int, right: Rows, n_right: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k products of a row of each that are largest in size: left row, right row, product; the largest first.

    Among equals the first rows come first. Never more than `TILE` x `TILE` products are in memory.

    >>> rows = torch.tensor([[1.0], [-3.0], [2.0]])
    >>> strongest_pairs(rows.__getitem__, 3, rows.__getitem__, 3, 2)[:2]
    (tensor([1, 1]), tensor([1, 2]))
    """
    best = _Best(k)
    for columns in blocks(n_right):
        across = right(columns)
        for rows in blocks(n_left):
            best.offer(row_products(left(rows).to(across), across), rows.start, columns.start)
    return best.in_order()


class _Best:
    """The k largest so far: left rows, right rows, products, each (pair,)."""

    def __init__(self, k: int) -> None:
        self.k, self.least = k, -1.0
        self.found: list[Tensor] | None = None

    def offer(self, products: Tensor, first_row: int, first_column: int) -> None:
        sizes = products.abs().view(1, -1)
        peaks = group_peaks(sizes, self.k)
        if float(peaks.max()) <= self.least:
            return
        places = largest_under(sizes, peaks, self.k)[1][0]
        rows = torch.div(places, products.shape[1], rounding_mode="floor") + first_row
        offered = [rows, places % products.shape[1] + first_column, products.view(-1)[places]]
        if self.found is not None:
            offered = [torch.cat(pair) for pair in zip(self.found, offered, strict=True)]
        weights = offered[2].abs()
        kept = weights.topk(min(self.k, len(weights))).indices
        self.found = [each[kept] for each in offered]
        if len(kept) == self.k:
            self.least = float(weights[kept[-1]])

    def in_order(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.found is not None
        rows, columns, weights = self.found
        order = columns.argsort(stable=True)
        order = order[rows[order].argsort(stable=True)]
        order = order[weights[order].abs().argsort(descending=True, stable=True)]
        return rows[order], columns[order], weights[order]


def blocks(n: int) -> list[slice]:
    """Rows 0 to n, no more than `TILE` at once."""
    return [slice(begin, min(begin + TILE, n)) for begin in range(0, n, TILE)]


def in_blocks(rows: Rows, n: int, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """What a function makes of each of n rows, (row, ...), which are in memory a block at a time."""
    return torch.cat([fn(rows(block)) for block in blocks(n)])
