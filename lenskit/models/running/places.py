"""Places: which rows, positions and heads of a site's tensor are meant, also in a padded batch and while generating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenskit.models.running.which import Which, indices, once
from lenskit.models.sites import Axes


@dataclass(frozen=True)
class Moment:
    """Where a forward stands in its text: how many columns were read before it, and in which step of a generation.

    Attributes:
        mask: (batch, columns so far), 1 for a real token; None where nothing is padded.
        rows: how many prompts there are.
        before: how many columns earlier forwards have read.
        length: how many columns this forward reads.
        step: 0 for the prompt, then one for each generated token.
    """

    mask: Tensor | None
    rows: int
    before: int
    length: int
    step: int = 0

    @cached_property
    def texts(self) -> Sequence[Sequence[int]]:
        """For each row, the columns that hold its text so far, in order: the row's position 0, 1, ..."""
        if self.mask is None:
            return [range(self.before + self.length)] * self.rows
        return [[column for column, real in enumerate(row) if real] for row in self.mask.tolist()]


@lru_cache(maxsize=256)
def whole_prompt(rows: int, length: int) -> Moment:
    """The moment of a forward that reads prompts of one length from their beginning."""
    return Moment(None, rows, 0, length)


class Choice(NamedTuple):
    """What is chosen, as a person says it."""

    rows: Which = None
    pos: Which = None
    heads: Which = None


class Places:
    """Chosen rows, positions and heads of one tensor.

    Attributes:
        counts: how many positions are chosen in each chosen row.
        gridded: whether it is the same number in each. Then a part has the axes of its site, (row, pos, ...), or
            (row, head, pos, key) for scores and pattern; else (place, ...), one row after another.
    """

    counts: Sequence[int] = ()
    gridded = True

    def take(self, tensor: Tensor, axes: Axes) -> Tensor:
        """The chosen part, which may be a view."""
        raise NotImplementedError

    def put(self, tensor: Tensor, part: Tensor, axes: Axes) -> Tensor:
        """A copy of the tensor with the chosen part, shaped as `take` gives it, in its place."""
        raise NotImplementedError


class Whole(Places):
    """Every row, position and head."""

    def take(self, tensor: Tensor, axes: Axes) -> Tensor:
        return tensor

    def put(self, tensor: Tensor, part: Tensor, axes: Axes) -> Tensor:
        # Always a copy: the model may write into what it is given, and the part may be a tensor of the user's.
        return part.to(tensor.dtype).expand_as(tensor).clone(memory_format=torch.contiguous_format)


class Box(Places):
    """The same positions in each chosen row, and all of them slices: nothing has to be gathered."""

    def __init__(self, rows: slice, columns: slice, heads: slice, counts: Sequence[int]) -> None:
        self.rows, self.columns, self.heads, self.counts = rows, columns, heads, counts

    def index(self, axes: Axes) -> tuple[slice, ...]:
        """Where it is in a site's tensor."""
        if axes.pos == 2:
            return (self.rows, self.heads, self.columns)
        return (self.rows, self.columns) if axes.head is None else (self.rows, self.columns, self.heads)

    def take(self, tensor: Tensor, axes: Axes) -> Tensor:
        return tensor[self.index(axes)]

    def put(self, tensor: Tensor, part: Tensor, axes: Axes) -> Tensor:
        new = tensor.clone()
        new[self.index(axes)].copy_(part)
        return new


class Scattered(Places):
    """Any pairs of a row and a column, and any heads."""

    def __init__(self, pairs: list[tuple[int, int]], heads: list[int] | None, device: Any) -> None:
        index = torch.tensor(pairs, device=device)
        self.rows, self.columns = index[:, 0], index[:, 1]
        self.heads = None if heads is None else torch.tensor(heads, device=device)
        counts = dict[int, int]()
        for row, _ in pairs:
            counts[row] = counts.get(row, 0) + 1
        self.counts = list(counts.values())
        self.gridded = len(set(self.counts)) == 1
        # Padded keys are never attended to, whatever becomes of scores and pattern.
        self.keys: Tensor | None = None

    @property
    def _index(self) -> tuple[Tensor, ...]:
        if self.heads is None:
            return (self.rows, self.columns)
        return (self.rows[:, None], self.columns[:, None], self.heads)

    def take(self, tensor: Tensor, axes: Axes) -> Tensor:
        part = (tensor.transpose(1, 2) if axes.pos == 2 else tensor)[self._index]
        if not self.gridded:
            return part
        part = part.unflatten(0, (len(self.counts), self.counts[0]))
        return part.transpose(1, 2) if axes.pos == 2 else part

    def put(self, tensor: Tensor, part: Tensor, axes: Axes) -> Tensor:
        new = tensor.clone()
        view = new.transpose(1, 2) if axes.pos == 2 else new
        if self.gridded:
            part = (part.transpose(1, 2) if axes.pos == 2 else part).flatten(0, 1)
        view[self._index] = part.to(new.dtype)
        if self.keys is None or axes.pos != 2:
            return new
        # A cache may hold the last keys only (a sliding window), or have room for more than there are.
        seen, known = tensor.shape[-1], self.keys.shape[-1]
        keys = self.keys[..., -seen:] if seen <= known else torch.nn.functional.pad(self.keys, (0, seen - known))
        return torch.where(keys, new, tensor)


