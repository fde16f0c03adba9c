"""The rows of a lens table: their numbers, the sites behind them, and the cell that a person or Python means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lenskit.models.sites import Site

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens
    from lenskit.lenses.live_comparison import Question


class Selection(NamedTuple):
    """The pinned cell: the site whose state is read there, and the position.

    The last row of a table is the model's own prediction, which is that of `resid_post` of the last layer.

    >>> selection = Selection(Site("resid_post", 27), 4)
    >>> selection.layer, selection.pos
    (27, 4)
    """

    site: Site
    pos: int

    @property
    def layer(self) -> int:
        """The cell's layer."""
        assert self.site.layer is not None
        return self.site.layer


def question_of(spec: Mapping[str, Any]) -> Question:
    """What has to be read for a spec."""
    from lenskit.lenses.live_comparison import Question

    names = ("prompt", "lens", "target", "versus", *(("second", "other") if spec["view"] != "one" else ()))
    asked = {name: spec[name] for name in names}
    return Question(**asked, written=tuple(spec["written"]), words=spec["cells"] == "words")


def rows_of_spec(spec: Mapping[str, Any], lenses: Mapping[str, Lens]) -> dict[int, Site]:
    """Where each row comes from, by the number it has in the table; a lens that lacks layers lacks their numbers."""
    from lenskit.lenses.live_comparison import rows_of_question
    from lenskit.lenses.reading import numbers_of

    rows = rows_of_question(lenses, question_of(spec))
    return dict(zip(numbers_of(rows, lenses[spec["lens"]].model), rows, strict=True))


def with_lens(spec: Mapping[str, Any], name: str, lenses: Mapping[str, Lens]) -> dict[str, Any]:
    """The spec with another lens; the one beside it changes places with it, and what is chosen stays chosen.

    Rows are counted from the model's own prediction, which is the last for every lens.
    """
    beside = spec["lens"] if spec["second"] == name else spec["second"]
    changed: dict[str, Any] = {**spec, "lens": name, "second": beside}
    if name in lenses:
        moved = max(rows_of_spec(changed, lenses)) - max(rows_of_spec(spec, lenses))
        for corner in ("selection", "to"):
            if (cell := changed[corner]) is not None:
                changed[corner] = {**cell, "layer": max(0, cell["layer"] + moved)}
    return changed


def chosen(value: Any, rows: Mapping[int, Site], positions: int) -> tuple[int, int]:
    """The row's number and the position that are meant by (layer, pos), either counted from the end if negative.

    Raises `IndexError` for what is not in the table.
    """
    layer, pos = int(value[0]), int(value[1])
    numbers = list(rows)
    inside = layer in rows if layer >= 0 else -len(numbers) <= layer
    if not (inside and -positions <= pos < positions):
        first, last = numbers[0], numbers[-1]
        every = numbers == list(range(first, last + 1))
        there = f"{first} to {last}" if every else ", ".join(map(str, numbers))
        raise IndexError(
            f"layer {layer}, position {pos} is not in the table: it has layers {there} and positions 0 to "
            f"{positions - 1}."
        )
    return (layer if layer >= 0 else numbers[layer]), pos % positions
