"""Attention of packed rows: each cell's rows are laid over the base run's keys and values, and attend there.

The model's own attention function does the work, with the base run's mask and options: soft-caps, sinks, windows and
scales come along. It sees a batch of whole prompts, one for each cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.running.attention_math import Attend, attend
from lenskit.patching.engines.base import Attended
from lenskit.patching.engines.rows import Rows
from lenskit.patching.engines.writes import OF_PATTERNS, Writes


class OutOfReach(RuntimeError):
    """Raised where packed rows meet a model in which they would be wrong."""


class RowAttention:
    """What stands in for the attention functions of one layer, for one pass of rows through it.

    Args:
        expected: the base run's calls in this layer, in order.
        writes: what is changed at q, k, v, scores and pattern.
        rows: the rows that go through the layer.
        room: how many bytes of queries, keys, values and outputs there may be at once.
        given: keys and values of all rows, by call, where only some of the rows go through now; `rows` are these, and
            `of` all of them.
    """

    def __init__(
        self,
        expected: Sequence[Attended],
        writes: Mapping[str, Writes],
        rows: Rows,
        room: int,
        given: Sequence[tuple[Tensor, Tensor]] = (),
        of: Rows | None = None,
    ) -> None:
        self.expected, self.writes, self.rows, self.room = expected, writes, rows, room
        self.given, self.of = given, rows if of is None else of
        self.calls = 0

    def __call__(
        self,
        own: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        kwargs: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        there = self._next(module)
        keys, values = self.given[self.calls - 1] if self.given else self.states(there, key, value)
        queries = self._changed("q", query)
        if queries.shape[0] != len(self.rows):
            raise OutOfReach(f"attention was given {query.shape[2]} queries for {len(self.rows)} rows")
        out = queries.new_empty(len(self.rows), queries.shape[1], values.shape[2])
        for cells, takes in self._groups(keys, values, queries):
            mixed = self._attended(own, there, cells, queries, keys, values, takes)
            rows = (self._number(cells)[self.rows.cell] >= 0).nonzero()[:, 0]
            index = self._number(cells)[self.rows.cell[rows]] * self._length + self.rows.pos[rows]
            out[rows.to(out.device)] = mixed.flatten(0, 1)[index.to(out.device)]
        return out[None], None

    def states(self, there: Attended, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(pos + row, kv_head, d_head): the base run's keys and values, and the rows' behind them."""
        keys, values = self._changed("k", key), self._changed("v", value)
        if keys.shape != (len(self.of), *there.keys.shape[1:]) or len(there.keys) != self._length:
            raise OutOfReach(f"attention was given keys of shape {tuple(key.shape)} for {len(self.of)} rows")
        return torch.cat([there.keys, keys]), torch.cat([there.values, values])

    def _next(self, module: nn.Module) -> Attended:
        if self.calls >= len(self.expected) or self.expected[self.calls].module is not module:
            raise OutOfReach("attention was called otherwise than in the run of the prompt")
        self.calls += 1
        return self.expected[self.calls - 1]

    @property
    def _length(self) -> int:
        return self.rows.place.shape[1]

    def _changed(self, side: str, states: Tensor) -> Tensor:
        """(row, head, d_head), with what is changed at this site."""
        flat = states[0].transpose(0, 1)
        if side not in self.writes:
            return flat
        return self.writes[side].into(flat.clone(memory_format=torch.contiguous_format), self.rows.place)

    def _number(self, cells: Tensor) -> Tensor:
        """(cell,): the row of the batch in which a cell is, -1 for none."""
        number = torch.full((len(self.rows.place),), -1)
        number[cells] = torch.arange(len(cells))
        return number

    def _groups(self, keys: Tensor, values: Tensor, queries: Tensor) -> Iterator[tuple[Tensor, Mapping[str, Writes]]]:
        """The cells that are alive, so many at once as there is room for; those with changed patterns by themselves."""
        heads = queries.shape[1]
        each = self._length * (keys[0].numel() + values[0].numel() + queries[0].numel() + heads * values.shape[2])
        each = (each + 2 * heads * self._length**2) * queries.element_size()
        most = max(1, self.room // each)
        takes = {side: self.writes[side] for side in OF_PATTERNS if side in self.writes}
        patterned = {cell for writes in takes.values() for cell in writes.cells}
        alive = list(range(self.rows.cells))
        for special in (False, True):
            group = [cell for cell in alive if (cell in patterned) is special] if patterned else alive
            if special and not patterned:
                break
            for start in range(0, len(group), most):
                yield torch.tensor(group[start : start + most]), takes if special else {}

    def _attended(
        self,
        own: Attend,
        there: Attended,
        cells: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        takes: Mapping[str, Writes],
    ) -> Tensor:
        """(cell, pos, head, d_head)"""
        source = self.of.source(cells).flatten().to(keys.device)
        asking = self.rows.place[cells].flatten().clamp(min=0).to(queries.device)
        batch = [
            table.index_select(0, index).unflatten(0, (len(cells), self._length)).transpose(1, 2)
            for table, index in ((queries, asking), (keys, source), (values, source))
        ]
        if not takes:
            return own(there.module, *batch, there.mask, **there.kwargs)[0]
        number = self._number(cells)
        takers = {
            side: lambda pattern, writes=writes: writes.into_pattern(pattern.clone(), number)
            for side, writes in takes.items()
        }
        return attend(own, there.module, batch[0], batch[1], batch[2], there.mask, there.kwargs, takers)[0]


class Halted(BaseException):
    """Ends a block's pass when the keys and values of its rows are there; never seen outside."""


class KeysOnly(RowAttention):
    """Gathers the keys and values of all rows, and ends the pass there."""

    def __call__(
        self,
        own: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        kwargs: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        self.found = self.states(self._next(module), key, value)
        raise Halted
