"""Writes: all that many cells put into one site of one layer, put there in a few indexed copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lenskit.models.sites import LAYERED
from lenskit.patching.cells import Cell, Change

_IN_ORDER = {name: at for at, name in enumerate(LAYERED)}
OF_PATTERNS = ("scores", "pattern")


@dataclass(frozen=True, eq=False)
class _Piece:
    """Changes of one form: an index for each written part, and the parts one upon the other.

    cells, pos: (part,). further: the indices of the axes after the position, (part,) each; of `scores` and `pattern`
    the head. values: (part, ...).
    """

    cells: Tensor
    pos: Tensor
    further: tuple[Tensor, ...]
    values: Tensor


class Writes:
    """What the cells of a chunk change at one site of one layer. `cells` says whose changes they are, by number."""

    def __init__(self, site: str, layer: int, items: Sequence[tuple[int, Change]]) -> None:
        self.site, self.layer = site, layer
        forms = dict[tuple[bool, bool], list[tuple[int, Change]]]()
        for cell, change in items:
            forms.setdefault((change.heads is None, change.neurons is None), []).append((cell, change))
        self._pieces = [_piece(site, form) for form in forms.values()]
        self.cells = sorted({cell for cell, _ in items})

    def into(self, flat: Tensor, place: Tensor) -> Tensor:
        """Put them into a site's tensor (place, ...), in place; `place` (cell, pos) says where, -1 for nowhere."""
        for piece in self._pieces:
            where, further, values = place[piece.cells, piece.pos], piece.further, piece.values
            if not bool((here := where >= 0).all()):
                where, further, values = where[here], tuple(each[here] for each in further), values[here]
            index = tuple(each.to(flat.device) for each in (where, *further))
            flat[index] = values.to(flat.device, flat.dtype)
        return flat

    def into_pattern(self, pattern: Tensor, number: Tensor) -> Tensor:
        """Put them into `scores` or `pattern` (cell, head, query, key), in place.

        `number` (cell,) says which row of the batch a cell is, -1 for none.
        """
        for piece in self._pieces:
            where, heads, pos, values = number[piece.cells], piece.further[0], piece.pos, piece.values
            here = where >= 0
            index = tuple(each[here].to(pattern.device) for each in (where, heads, pos))
            pattern[index] = values[here].to(pattern.device, pattern.dtype)
        return pattern


def _piece(site: str, items: Sequence[tuple[int, Change]]) -> _Piece:
    parts = [_of_one(site, cell, change) for cell, change in items]
    return _Piece(
        torch.cat([part.cells for part in parts]),
        torch.cat([part.pos for part in parts]),
        tuple(torch.cat(each) for each in zip(*(part.further for part in parts), strict=True)),
        torch.cat([part.values.to(parts[0].values.device) for part in parts]),
    )


def _of_one(site: str, cell: int, change: Change) -> _Piece:
    """One change as index and values, part by part. Raises `ValueError` for a value of another shape."""
    value, where = change.value, change.where
    chosen: list[Sequence[int]] = [change.pos]
    if site in OF_PATTERNS:
        if change.neurons is not None:
            raise ValueError(f"{where} has no neurons to choose from.")
        chosen = [change.heads if change.heads is not None else range(value.shape[0]), change.pos]
    else:
        if change.heads is not None:
            chosen.append(change.heads)
        if change.neurons is not None:
            if change.heads is None and value.dim() > 2:
                chosen.append(range(value.shape[1]))
            chosen.append(change.neurons)
    sizes = [len(each) for each in chosen]
    if list(value.shape[: len(sizes)]) != sizes:
        raise ValueError(f"a change of {where} at {sizes} places has a value of shape {tuple(value.shape)}.")
    grid = torch.meshgrid(*(torch.tensor(each, dtype=torch.long) for each in chosen), indexing="ij")
    index = [each.flatten() for each in grid]
    values = value.detach().flatten(0, len(sizes) - 1)
    pos = index.pop(1 if site in OF_PATTERNS else 0)
    return _Piece(torch.full_like(pos, cell), pos, tuple(index), values)


def writes_of(cells: Iterable[Cell]) -> dict[int, dict[str, Writes]]:
    """By layer and site, in the order in which the sites come in a forward."""
    found = dict[tuple[int, int, str], list[tuple[int, Change]]]()
    for number, cell in enumerate(cells):
        for change in cell.changes:
            found.setdefault((change.layer, _IN_ORDER[change.site], change.site), []).append((number, change))
    made = dict[int, dict[str, Writes]]()
    for layer, _, site in sorted(found):
        made.setdefault(layer, {})[site] = Writes(site, layer, found[layer, _IN_ORDER[site], site])
    return made


def taker_of(writes: Writes, place: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
    """What is called with a site's tensor (row, pos, ...) to put the changes in."""

    def take(tensor: Tensor) -> Tensor:
        new = tensor.clone(memory_format=torch.contiguous_format)
        writes.into(new.view(-1, *new.shape[2:]), place())
        return new

    return take