_WHOLE, _ALL = Whole(), slice(None)


def places(moment: Moment, choice: Choice, n_heads: int | None, device: Any, open_end: bool = False) -> Places | None:
    """What is chosen of a tensor at this moment, or None where none of the positions is in this forward.

    Positions count from each row's own first token, whatever the padding; negative ones from its last so far. Without
    a choice every position of the text is meant, and no padding. Raises `IndexError` where something cannot exist;
    with `open_end`, the text goes on in later forwards, and a position after its end may be yet to come.
    """
    rows, pos, heads = choice
    if heads is None:
        chosen_heads = None
    elif n_heads is None:
        raise IndexError("this site has no heads to choose from.")
    else:
        chosen_heads = indices(heads, n_heads, "head")
    if moment.mask is None:
        if rows is None and pos is None and heads is None:
            return _WHOLE
        if rows is None and type(pos) is int and heads is None and not open_end:
            return _one_position(pos, moment.rows, moment.before, moment.length)
        columns = _columns(moment, moment.texts[0], pos, open_end)
        chosen_rows = indices(rows, moment.rows, "row")
        if not columns:
            return None
        spans = _span(chosen_rows), _span(columns), _ALL if chosen_heads is None else _span(chosen_heads)
        if None not in spans:
            return Box(*spans, counts=[len(columns)] * len(chosen_rows))  # pyright: ignore[reportArgumentType]
        return Scattered([(row, column) for row in chosen_rows for column in columns], chosen_heads, device)
    pairs = [
        (row, column)
        for row in indices(rows, moment.rows, "row")
        for column in _columns(moment, moment.texts[row], pos, open_end)
    ]
    if not pairs:
        return None
    chosen = Scattered(pairs, chosen_heads, device)
    chosen.keys = moment.mask.bool()[:, None, None].to(device)
    return chosen


@lru_cache(maxsize=1024)
def _one_position(pos: int, rows: int, before: int, length: int) -> Places | None:
    """One position of every row: what most patches and sweeps choose, many times over."""
    (column,) = indices(pos, before + length, "pos")
    column -= before
    if not 0 <= column < length:
        return None
    return Box(slice(0, rows), slice(column, column + 1), _ALL, counts=[1] * rows)


def _columns(moment: Moment, text: Sequence[int], pos: Which, open_end: bool) -> list[int]:
    """The columns of this forward, counted from 0, that hold a row's chosen positions."""
    size = len(text)
    if pos is None:
        chosen = range(size)
    elif isinstance(pos, slice):
        chosen = range(size)[pos]
    elif open_end:  # a position that is reached in another step exists all the same
        asked = [pos] if isinstance(pos, int) else list(pos)
        chosen = once([p % size for p in asked if -size <= p < size], pos, "pos")
    else:
        chosen = indices(pos, size, "pos")
    columns = (text[p] - moment.before for p in chosen)
    return [column for column in columns if 0 <= column < moment.length]


def check_layout(tensor: Tensor, axes: Axes, moment: Moment, what: object, site: object) -> None:
    """Raise `ValueError` where a module's tensor has not the prompts' rows and positions to choose from."""
    if tensor.dim() <= axes.pos or (tensor.shape[0], tensor.shape[axes.pos]) != (moment.rows, moment.length):
        raise ValueError(
            f"{what!r}: the tensor of {site} is {tuple(tensor.shape)} and not (batch, pos, ...) with "
            f"({moment.rows}, {moment.length}) in front, so rows and positions, or what is padding, cannot be chosen."
        )


def columns_of(moment: Moment, pos: Which) -> list[list[int]]:
    """For each row, the columns of this forward that hold its chosen positions."""
    return [_columns(moment, text, pos, False) for text in moment.texts]


def _span(chosen: list[int]) -> slice | None:
    """Ascending indices at equal distances, as a slice."""
    if len(chosen) == 1:
        return slice(chosen[0], chosen[0] + 1)
    step = chosen[1] - chosen[0]
    if step > 0 and all(b - a == step for a, b in pairwise(chosen)):
        return slice(chosen[0], chosen[-1] + 1, step)
    return None
