"""The rank of one token over all layers and positions, as a picture of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lenskit.lenses.picture import INK, SEQUENTIAL, heads_of, plain
from lenskit.models.text import show

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lenskit.lenses.trajectory import Trajectory

_CELL = (58, 21)
_BARE = {"showgrid": False, "zeroline": False, "ticks": ""}


def rank_picture(trajectory: Trajectory) -> go.Figure:
    """See `Trajectory.rank_picture`."""
    import plotly.graph_objects as go

    rank = trajectory.rank.astype(np.float64)
    layers, positions = trajectory.shape
    targets = sorted(set(trajectory.target_ids.tolist()))
    one = plain(show(trajectory.pieces[targets[0]])) if len(targets) == 1 else None
    names = trajectory.layer_names
    # A place in the logarithm of the rank: the first ranks are told apart, the thousands are all far away.
    place = np.log10(1 + rank)
    end = max(1.0, float(np.ceil(place.max())))
    ticks = np.arange(0, end + 1)
    hover = [[_said(trajectory, layer, pos, one is None) for pos in range(positions)] for layer in range(layers)]
    heads = heads_of(trajectory)
    figure = go.Figure(
        go.Heatmap(
            z=place,
            zmin=0,
            zmax=end,
            text=[[f"{int(r):,}" for r in row] for row in rank],
            texttemplate="%{text}",
            textfont={"size": 11},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=[[i / (len(SEQUENTIAL) - 1), c] for i, c in enumerate(reversed(SEQUENTIAL))],
            xgap=1,
            ygap=1,
            colorbar={
                "title": {"text": "rank (0 is first)", "side": "right"},
                "tickvals": ticks.tolist(),
                "ticktext": ["0" if t == 0 else f"{10 ** int(t):,}" for t in ticks],
                "thickness": 12,
                "outlinewidth": 0,
            },
        )
    )
    # Where the token is the first of all, one sees at a glance.
    first = np.argwhere(rank == 0)
    figure.add_scatter(
        x=first[:, 1],
        y=first[:, 0],
        mode="markers",
        marker={"symbol": "square-open", "size": 17, "color": "#d55e00", "line": {"width": 2}},
        hoverinfo="skip",
        showlegend=False,
    )
    lens = trajectory.provenance["lens"]
    whose = f"rank of {one}" if one is not None else "rank of what the model finally says"
    shown = [n for n in range(layers) if (layers - 1 - n) % 3 == 0 or layers < 8]
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK},
        title={"text": f"{whose}, {lens} lens", "font": {"size": 13}},
        width=170 + _CELL[0] * positions,
        height=110 + _CELL[1] * layers,
        margin={"l": 60, "r": 20, "t": 70, "b": 20},
        xaxis={
            "side": "top",
            "tickvals": list(range(positions)),
            "ticktext": heads,
            "tickangle": 0,
            "range": [-0.5, positions - 0.5],
            **_BARE,
        },
        yaxis={
            "title": f"layer ({trajectory.site})",
            "tickvals": shown,
            "ticktext": [names[n] for n in shown],
            "range": [-0.5, layers - 0.5],
            **_BARE,
        },
    )
    return figure


def _said(trajectory: Trajectory, layer: int, pos: int, named: bool) -> str:
    target = plain(show(trajectory.pieces[int(trajectory.target_ids[pos])])) if named else ""
    p = float(np.exp(trajectory.target_log_prob[layer, pos]))
    says = plain(show(trajectory.pieces[int(trajectory.top_ids[layer, pos, 0])]))
    lines = [
        f"layer {trajectory.layer_names[layer]}, position {trajectory.positions[pos]}",
        f"{target} rank {trajectory.rank[layer, pos]:,}, probability {p:.3g}".strip(),
        f"first is {says}",
    ]
    return "<br>".join(lines)
