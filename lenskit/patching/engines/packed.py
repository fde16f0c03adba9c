"""Packed rows: the positions of all cells that can differ travel through the model's own layers as one sequence.

A cell equals the base run up to its first layer and before its first position. Everything in a decoder's layer but
attention works on one position at a time, so the rows of many cells can go through it together, in any order; in
attention each cell is put together again (row_attention.py). Whether that holds for a model is measured (verdict.py).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from lenskit.models.anatomy import Anatomy
from lenskit.models.attention import SIDES, substituted
from lenskit.models.running.doors import in_order
from lenskit.models.sites import Site
from lenskit.models.taps import Point, Taker, first_tensor, tapped
from lenskit.patching.cells import Cell
from lenskit.patching.engines.base import Base, Layer, chosen
from lenskit.patching.engines.row_attention import Halted, KeysOnly, OutOfReach, RowAttention
from lenskit.patching.engines.rows import Rows, joining
from lenskit.patching.engines.writes import OF_PATTERNS, Writes, taker_of, writes_of


class Packed:
    """Some cells on their way through the layers.

    Args:
        base: the run of the prompt, with what blocks were called with.
        axes: for each layer, which axes of its arguments and keywords are those of the positions.
        cells: the cells, in the order in which they begin.
        read: the positions that are read.
        room: how many bytes an attention may take at once.

    Attributes:
        rows: the rows that are alive.
        most: how many rows there were at most.
        passed, seconds: how often a row has gone through a layer, and how long that took.
    """

    def __init__(
        self, anatomy: Anatomy, base: Base, axes: Sequence[Any], cells: Sequence[Cell], read: Sequence[int], room: int
    ) -> None:
        self.anatomy, self.base, self.axes, self.read, self.room = anatomy, base, axes, read, room
        self.writes = writes_of(cells)
        patterned = any(site in OF_PATTERNS for sites in self.writes.values() for site in sites)
        # A pattern that is put in may look at any position.
        last = base.length - 1 if patterned else max(read)
        self.depth = len(base.layers)
        self.joins = joining(cells, last, self.depth)
        self.rows = Rows.none(len(cells), base.length)
        self.hidden = base.resid[0].new_empty(0, base.resid[0].shape[1])
        self.most, self.passed, self.seconds = 0, 0, 0.0

    def steps(self) -> Generator[None, None, Tensor]:
        """Go through the layers, with a pause after each. Gives the last residual, (cell, read, d_model)."""
        for layer in range(self.depth):
            begun = perf_counter()
            self._join(layer)
            rows = len(self.rows)
            if rows:
                with torch.no_grad(), self.anatomy.eagerly():
                    self._through(layer)
                self.most = max(self.most, rows)
                self.passed, self.seconds = self.passed + rows, self.seconds + perf_counter() - begun
                yield
        return self._ends()

    def _join(self, layer: int) -> None:
        if layer in self.joins:
            cell, pos = self.joins[layer]
            self.rows = self.rows.joined_by(cell, pos)
            resid = self.base.resid[layer]
            self.hidden = torch.cat([self.hidden.to(resid.device), resid[pos.to(resid.device)]])
        writes = self.writes.get(layer, {}).get("resid_pre")
        if writes is not None and len(self.rows):
            self.hidden = writes.into(self.hidden.clone(), self.rows.place)

    def _through(self, layer: int) -> None:
        expected = self.base.layers[layer].attention
        wanted = self._read_rows() if layer == self.depth - 1 and len(expected) <= 1 else None
        if wanted is not None and not len(wanted):
            self.rows, self.hidden = self.rows.only(wanted), self.hidden[:0]
            return
        if wanted is None or not expected or 2 * len(wanted) > len(self.rows):
            self.hidden = self._pass(layer, self._attention(layer))
            return
        # Of the last layer only what is read matters, and of all other rows only their keys and values there.
        gathering = KeysOnly(expected, self._of_attention(layer), self.rows, self.room)
        try:
            self._pass(layer, gathering)
        except Halted:
            pass
        else:
            raise OutOfReach(f"layer {layer} called no attention function")
        every, self.rows = self.rows, self.rows.only(wanted)
        self.hidden = self.hidden[wanted.to(self.hidden.device)]
        self.hidden = self._pass(layer, self._attention(layer, [gathering.found], every))

    def _read_rows(self) -> Tensor:
        places = self.rows.place[:, list(self.read)].flatten()
        return places[places >= 0]

    def _attention(
        self, layer: int, given: Sequence[tuple[Tensor, Tensor]] = (), of: Rows | None = None
    ) -> RowAttention:
        expected = self.base.layers[layer].attention
        return RowAttention(expected, self._of_attention(layer), self.rows, self.room, given, of)

    def _of_attention(self, layer: int) -> dict[str, Writes]:
        found = {site: writes for site, writes in self.writes.get(layer, {}).items() if site in SIDES}
        called = [each.module for each in self.base.layers[layer].attention]
        if any(called != [self.anatomy.spot(Site(site, layer)).point.module] for site in found):
            raise OutOfReach(f"the attention of layer {layer} is not one call of transformers' attention functions")
        return found

    def _pass(self, layer: int, attention: RowAttention) -> Tensor:
        """Send the rows through a block. Gives what leaves it, (row, d_model)."""
        block = self.anatomy.blocks[layer]
        args, kwargs = arguments(self.base.layers[layer], self.axes[layer], self.hidden[None], self.rows.pos)
        with substituted(attention), tapped(self._takers(layer)):
            out = first_tensor(block(*args, **kwargs))
        if attention.calls != len(attention.expected) or out is None or out.shape != (1, *self.hidden.shape):
            raise OutOfReach(f"layer {layer} gave {None if out is None else tuple(out.shape)} for its rows")
        return out[0]

    def _takers(self, layer: int) -> Mapping[Point, Taker]:
        takes = dict[Point, list[Taker]]()
        for site, writes in self.writes.get(layer, {}).items():
            if site in SIDES or site == "resid_pre":
                continue
            spot = self.anatomy.spot(Site(site, layer))
            takes.setdefault(spot.point, []).append(spot.taking(taker_of(writes, self._place), rows=1))
        return {point: in_order(each) for point, each in takes.items()}

    def _place(self) -> Tensor:
        return self.rows.place

    def _ends(self) -> Tensor:
        last = self.base.resid[self.depth]
        ends = last[list(self.read)].expand(len(self.rows.place), -1, -1).clone()
        place = self.rows.place[:, list(self.read)]
        there = place >= 0
        ends[there.to(ends.device)] = self.hidden.to(ends.device)[place[there].to(self.hidden.device)]
        return ends


def arguments(layer: Layer, axes: Any, hidden: Tensor, pos: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a block is called with for rows of these positions, with their hidden state (1, row, d_model)."""
    args, kwargs = layer.args, layer.kwargs
    of_args, of_kwargs = axes
    given = first_tensor(args)
    key = None if given is not None else next(k for k, part in kwargs.items() if isinstance(part, Tensor))
    new_args = list(chosen(args, of_args, pos))
    new_kwargs = dict(chosen(kwargs, of_kwargs, pos))
    if key is None:
        new_args[next(i for i, part in enumerate(args) if part is given)] = hidden
    else:
        new_kwargs[key] = hidden
    return tuple(new_args), new_kwargs
