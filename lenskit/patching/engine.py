"""Engine: the ends of many cells upon one prompt, each as exact as one plain forward per cell, at a fraction of it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lenskit.models.edits import Edit
from lenskit.models.model import Model
from lenskit.models.steps import finish, in_steps
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engines.base import Base, has_stream, itemsize, run_base, width_of
from lenskit.patching.engines.batches import batches_of, bytes_of_cell, run_batch
from lenskit.patching.engines.ends import Chunk, Cost, Ends
from lenskit.patching.engines.packed import Packed
from lenskit.patching.engines.row_attention import OutOfReach
from lenskit.patching.engines.rows import count_rows
from lenskit.patching.engines.verdict import audit, check_sites, measure, verdict_of, why_never

__all__ = ["Chunk", "Cost", "Ends", "Engine"]

PACKED, BATCHES = "packed rows", "one batch per layer"
BUDGET = 1 << 30
# More rows at once gain nothing, and partial results come later.
_MOST_ROWS = 2048


class Engine:
    """Computes cells upon one prompt: only what they can change, for many of them at once.

    Args:
        model: the model.
        tokens: the prompt, token ids (1, pos) or (pos,).

    The first time that cells change a site of a model, a few cells are measured against plain forwards. Where packed
    rows are right, they are taken; else one batch per layer, and `why` says why. Both equal one forward per cell.

    >>> engine = Engine(model, tokens)                                              # doctest: +SKIP
    >>> cells = [Cell((Change("resid_pre", 3, (5,), clean["resid_pre", 3][0, 5:6]),))]  # doctest: +SKIP
    >>> [chunk for chunk in engine.run(cells, read=[13]) if chunk is not None]      # doctest: +SKIP
    """

    def __init__(self, model: Model, tokens: Tensor) -> None:
        self.model, self.tokens = model, tokens.reshape(-1, tokens.shape[-1])
        if len(self.tokens) != 1:
            raise ValueError(f"an engine works upon one prompt, and these tokens are {tuple(tokens.shape)}.")
        self.why: str | None = None
        self._base: tuple[tuple[Edit, ...], Base] | None = None

    @property
    def name(self) -> str:
        """`packed rows` or `one batch per layer`; of cells that have not run yet, what is expected."""
        return PACKED if (self.why or why_never(self.model)) is None else BATCHES

    def base(self, read: Sequence[int]) -> Ends:
        """The ends of the prompt itself, (1, read, ...)."""
        base = finish(self._run_of_base())
        at = list(read)
        if base.logits is None:
            return Ends(base.resid[-1][at][None])
        return Ends(None, base.logits[at][None])

    def cost(self, cells: Sequence[Cell], budget: int = BUDGET) -> Cost:
        """What these cells will take, estimated: by the time of the prompt's own run, or of what has run before."""
        base, depth = finish(self._run_of_base()), self.model.n_layers
        cells = self._moved(cells)
        if self.name == BATCHES:
            rows = sum(base.length * (depth - cell.layer) for cell in cells)
            each = bytes_of_cell(self.model, base)
            most = min(len(cells), max(1, budget // each)) * each
        else:
            rows = count_rows(cells, base.length - 1, depth)
            chunks = _chunks(cells, base.length - 1, self._bytes_of_row(base), budget // 2)
            most = max((self._bytes_of_chunk(base, [cells[n] for n in chunk], budget) for chunk in chunks), default=0)
        pace = verdict_of(self.model, base).pace or base.seconds / (base.length * max(1, depth))
        return Cost(rows, rows * pace, most)

    def run(
        self, cells: Sequence[Cell], read: Sequence[int], budget: int = BUDGET
    ) -> Generator[Chunk | None, None, None]:
        """Yield the ends of cells at the positions `read`, chunk by chunk, about in the order of the cells.

        Between layers it yields None: whoever is asked for something else meanwhile closes the generator there, and
        nothing is left behind. `budget`: the bytes that may be taken at once, besides the prompt's own run.

        Raises `SiteUnavailable`, `IndexError` or `ValueError` for a change at a place that does not exist.
        """
        base = yield from self._run_of_base()
        at = [pos % base.length for pos in read]
        if any(not -base.length <= pos < base.length for pos in read) or not at:
            raise IndexError(f"read={list(read)}: the prompt has {base.length} positions.")
        check_sites(self.model, cells, base.length)
        cells = self._moved(cells)
        self.why = yield from self._why_not(base, cells, budget)
        once = sorted(set(at))
        column = [once.index(pos) for pos in at]
        done = 0
        if self.why is None:
            for numbers in _chunks(cells, once[-1], self._bytes_of_row(base), budget // 2):
                self._check_edits()
                try:
                    ends = yield from self._packed(base, [cells[n] for n in numbers], once, budget // 2)
                except OutOfReach as error:
                    self.why = self._learnt(base, cells, str(error))
                    break
                done = numbers[-1] + 1
                yield Chunk(numbers, Ends(ends[:, column]))
        if done < len(cells):
            yield from self._batches(base, cells, done, once, column, budget)

    def _moved(self, cells: Sequence[Cell]) -> list[Cell]:
        """The same cells, with what leaves a layer changed as what enters the next one: they begin a layer later."""
        depth = self.model.n_layers
        moving = has_stream(self.model) and any(c.site == "resid_post" for cell in cells for c in cell.changes)
        return [Cell(tuple(_entering(c, depth) for c in cell.changes)) for cell in cells] if moving else list(cells)

    def _run_of_base(self) -> Generator[None, None, Base]:
        edits = self.model.edits
        if self._base is None or self._base[0] != edits:
            with_calls = why_never(self.model) is None
            made = yield from in_steps(lambda: run_base(self.model, self.tokens, with_calls), self.model.anatomy.blocks)
            self._base = edits, made
        return self._base[1]

    def _why_not(self, base: Base, cells: Iterable[Cell], budget: int) -> Generator[None, None, str | None]:
        why = why_never(self.model)
        for site in sorted({change.site for cell in cells for change in cell.changes}):
            if why is None:
                yield from measure(self.model, base, site, budget // 2)
                why = verdict_of(self.model, base).sites[site]
        return why

    def _learnt(self, base: Base, cells: Sequence[Cell], why: str) -> str:
        """What has turned out, for the next time."""
        verdict_of(self.model, base).sites |= {change.site: why for cell in cells for change in cell.changes}
        return why

    def _check_edits(self) -> None:
        if self._base is None or self._base[0] != self.model.edits:
            raise RuntimeError("model.edits changed while cells were computed: begin again, upon the model as it is.")

    def _packed(
        self, base: Base, cells: Sequence[Cell], read: Sequence[int], room: int
    ) -> Generator[None, None, Tensor]:
        """(cell, read, d_model). Raises `OutOfReach` where that turns out not to be right."""
        verdict = verdict_of(self.model, base)
        order = sorted(range(len(cells)), key=lambda number: cells[number].layer)
        packed = Packed(self.model.anatomy, base, verdict.axes, [cells[n] for n in order], read, room)
        ends = (yield from packed.steps())[torch.tensor(order).argsort()]
        verdict.timed(packed)
        if why := (yield from audit(self.model, base, cells, read, packed.most, ends)):
            raise OutOfReach(why)
        return ends

    def _batches(
        self, base: Base, cells: Sequence[Cell], done: int, read: list[int], column: list[int], budget: int
    ) -> Generator[Chunk | None, None, None]:
        rest = cells[done:]
        for numbers in batches_of(rest, max(1, budget // bytes_of_cell(self.model, base))):
            self._check_edits()
            ends = yield from run_batch(self.model, base, [rest[n] for n in numbers], read)
            chosen = Ends(*(None if part is None else part[:, column] for part in (ends.resid, ends.logits)))
            yield Chunk([done + n for n in numbers], chosen)

    def _bytes_of_row(self, base: Base) -> int:
        return itemsize(self.model) * (8 * base.resid[0].shape[-1] + 3 * width_of(self.model))

    def _bytes_of_chunk(self, base: Base, cells: Sequence[Cell], budget: int) -> int:
        rows = sum(base.length - cell.pos for cell in cells)
        # Queries, keys, values and outputs of whole prompts.
        attention = 4 * len(cells) * base.length * base.resid[0].shape[-1] * itemsize(self.model)
        return rows * self._bytes_of_row(base) + min(budget // 2, attention)


def _entering(change: Change, depth: int) -> Change:
    if change.site != "resid_post" or change.layer == depth - 1:
        return change
    return replace(change, site="resid_pre", layer=change.layer + 1)


def _chunks(cells: Sequence[Cell], last: int, each: int, budget: int) -> Iterable[list[int]]:
    """Cells that go together, in their order: as many as there is room for their rows."""
    chunk, rows, most = list[int](), 0, max(1, min(_MOST_ROWS, budget // each))
    for number, cell in enumerate(cells):
        more = max(0, last + 1 - cell.pos)
        if chunk and rows + more > most:
            yield chunk
            chunk, rows = [], 0
        chunk.append(number)
        rows += more
    if chunk:
        yield chunk
