"""A feature taken back to the features of earlier dictionaries, or on to later ones: one whole row of connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lenskit.circuits.by_weights.bars import LOWERS, RAISES
from lenskit.circuits.by_weights.connecting import head_between
from lenskit.circuits.by_weights.stream import (
    Head,
    comes_before,
    feature_name,
    head_reads,
    layer_of,
    one_row,
    read_by,
    taken_back,
    taken_on,
    written_by_features,
)
from lenskit.circuits.by_weights.strongest import in_blocks
from lenskit.curves import FAINT, on_any_page
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.models.model import Model


class Row(NamedTuple):
    """A feature's connections with one other dictionary.

    Attributes:
        layer: that dictionary's.
        into: whether they lead from there to the feature; else they lead from the feature to there.
        weights: (feature,) of each feature there, exactly.
    """

    layer: int
    into: bool
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class FeatureConnections:
    """All connections of one feature with the features of other dictionaries, by their weights alone.

    Attributes:
        feature: its name, `"20.155"`: layer and number.
        rows: of each other dictionary its connections.
        head: the layer and number of the head that is between, or None.
    """

    feature: str
    rows: tuple[Row, ...]
    head: Head | None

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """The k features with the strongest connections, over all dictionaries, with their weights."""
        weights = np.concatenate([row.weights for row in self.rows])
        names = [(row.layer, n) for row in self.rows for n in range(len(row.weights))]
        order = np.argsort(-np.abs(weights), kind="stable")[:k].tolist()
        return [(f"{names[i][0]}.{names[i][1]}", float(weights[i])) for i in order]

    def to_pandas(self) -> pd.DataFrame:
        """One line for each other feature, the strongest first: `layer`, `feature`, `into`, `weight`."""
        import pandas as pd

        parts = [
            pd.DataFrame(
                {"layer": row.layer, "feature": np.arange(len(row.weights)), "into": row.into, "weight": row.weights}
            )
            for row in self.rows
        ]
        table = pd.concat(parts, ignore_index=True)
        return table.sort_values("weight", key=np.abs, ascending=False, kind="stable", ignore_index=True)

    def figure(self) -> go.Figure:
        """Every weight over the number of its feature, a row of dots for each dictionary, in a plotly figure."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        figure = make_subplots(rows=len(self.rows), cols=1, subplot_titles=[_title(row) for row in self.rows])
        for n, row in enumerate(self.rows, 1):
            dots = go.Scattergl(
                y=row.weights,
                mode="markers",
                marker={"size": 3, "color": np.where(row.weights >= 0, RAISES, LOWERS)},
                hovertemplate=f"{row.layer}.%{{x}}: %{{y:.4g}}<extra></extra>",
                showlegend=False,
            )
            figure.add_trace(dots, row=n, col=1)
        figure.update_xaxes(gridcolor=FAINT, zeroline=False)
        figure.update_yaxes(title="weight", gridcolor=FAINT, zerolinecolor="rgba(128,128,128,0.5)")
        figure.update_annotations(font={"size": 12})
        between = "" if self.head is None else f", through head {self.head[0]}.{self.head[1]}"
        title = f"connections of {self.feature}{between}"
        return on_any_page(figure, title, height=110 + 220 * len(self.rows)).update_layout(margin={"t": 75})

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {weight:+.3g}" for name, weight in self.top(3))
        count = sum(len(row.weights) for row in self.rows)
        return f"FeatureConnections({self.feature} with {count:,} features: {best}, ...)"


@torch.no_grad()
def connections_of(
    model: Model,
    transcoder: Transcoder,
    feature: int,
    others: Transcoder | Sequence[Transcoder],
    *,
    head: Head | None = None,
) -> FeatureConnections:
    """All connections of one feature with other dictionaries: back to earlier ones, on to later ones.

    Each weight is what `connections` gives for that pair, through `head` where one is named, and leaves out what is
    left out there: the norms' scales, attention patterns, and all other ways.

    Args:
        model: the model.
        transcoder, feature: the feature.
        others: dictionaries, earlier or later than its own.
        head: layer and number of a head in between.

    Raises `ValueError` for a dictionary that is neither earlier nor later; `IndexError` for a feature or a head that is
    not there; `SiteUnavailable` and `ModelMismatch` as `connections` does.

    Source: Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits" (2024): pullbacks.

    >>> lk.circuits.connections_of(model, transcoders[1], 7, transcoders[0]).top(5)  # doctest: +SKIP
    """
    given = [others] if isinstance(others, Transcoder) else list(others)
    if not given:
        raise ValueError("others=[]: name one other dictionary at least.")
    rows = [_row(model, transcoder, feature, other, head) for other in given]
    return FeatureConnections(feature_name(transcoder, feature), tuple(rows), head)


def pulled_back(model: Model, transcoder: Transcoder, feature: int, earlier: Transcoder, head: Head | None) -> Tensor:
    """(feature,): the connections from every feature of an earlier dictionary to one feature."""
    direction = one_row(read_by(model, transcoder), transcoder, feature)
    if head is not None:
        direction = taken_back(head_between(model, head, transcoder.reads), direction)
    written = written_by_features(model, earlier, transcoder.reads if head is None else head_reads(head))
    return in_blocks(written, earlier.n_features, lambda some: some @ direction.to(some))


def _row(model: Model, transcoder: Transcoder, feature: int, other: Transcoder, head: Head | None) -> Row:
    layer = layer_of(other)
    if any(comes_before(model, site, transcoder.reads) for site in other.writes):
        return Row(layer, True, pulled_back(model, transcoder, feature, other, head).cpu().numpy())
    reading = read_by(model, other)
    between = None if head is None else head_between(model, head, other.reads)
    writing = written_by_features(model, transcoder, other.reads if head is None else head_reads(head))
    written = one_row(writing, transcoder, feature)
    written = written if between is None else taken_on(between, written)
    return Row(layer, False, in_blocks(reading, other.n_features, lambda some: some @ written.to(some)).cpu().numpy())


def _title(row: Row) -> str:
    return f"from layer {row.layer}" if row.into else f"to layer {row.layer}"
