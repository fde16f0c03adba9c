"""Floor 0: what every figure of a training has in common: a ground of none, and ink for light and for dark pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

INK = "#797c82"  # that can be read on a light and on a dark page
FAINT = "rgba(128,128,128,0.2)"


def on_any_page(figure: go.Figure, title: str, *, height: int, **layout: Any) -> go.Figure:
    """The figure without a ground of its own, and in an ink that can be read on a light and on a dark page."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK},
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        title={"text": title, "font": {"size": 13}},
        **layout,
    )
    return figure
