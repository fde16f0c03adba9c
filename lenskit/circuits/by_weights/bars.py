"""Bars: the strongest of something, one under another, each with its name and its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lenskit.curves import FAINT, on_any_page
from lenskit.lenses.picture import plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

RAISES, LOWERS = "#3a86b7", "#d9782f"
_ROW = 19


def bars(names: Sequence[str], values: Sequence[float], title: str, unit: str) -> go.Figure:
    """A plotly figure of horizontal bars, the first on top: blue where something is raised, orange where lowered.

    names: what stands before each bar; shown as text, whatever is in it.
    """
    import plotly.graph_objects as go

    places = list(range(len(names)))
    figure = go.Figure(
        go.Bar(
            x=list(values),
            y=places,
            orientation="h",
            marker_color=[RAISES if value >= 0 else LOWERS for value in values],
            customdata=[plain(name) for name in names],
            hovertemplate="%{customdata}: %{x:.4g}<extra></extra>",
        )
    )
    figure = on_any_page(
        figure,
        plain(title),
        height=110 + _ROW * len(names),
        xaxis={"title": unit, "gridcolor": FAINT, "zerolinecolor": "rgba(128,128,128,0.5)"},
        # Places, and not names: two tokens may look the same, and plotly would put them into one bar.
        yaxis={"tickvals": places, "ticktext": [plain(name) for name in names], "autorange": "reversed"},
    )
    return figure.update_yaxes(tickfont={"family": "monospace"}).update_layout(margin={"l": 140})
