"""Pictures of what was read that need no kernel: plotly heat maps, several panels in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.curves import INK
from lenskit.lenses.statistic import PROBABILITIES, SIGNED, STATISTICS, Statistic
from lenskit.models.text import show

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lenskit.lenses.trajectory import Trajectory

# The scales of LOOK.md on a light page; nothing is the colour of the page.
SEQUENTIAL = ("#ffffff", "#d9e8f2", "#8fbfdc", "#3a86b7", "#0d4f82", "#06294d")
DIVERGING = ("#8a3403", "#d9782f", "#f3c9a1", "#ffffff", "#a9cfe6", "#3a86b7", "#063f6e")
_CELL = (72, 21)
_NARROW_CELL = 46
_WIDEST = 1500


@dataclass(frozen=True)
class Panel:
    """One heat map: values (layer, pos), what stands in the cells and over them, and the scale.

    Attributes:
        values: (layer, pos); NaN where there is none.
        says: the text in each cell.
        hover: what is shown over each cell, as plotly reads it.
        heads: the token over each column.
        names: what each row is called.
        title, legend: over the panel, and beside its scale.
        scale: the values at the two ends of the scale.
        signed: whether the scale runs both ways from nothing.
        downward: whether little is dark: the first rank.
        axis: what the rows are.
    """

    values: np.ndarray
    says: list[list[str]]
    hover: list[list[str]]
    heads: list[str]
    names: list[str]
    title: str
    legend: str
    scale: tuple[float, float]
    signed: bool = False
    downward: bool = False
    axis: str = "layer"


def panel(trajectory: Trajectory, statistic: Statistic, *, clip: tuple[float, float] | None = None) -> Panel:
    """The panel of one statistic of a trajectory."""
    values = np.asarray(trajectory.statistic(statistic), dtype=np.float64)
    layers, positions = trajectory.shape
    return Panel(
        values=values,
        says=[[show(trajectory.pieces[int(i)]) for i in row] for row in trajectory.top_ids[..., 0]],
        hover=[[_top_k(trajectory, layer, pos) for pos in range(positions)] for layer in range(layers)],
        heads=heads_of(trajectory),
        names=trajectory.layer_names,
        title=f"{trajectory.provenance['lens']} lens",
        legend=STATISTICS[statistic],
        scale=clip or scale_of(values, statistic),
        signed=statistic in SIGNED,
        downward=statistic == "rank",
        axis=f"layer ({trajectory.site})",
    )


def scale_of(values: np.ndarray, statistic: str) -> tuple[float, float]:
    """The two ends of a scale: from nothing to all of a probability, or to the largest value there is."""
    if statistic in PROBABILITIES:
        return 0.0, 1.0
    finite = values[np.isfinite(values)]
    most = float(np.abs(finite).max()) if finite.size else 1.0
    return (-most or -1.0 if statistic in SIGNED else 0.0), most or 1.0


def heads_of(trajectory: Trajectory) -> list[str]:
    """The prompt's tokens as column heads."""
    return [plain(show(trajectory.pieces[int(i)])) for i in trajectory.ids]


def drawn(panels: Sequence[Panel]) -> go.Figure:
    """One plotly figure of panels: side by side while there is room, else one under another."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    widths = [_cell(each) * len(each.heads) for each in panels]
    beside = sum(widths) + 170 * len(panels) <= _WIDEST
    rows, columns = (1, len(panels)) if beside else (len(panels), 1)
    heights = [_CELL[1] * len(each.names) for each in panels]
    inside = sum(widths) + 170 * (len(panels) - 1) if beside else max(widths)
    tall = max(heights) if beside else sum(heights) + 120 * (len(panels) - 1)
    figure = make_subplots(
        rows,
        columns,
        horizontal_spacing=170 / inside if columns > 1 else 0.0,
        vertical_spacing=120 / tall if rows > 1 else 0.0,
        column_widths=widths if beside else None,
        row_heights=None if beside else heights,
    )
    several = len(panels) > 1
    for n, each in enumerate(panels):
        row, column = (1, n + 1) if beside else (n + 1, 1)
        figure.add_trace(go.Heatmap(**_heatmap(each)), row=row, col=column)
        plain_axes = {"showgrid": False, "zeroline": False}
        heads = {"tickvals": list(range(len(each.heads))), "ticktext": each.heads, "side": "top"}
        figure.update_xaxes(row=row, col=column, **heads, **plain_axes)
        shown = list(range(len(each.names)))[:: -max(1, len(each.names) // 15)]
        names = {"tickvals": shown, "ticktext": [each.names[y] for y in shown], "title": {"text": each.axis}}
        figure.update_yaxes(row=row, col=column, **names, **plain_axes)
        where: Any = figure.get_subplot(row, column)
        heat: Any = figure.data[n]
        (left, right), (low, high) = where.xaxis.domain, where.yaxis.domain
        heat.colorbar.update(x=right, xanchor="left", xpad=8, y=(low + high) / 2, len=high - low, thickness=12)
        if several:
            heat.colorbar.title = None  # it is over the panel
            text = plain(f"{each.title}: {each.legend}")
            over = {"x": left, "y": high, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
            figure.add_annotation(text=text, yshift=24, showarrow=False, font={"size": 13}, **over)
    top = 64 if several else 40
    figure.update_layout(
        width=inside + 70 + 110,
        height=tall + top + 24,
        margin={"l": 70, "r": 110, "t": top, "b": 24},
        # No ground of its own, and an ink that can be read on a light and on a dark page.
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK},
    )
    return figure


def _cell(each: Panel) -> int:
    return _CELL[0] if len(each.heads) <= 24 else _NARROW_CELL


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _heatmap(each: Panel) -> dict[str, object]:
    colours = DIVERGING if each.signed else SEQUENTIAL
    return {
        "z": each.values,
        # Cut to the cell: a single long token would make plotly shrink the text of all.
        "text": [[plain(_cut(text, _cell(each) // 8)) for text in row] for row in each.says],
        "texttemplate": "%{text}",
        "customdata": each.hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "zmin": each.scale[0],
        "zmax": each.scale[1],
        "colorscale": [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)],
        "reversescale": each.downward,
        "colorbar": {"title": {"text": each.legend, "side": "right"}, "outlinewidth": 0},
        "xgap": 1,
        "ygap": 1,
    }


def _top_k(trajectory: Trajectory, layer: int, pos: int) -> str:
    ids, probs = trajectory.top_ids[layer, pos], trajectory.top_probs[layer, pos]
    pairs = zip(ids.tolist(), probs.tolist(), strict=True)
    lines = [f"{plain(show(trajectory.pieces[i]))}  {p:.3f}" for i, p in pairs]
    where = f"layer {trajectory.layer_names[layer]}, position {trajectory.positions[pos]}"
    numbers = [
        f"{STATISTICS[name]}: {trajectory.statistic(name)[layer, pos]:.4g}"
        for name in trajectory.statistics
        if name not in ("probability", "target_probability")
    ]
    target = plain(show(trajectory.pieces[int(trajectory.target_ids[pos])]))
    return "<br>".join([where, *lines, "", f"target {target}", *numbers])


def plain(text: str) -> str:
    """Text as plotly should show it: it reads a little HTML, so what would open a tag is written out."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
