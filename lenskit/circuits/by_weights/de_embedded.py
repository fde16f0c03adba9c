"""De-embedding: to which words, by their bare embeddings, a feature answers: directly, and through a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lenskit.circuits.by_weights.bars import bars
from lenskit.circuits.by_weights.connecting import head_between
from lenskit.circuits.by_weights.stream import Head, feature_name, one_row, read_by, taken_back
from lenskit.models.show import Piece, show
from lenskit.models.weighing.norms import wide
from lenskit.transcoders.index.effects import blocks_of_tokens
from lenskit.transcoders.index.embeddings import entering
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class DeEmbedding:
    """How much every token's embedding, if it is all there is, excites a feature.

    Attributes:
        feature: its name, `"20.155"`: layer and number.
        values: (vocab,) of each token: directly, the feature's pre-activation; through a head, what it adds to that
            where it looks at the token alone, times what is left out.
        pieces: (vocab,) the text of each token.
        through: the layer and number of the head, or None.
    """

    feature: str
    values: np.ndarray
    pieces: tuple[Piece, ...]
    through: Head | None

    def top(self, k: int = 10, *, lowest: bool = False) -> list[tuple[str, int, float]]:
        """The k tokens that excite it most, or least: text, id, value; ties by id."""
        order = np.argsort(self.values if lowest else -self.values, kind="stable")[:k].tolist()
        return [(show(self.pieces[i]), i, float(self.values[i])) for i in order]

    def to_pandas(self) -> pd.DataFrame:
        """One line for each token, the most exciting first: `token`, `id`, `value`."""
        import pandas as pd

        return pd.DataFrame(self.top(len(self.values)), columns=["token", "id", "value"])

    def figure(self, k: int = 15) -> go.Figure:
        """The k tokens that excite it most and the k that do least, as bars in a plotly figure."""
        half = len(self.values) // 2
        ends = self.top(min(k, len(self.values) - half)) + self.top(min(k, half), lowest=True)[::-1]
        title = f"de-embedding of {self.feature}{self._through}"
        unit = "pre-activation" if self.through is None else "weight"
        return bars([token for token, *_ in ends], [value for *_, value in ends], title, unit)

    @property
    def _through(self) -> str:
        return "" if self.through is None else f" through head {self.through[0]}.{self.through[1]}"

    def __repr__(self) -> str:
        best = ", ".join(f"{token!r} {value:+.3g}" for token, _, value in self.top(3))
        return f"DeEmbedding({self.feature}{self._through}: {best}, ...)"


@torch.no_grad()
def de_embedding(model: Model, transcoder: Transcoder, feature: int, *, through: Head | None = None) -> DeEmbedding:
    """What every token's embedding, as all there is in the residual stream, does to a feature.

    Directly, it goes through the norm before the dictionary as the model would do it, and the value is the feature's
    pre-activation (of a gated dictionary, what opens the gate). Through a head, it goes through the norm before the
    attention as the model would do it, and then by weights: values, output, the gain of a norm behind the head, and the
    gain before the dictionary.

    Left out are position embeddings and all that layers before would add to the stream. Through a head also its
    attention to the token, the scales of the norms behind it (and of a dictionary that normalises), and biases, which
    are the same for all tokens.

    Args:
        model: the model.
        transcoder, feature: the feature.
        through: layer and number of a head whose output the feature can read.

    Memory: 8,192 embeddings at once.

    Raises `IndexError` for a feature or a head that is not there; `ValueError` for a head that writes too late;
    `SiteUnavailable` for a dictionary that does not read the residual stream; `ModelMismatch` for another model's.

    Source: Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits" (2024), section 4.2.
    The same for all features of a dictionary: `FeatureIndex`.

    >>> lk.circuits.de_embedding(model, transcoders[1], 7, through=(18, 6)).top(5)  # doctest: +SKIP
    """
    direction = one_row(read_by(model, transcoder), transcoder, feature)
    embeddings = model.weights.W_E
    if through is None:
        parts = [
            _pre_activation(transcoder, feature, entering(model, transcoder.reads, wide(embeddings[ids])))
            for ids in blocks_of_tokens(len(embeddings))
        ]
    else:
        back = taken_back(head_between(model, through, transcoder.reads), direction)
        norm = model.weights.norm("attn_in", through[0])
        parts = [norm.normalise(wide(embeddings[ids])).to(back) @ back for ids in blocks_of_tokens(len(embeddings))]
    values = torch.cat(parts).cpu().numpy()
    pieces = tuple(model.text.pieces(range(len(values))))
    return DeEmbedding(feature_name(transcoder, feature), values, pieces, through)


def _pre_activation(transcoder: Transcoder, feature: int, x: Tensor) -> Tensor:
    """(token,): a feature's pre-activation where its dictionary reads `x` (token, d_in)."""
    x = transcoder.normalised(x.to(transcoder.W_enc.device)).x
    x = x if transcoder.centre is None else x - transcoder.centre
    return x @ transcoder.W_enc[feature] + transcoder.b_enc[feature]
