"""Connections: how strongly the features of one dictionary speak to those of another, by their weights alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from lenskit.circuits.by_weights.bars import bars
from lenskit.circuits.by_weights.stream import (
    Head,
    head_is_before,
    head_reads,
    layer_of,
    read_by,
    through_head,
    written_by_features,
)
from lenskit.circuits.by_weights.strongest import in_blocks, strongest_pairs
from lenskit.models.sites import Site
from lenskit.models.weighing.factored import FactoredMatrix
from lenskit.row_products import row_products
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class Connections:
    """The strongest connections between two dictionaries, the strongest first, whichever their sign.

    Attributes:
        source, target: (connection,) the feature of the earlier dictionary, and of the later one.
        weight: (connection,) by how much an activation of 1 moves the target's pre-activation, times what is left out.
        source_layer, target_layer: the layers of the two dictionaries.
        head: the layer and number of the head that is between, or None: through the residual stream directly.
        pairs: how many pairs of features were compared.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    source_layer: int
    target_layer: int
    head: Head | None
    pairs: int

    def into(self, feature: int) -> Connections:
        """Those of these that lead to a feature of the later dictionary."""
        return self._where(self.target == feature)

    def out_of(self, feature: int) -> Connections:
        """Those of these that come from a feature of the earlier dictionary."""
        return self._where(self.source == feature)

    def _where(self, chosen: np.ndarray) -> Connections:
        return replace(self, source=self.source[chosen], target=self.target[chosen], weight=self.weight[chosen])

    def names(self, k: int | None = None) -> list[str]:
        """What each is called, of the first k: `"19.155 -> 20.7"`."""
        pairs = zip(self.source[:k].tolist(), self.target[:k].tolist(), strict=True)
        return [f"{self.source_layer}.{source} -> {self.target_layer}.{target}" for source, target in pairs]

    def to_pandas(self) -> pd.DataFrame:
        """One line for each connection: `source_layer`, `source`, `target_layer`, `target`, `weight`."""
        import pandas as pd

        return pd.DataFrame(
            {
                "source_layer": self.source_layer,
                "source": self.source,
                "target_layer": self.target_layer,
                "target": self.target,
                "weight": self.weight,
            }
        )

    def figure(self, k: int = 30) -> go.Figure:
        """The k strongest as bars, in a plotly figure."""
        title = f"connections {self.source_layer} -> {self.target_layer}{_through(self.head)}"
        return bars(self.names(k), self.weight[:k].tolist(), title, "weight")

    def __len__(self) -> int:
        return len(self.weight)

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {w:+.3g}" for name, w in zip(self.names(3), self.weight[:3], strict=True))
        more = ", ..." if len(self) > 3 else ""
        return f"Connections({len(self):,} of {self.pairs:,} pairs{_through(self.head)}: {best}{more})"


@torch.no_grad()
def connections(model: Model, a: Transcoder, b: Transcoder, *, head: Head | None = None, k: int = 100) -> Connections:
    """The strongest connections from the features of one dictionary to those of a later one, whatever the text.

    A connection is `W_dec[source] . gain . W_enc[target]`: what the source writes to the residual stream, as the target
    reads it. With `head`, it is what that head makes of what the source has written, at the token it looks at, and
    writes where it looks from: `W_dec[source] . gain . W_V W_O . gain . W_enc[target]`. The gain is that of the norm
    before what reads; a LayerNorm takes off the mean besides, and a norm behind the head (Gemma 2) has its gain.

    Left out is what depends on the text: the scales by which the norms (and dictionaries that normalise) divide, how
    much the head looks at the token, and whether the source is active and the target kept by its activation. So weights
    of one target can be compared, and of several with care. Left out as well are all other ways: through MLPs and their
    dictionaries' skips, through attention but for `head`, and biases.

    Args:
        model: the model of both.
        a, b: the earlier dictionary and the later one. Of what a cross-layer one writes, all that is written earlier
            than it is read counts, summed.
        head: layer and number of a head in between.
        k: how many connections to keep, the largest in size.

    Memory: beside the dictionaries as they are, 2,048 x 2,048 products at once and as many rows of each: under 100 MB
    up to a `d_model` of 1,024, and 35 MB more for each 1,024. A product of 24,576 x 24,576 is never there as a whole.

    Raises:
        ValueError: `a` does not come before `b`, or the head is not between; k is less than 1.
        SiteUnavailable: a dictionary does not write the residual stream or does not read it; no such weights are found.
        IndexError: there is no such head.
        ModelMismatch: a dictionary is another model's.

    Source: Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits" (2024), section 4.1.

    >>> lk.circuits.connections(model, transcoders[0], transcoders[1], k=10)  # doctest: +SKIP
    """
    if k < 1:
        raise ValueError(f"k={k}: ask for one connection at least.")
    right = read_by(model, b)
    between = None if head is None else head_between(model, head, b.reads)
    left = written_by_features(model, a, b.reads if head is None else head_reads(head))
    if between is not None:
        # Both meet within the head, where they are d_head wide.
        sources = in_blocks(left, a.n_features, lambda rows: rows @ between.A.to(rows))
        into_head = between.B.to(sources)
        found = strongest_pairs(
            sources.__getitem__,
            a.n_features,
            lambda some: row_products(right(some).to(sources), into_head),
            b.n_features,
            k,
        )
    else:
        found = strongest_pairs(left, a.n_features, right, b.n_features, k)
    source, target, weight = (each.cpu().numpy() for each in found)
    pairs = a.n_features * b.n_features
    return Connections(source, target, weight, layer_of(a), layer_of(b), head, pairs)


def head_between(model: Model, head: Head, read: Site) -> FactoredMatrix:
    """(d_model, d_model): a head, of which it is sure that it writes before a site is read. Raises `ValueError`."""
    found = through_head(model, head)
    if not head_is_before(model, head, read):
        raise ValueError(f"head {head[1]} of layer {head[0]} writes nothing that could be read at {read}.")
    return found


def _through(head: Head | None) -> str:
    return "" if head is None else f" through head {head[0]}.{head[1]}"
