"""Moving heads: through which attention heads a feature could be moved, by their weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lenskit.circuits.by_weights.stream import feature_name, head_is_before, one_row, read_by, taken_back
from lenskit.curves import on_any_page
from lenskit.lenses.picture import SEQUENTIAL
from lenskit.models.weighing.heads import through_heads
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class MovingHeads:
    """How much each head could move a feature.

    Attributes:
        feature: its name, `"20.155"`: layer and number.
        norms: (layer, head) the length of the feature's direction taken back through the head's OV, of every layer
            whose attention the feature can read; nan where there is no head.
    """

    feature: str
    norms: np.ndarray

    def top(self, k: int = 10) -> list[tuple[tuple[int, int], float]]:
        """The k heads that could move it most: layer and head, and the norm."""
        flat = self.norms.ravel()
        order = np.argsort(-flat, kind="stable")  # nan comes last
        order = order[: min(k, int((~np.isnan(flat)).sum()))].tolist()
        return [(divmod(i, self.norms.shape[1]), float(flat[i])) for i in order]

    def to_pandas(self) -> pd.DataFrame:
        """One line for each head, the largest norm first: `layer`, `head`, `norm`."""
        import pandas as pd

        rows = [(*head, norm) for head, norm in self.top(self.norms.size)]
        return pd.DataFrame(rows, columns=["layer", "head", "norm"])

    def figure(self) -> go.Figure:
        """Layers upwards, heads across: a plotly heat map from nothing to the largest norm."""
        import plotly.graph_objects as go

        layers, heads = self.norms.shape
        picture = go.Heatmap(
            z=self.norms,
            zmin=0,
            colorscale=[[i / (len(SEQUENTIAL) - 1), colour] for i, colour in enumerate(SEQUENTIAL)],
            hovertemplate="head %{y}.%{x}: %{z:.4g}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": "OV norm", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        )
        return on_any_page(
            go.Figure(picture),
            f"heads that could move {self.feature}",
            height=130 + 21 * layers,
            width=200 + 30 * max(heads, 8),
            xaxis={"title": "head", "tickvals": list(range(heads)), "showgrid": False, "zeroline": False},
            yaxis={"title": "layer", "showgrid": False, "zeroline": False},
        )

    def __repr__(self) -> str:
        best = ", ".join(f"{layer}.{head} {norm:.3g}" for (layer, head), norm in self.top(3))
        return f"MovingHeads({self.feature}, {self.norms.shape[0]} layers: {best}, ...)"


@torch.no_grad()
def moving_heads(model: Model, transcoder: Transcoder, feature: int) -> MovingHeads:
    """Which heads could move a feature: the length of its direction taken back through each head's OV.

    It is the most by which the head, looking at a token alone, can raise the feature's pre-activation for a vector of
    length 1 in that token's residual stream; the gains of the norms before the head, behind it and before the
    dictionary are in it.

    Left out are attention patterns (where a head looks, and whether it ever does), the scales by which the norms (and a
    dictionary that normalises) divide, biases, and whether the stream ever holds such vectors. The largest norms need
    not be the heads that do move it: see `de_embedding(through=)` and `connections(head=)` for what they would move.

    Args:
        model: the model.
        transcoder, feature: the feature.

    Raises `IndexError` for a feature that is not there; `ValueError` where no attention comes before it;
    `SiteUnavailable` for a dictionary that does not read the residual stream, or heads whose weights are not found;
    `ModelMismatch` for another model's.

    Source: Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits" (2024): OV norms.

    >>> lk.circuits.moving_heads(model, transcoders[1], 7).top(3)  # doctest: +SKIP
    """
    direction = one_row(read_by(model, transcoder), transcoder, feature)
    attending = model.anatomy.layers_of("z")
    layers = [layer for layer in attending if head_is_before(model, (layer, 0), transcoder.reads)]
    if not layers:
        raise ValueError(f"{transcoder.reads} reads nothing that attention writes: no head could move its features.")
    norms = dict[int, np.ndarray]()
    for layer in layers:
        norms[layer] = taken_back(through_heads(model, layer), direction).norm(dim=-1).cpu().numpy()
    found = np.full((layers[-1] + 1, max(map(len, norms.values()))), np.nan)
    for layer, each in norms.items():
        found[layer, : len(each)] = each
    return MovingHeads(feature_name(transcoder, feature), found)
