"""The report of an evaluation: plotly figures, and one page of them that needs no network."""

from __future__ import annotations

import html as markup
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lenskit.lenses.evaluation import MEASURES
from lenskit.lenses.picture import DIVERGING, INK, SEQUENTIAL, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lenskit.lenses.evaluation import Evaluation

# Far enough apart for every common colour blindness, and legible on a light and on a dark page.
_LINES = ("#3a86b7", "#d9782f", "#8d9198", "#6aa84f", "#9a6fb0")
_FAINT = "rgba(128,128,128,0.2)"
_DASHES = ("solid", "dash", "dot", "dashdot")


def lines(made: Evaluation, measures: Sequence[str]) -> go.Figure:
    """A panel for each measure, with a line for each lens over the depth."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    titles = [MEASURES[each] for each in measures]
    figure = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.07, vertical_spacing=0.36 / rows)
    for n, measure in enumerate(measures):
        row, column = n // columns + 1, n % columns + 1
        for k, (name, each) in enumerate(made.lenses.items()):
            colour, dash = _LINES[k % len(_LINES)], _DASHES[k // len(_LINES) % len(_DASHES)]
            over = [f"{plain(name)} lens, {each.site} {layer}" for layer in each.names]
            over[-1] = "the model's own prediction"
            figure.add_trace(
                go.Scatter(
                    x=each.depth,
                    y=getattr(each, measure),
                    name=f"{plain(name)} lens",
                    legendgroup=name,
                    showlegend=n == 0,
                    mode="lines+markers",
                    line={"color": colour, "width": 2, "dash": dash},
                    marker={"size": 5, "color": colour},
                    customdata=over,
                    hovertemplate="%{customdata}<br>%{y:.4g}<extra></extra>",
                ),
                row=row,
                col=column,
            )
        most = 1.0 if measure in ("accuracy", "agreement") else None
        figure.update_yaxes(rangemode="tozero", range=None if most is None else [0, most * 1.04], row=row, col=column)
        figure.update_xaxes(title={"text": "blocks behind"}, row=row, col=column)
    figure.update_xaxes(gridcolor=_FAINT, zerolinecolor=_FAINT)
    figure.update_yaxes(gridcolor=_FAINT, zerolinecolor=_FAINT)
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_layout(
        width=380 * columns + 60,
        height=300 * rows + 60,
        legend={"orientation": "h", "y": 1.0, "yref": "container", "yanchor": "top", "x": 0},
        margin={"t": 84, "b": 48, "l": 56, "r": 16},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK},
    )
    return figure


def matrices(made: Evaluation, measure: str) -> go.Figure:
    """A heat map of each lens's transfer, all on one scale."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = list(made.transfer)
    titles = [f"{plain(name)} lens" for name in names]
    figure = make_subplots(1, len(names), subplot_titles=titles, horizontal_spacing=0.08)
    values = {name: np.asarray(getattr(each, measure)) for name, each in made.transfer.items()}
    signed = measure == "penalty"
    colours = DIVERGING if signed else SEQUENTIAL
    most = max(float(np.abs(x).max()) for x in values.values())
    for n, (name, z) in enumerate(values.items()):
        layers = made.transfer[name].names
        heat = go.Heatmap(
            z=z,
            x=layers,
            y=layers,
            zmin=-most if signed else 0.0,
            zmax=most,
            colorscale=[[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)],
            colorbar={"title": {"text": _TRANSFER[measure], "side": "right"}, "outlinewidth": 0, "thickness": 12},
            showscale=n == len(names) - 1,
            hovertemplate="lens of layer %{y} on states of layer %{x}<br>%{z:.4g}<extra></extra>",
            xgap=1,
            ygap=1,
        )
        figure.add_trace(heat, row=1, col=n + 1)
        figure.update_xaxes(title={"text": "states of layer"}, showgrid=False, type="category", row=1, col=n + 1)
        figure.update_yaxes(title={"text": "lens of layer"}, showgrid=False, type="category", row=1, col=n + 1)
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_layout(
        width=460 * len(names) + 110,
        height=470,
        margin={"t": 48, "b": 56, "l": 60, "r": 96},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK},
    )
    return figure


_TRANSFER = {
    "ce": "cross-entropy of the next token (nats)",
    "kl": "KL from the final prediction (nats)",
    "penalty": "more cross-entropy than with its own lens (nats)",
}


def html(made: Evaluation) -> str:
    """The page: every measure, the transfer where it is there, and the facts. plotly's own script is part of it."""
    figures = [made.figure()]
    if made.transfer:
        figures += [made.transfer_figure("ce"), made.transfer_figure("penalty")]
    parts = [each.to_html(full_html=False, include_plotlyjs=n == 0) for n, each in enumerate(figures)]
    facts = f"{made!r}; {made.provenance['dtype']} on {made.provenance['device']}"
    if made.bytes_per_token is not None:
        facts += f"; {made.bytes_per_token:.3f} bytes of text per token"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Lens evaluation</title><style>'
        ":root{color-scheme:light dark}body{font:13px system-ui,sans-serif;margin:24px;"
        "background:light-dark(#fff,#111214);"
        "color:light-dark(#1c1d1f,#e9e9e6)}h1{font-size:16px}p{color:light-dark(#5d6167,#a2a6ad)}</style></head><body>"
        f"<h1>Lens evaluation</h1><p>{markup.escape(facts)}</p>{''.join(parts)}</body></html>"
    )
