"""The panel of a comparison: what two trajectories say, and how far apart they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lenskit.lenses.picture import Panel, heads_of, plain, scale_of
from lenskit.lenses.statistic import BETWEEN, SIGNED
from lenskit.models.text import show

if TYPE_CHECKING:
    from lenskit.lenses.between import Comparison


def panel_between(made: Comparison, statistic: str, clip: tuple[float, float] | None) -> Panel:
    """The panel of one statistic of a comparison."""
    values = np.asarray(made.statistic(statistic), dtype=np.float64)
    first, second = made.first, made.second
    layers, positions = made.shape
    pairs = zip(heads_of(first), heads_of(second), strict=True)
    names = [each.provenance["lens"] for each in (first, second)]
    return Panel(
        values=values,
        says=[[show(second.pieces[int(i)]) for i in row] for row in second.top_ids[..., 0]],
        hover=[[_both(made, layer, pos) for pos in range(positions)] for layer in range(layers)],
        heads=[a if a == b else f"{a}<br>{b}" for a, b in pairs],
        names=second.layer_names,
        title=f"{names[0]} and {names[1]} lens" if names[0] != names[1] else f"{names[0]} lens, two prompts",
        legend=BETWEEN[statistic],
        scale=clip or scale_of(values, statistic),
        signed=statistic in SIGNED,
        axis=f"layer ({second.site})",
    )


def _both(made: Comparison, layer: int, pos: int) -> str:
    """What both sides say in one cell, and the statistics."""
    lines = [f"layer {made.second.layer_names[layer]}, position {made.second.positions[pos]}"]
    for which, each in (("first", made.first), ("second", made.second)):
        ids, probs = each.top_ids[layer, pos, :5].tolist(), each.top_probs[layer, pos, :5].tolist()
        says = "  ".join(f"{plain(show(each.pieces[i]))} {p:.3f}" for i, p in zip(ids, probs, strict=True))
        lines.append(f"{which} ({each.provenance['lens']}): {says}")
    moved = plain(show(made.pieces[int(made.changed_ids[layer, pos])]))
    numbers = [f"{legend}: {made.statistic(name)[layer, pos]:.4g}" for name, legend in BETWEEN.items()]
    return "<br>".join([*lines, *numbers, f"the token that changes most: {moved}"])
