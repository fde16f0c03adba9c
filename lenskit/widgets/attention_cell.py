"""What is chosen in an attention view: a head, and within its pattern a query and a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import traitlets

if TYPE_CHECKING:
    from lenskit.models.patterns import Attention

FIELDS = ("layer", "head", "pos", "key")


class AttentionCell(NamedTuple):
    """What is chosen: a head and, within its pattern, a query and a key, or None where none is.

    >>> AttentionCell(16, 0, pos=9, key=8).head
    0
    """

    layer: int
    head: int
    pos: int | None = None
    key: int | None = None


def cell_of(value: Any, seen: Attention) -> AttentionCell:
    """The cell that a person means, counted from 0. Raises `TraitError` for what is none or is not there."""
    if isinstance(value, Mapping):
        value = tuple(value.get(name) for name in FIELDS)
    numbers = isinstance(value, Sequence) and len(value) in (2, 3, 4)
    if not numbers or not all(isinstance(i, int) or (i is None and at > 1) for at, i in enumerate(value)):
        raise traitlets.TraitError(
            f"a selection is None, (layer, head), (layer, head, pos, key) or an AttentionCell, not {value!r}."
        )
    layer, head, pos, key = AttentionCell(*value)
    length, depth = len(seen.ids), seen.layers[-1] + 1
    layer = layer % depth if -depth <= layer < depth else layer
    heads = seen.heads[seen.layers.index(layer)] if layer in seen.layers else 0
    places = [i for i in (pos, key) if i is not None]
    if not -heads <= head < heads or not all(-length <= i < length for i in places):
        raise traitlets.TraitError(
            f"{AttentionCell(*value)} is not there: {seen!r} has heads 0 to {max(seen.heads) - 1} and positions 0 to "
            f"{length - 1}."
        )
    pos, key = (None if i is None else i % length for i in (pos, key))
    return AttentionCell(layer, head % heads, pos, key)


def followed(cell: Mapping[str, int | None], fields: Mapping[str, int], seen: Attention) -> dict[str, int | None]:
    """A cell with those of the fields in place of its own whose values exist here."""
    new = dict(cell)
    layer = fields.get("layer", cell["layer"])
    if layer in seen.layers:
        new["layer"] = layer
    at = new["layer"]
    if at in seen.layers and 0 <= fields.get("head", -1) < seen.heads[seen.layers.index(at)]:
        new["head"] = fields["head"]
    for name in ("pos", "key"):
        if 0 <= fields.get(name, -1) < len(seen.ids):
            new[name] = fields[name]
    return new
