"""Trajectory: what a lens reads at each layer and position, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.lenses.statistic import STATISTICS, Statistic
from lenskit.models.text import Piece, show

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.lenses.readout import Columns


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Top-k and statistics of a lens at every layer and position. All arrays are (layer, pos, ...), in nats.

    The last layer's row is the model's own prediction.

    Attributes:
        ids: (pos,) the prompt's token ids.
        site: the site that was read in each layer.
        top_ids, top_probs: (layer, pos, k), the likeliest first.
        entropy: of the layer's prediction.
        kl: KL(final || layer), from the model's final prediction to the layer's.
        target_ids: (pos,) the target at each position.
        target_log_prob: its log-probability.
        rank: how many tokens the layer holds likelier than the target; 0 is first.
        pieces: the text of each token that occurs, by id; bytes where it is not valid UTF-8 by itself.
        provenance: model, revision, lens, dtype, device, attention, edits, versions.
    """

    ids: np.ndarray
    site: str
    top_ids: np.ndarray
    top_probs: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    target_ids: np.ndarray
    target_log_prob: np.ndarray
    rank: np.ndarray
    pieces: Mapping[int, Piece] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(
        cls,
        columns: Columns,
        ids: Sequence[int],
        pieces: Mapping[int, Piece],
        site: str,
        provenance: Mapping[str, Any],
    ) -> Trajectory:
        """A trajectory of position-first columns."""
        return cls(
            ids=_frozen(np.asarray(ids, dtype=np.int32)),
            site=site,
            top_ids=_frozen(columns.top_ids.swapaxes(0, 1)),
            top_probs=_frozen(columns.top_probs.swapaxes(0, 1)),
            entropy=_frozen(columns.entropy.T),
            kl=_frozen(columns.kl.T),
            target_ids=_frozen(columns.target_ids),
            target_log_prob=_frozen(columns.target_log_prob.T),
            rank=_frozen(columns.target_rank.T),
            pieces=pieces,
            provenance=provenance,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, positions)."""
        layers, positions = self.entropy.shape
        return layers, positions

    @property
    def probability(self) -> np.ndarray:
        """(layer, pos) probability of each cell's top token."""
        return self.top_probs[..., 0]

    @property
    def target_probability(self) -> np.ndarray:
        """(layer, pos) probability of the target."""
        return np.exp(self.target_log_prob)

    @property
    def cross_entropy(self) -> np.ndarray:
        """(layer, pos) cross-entropy of the target: minus its log-probability."""
        return -self.target_log_prob

    @property
    def prompt_tokens(self) -> list[str]:
        """The text of the prompt's tokens, as it is."""
        return [self._text(i) for i in self.ids.tolist()]

    @property
    def targets(self) -> list[str]:
        """The text of the target at each position."""
        return [self._text(i) for i in self.target_ids.tolist()]

    def tokens(self, layer: int, pos: int) -> list[str]:
        """The top-k tokens of one cell, likeliest first, their text as it is (`" Paris"`, not `"·Paris"`)."""
        layers, positions = self.shape
        if not -layers <= layer < layers or not -positions <= pos < positions:
            raise IndexError(
                f"layer {layer}, position {pos} does not exist: there are layers 0 to {layers - 1} and positions 0 to "
                f"{positions - 1}."
            )
        return [self._text(i) for i in self.top_ids[layer, pos].tolist()]

    def statistic(self, name: Statistic) -> np.ndarray:
        """(layer, pos) values of a statistic by its name. Raises ValueError for a name that is none."""
        if name not in STATISTICS:
            raise ValueError(f"{name!r} is not a statistic. Statistics are: {', '.join(STATISTICS)}.")
        return getattr(self, name)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each layer and position, with every statistic and the top token."""
        import pandas as pd

        layers, positions = self.shape
        layer, pos = (grid.ravel() for grid in np.indices((layers, positions)))
        prompt, targets = self.prompt_tokens, self.targets
        return pd.DataFrame(
            {
                "layer": layer,
                "pos": pos,
                "token": [prompt[p] for p in pos],
                "top_token": [self._text(i) for i in self.top_ids[..., 0].ravel().tolist()],
                "probability": self.probability.ravel().astype(np.float64),
                "entropy": self.entropy.ravel().astype(np.float64),
                "kl": self.kl.ravel().astype(np.float64),
                "target": [targets[p] for p in pos],
                "target_probability": self.target_probability.ravel().astype(np.float64),
                "rank": self.rank.ravel(),
                "cross_entropy": self.cross_entropy.ravel().astype(np.float64),
            }
        )

    def figure(self, statistic: Statistic = "probability") -> go.Figure:
        """A plotly heat map of a statistic, each cell with its top token and, on hover, its top-k.

        >>> lens.read("The capital of France is").figure("entropy").show()  # doctest: +SKIP
        """
        from lenskit.lenses.picture import heat_map

        return heat_map(self, statistic)

    def _text(self, token: int) -> str:
        piece = self.pieces[token]
        return piece if isinstance(piece, str) else show(piece)

    def _repr_html_(self) -> str:
        from lenskit.lenses.picture import html_table

        return html_table(self)

    def __repr__(self) -> str:
        layers, positions = self.shape
        lens, model = self.provenance["lens"], self.provenance["model"]
        text = show("".join(p if isinstance(p, str) else "�" for p in map(self.pieces.__getitem__, self.ids.tolist())))
        short = text if len(text) <= 40 else f"{text[:39]}…"
        says = show(self.pieces[int(self.top_ids[-1, -1, 0])])
        return f"Trajectory({lens} lens, {layers} layers x {positions} tokens of {model}: {short!r} -> {says!r})"


def _frozen(array: np.ndarray) -> np.ndarray:
    array = array.view()
    array.flags.writeable = False
    return array
