"""The lenses of a table, by the names that its view shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens
    from lenskit.models.model import Model


def named(model: Model, given: Lens | Sequence[Lens] | Mapping[str, Lens] | None) -> dict[str, Lens]:
    """The lenses by the names that the view shows."""
    from lenskit.lenses.lens import LogitLens

    if isinstance(given, Mapping):
        lenses = dict(given)
    else:
        several = [LogitLens(model)] if given is None else list(given) if isinstance(given, Sequence) else [given]
        lenses = {each.name: each for each in several}
        if len(lenses) < len(several):
            twice = ", ".join(each.name for each in several)
            raise ValueError(f'two of these lenses have one name, {twice}: give names, {{"before": a, "after": b}}.')
    if not lenses:
        raise ValueError("a LensTable needs a lens: leave it out for the logit lens.")
    for each in lenses.values():
        of_model(model, each)
    return lenses


def of_model(model: Model, lens: Lens) -> Lens:
    if lens.model is not model:
        raise ValueError(f"the lens belongs to {lens.model!r}, not to {model!r}.")
    return lens


def name_of(lens: Lens, lenses: Mapping[str, Lens]) -> str:
    """What a lens is called in a table; one that is new there by its own name."""
    known = next((name for name, each in lenses.items() if each is lens), None)
    if known is None and lens.name in lenses:
        raise ValueError(
            f'two of these lenses have the name {lens.name!r}: give names, lens={{"before": a, "after": b}}.'
        )
    return known if known is not None else lens.name
