"""Effects: which tokens each feature promotes and suppresses where it is active, if nothing else answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lenskit.largest import largest
from lenskit.models.model import Model

KEPT = 16
"""How many tokens are kept of each feature and list."""

_TOKENS, _FEATURES = 8192, 1024  # one block of products: 32 MB


class Lists:
    """For each feature the tokens with the largest numbers, from blocks of the vocabulary: ids and numbers.

    Attributes:
        ids, values: (feature, token), the largest first.
    """

    def __init__(self, n_features: int, vocab: int) -> None:
        kept = min(KEPT, vocab)
        self.ids = torch.zeros(n_features, kept, dtype=torch.int64)
        self.values = torch.full((n_features, kept), -torch.inf)

    def offer(self, features: slice, first: int, scores: Tensor) -> None:
        """Offer scores (feature, token) of some features, and of the tokens from `first` on."""
        kept = self.ids.shape[1]
        values, places = largest(scores, kept)
        values = torch.cat([self.values[features], values.cpu()], 1)
        ids = torch.cat([self.ids[features], places.cpu() + first], 1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :kept]
        self.values[features], self.ids[features] = values.gather(1, order), ids.gather(1, order)


@torch.no_grad()
def effects_on_logits(model: Model, rows: Tensor, progress: Callable[[float], object]) -> tuple[Lists, Lists]:
    """What rows (feature, d_model) of the residual stream add to the logits: the most promoted, the most suppressed.

    The final norm's gain is in it; its scale, which depends on the text, is not, so only ratios mean something, and a
    soft-cap is left out. Source: Geva et al., "Transformer Feed-Forward Layers Build Predictions by Promoting Concepts
    in the Vocabulary Space" (2022); nostalgebraist's logit lens (2020).
    """
    norm, unembedding = model.weights.norm("final_norm"), model.weights.W_U
    rows = rows.to(model.device)
    if norm.centres:
        rows = rows - rows.mean(-1, keepdim=True)
    if norm.gain is not None:
        rows = rows * norm.gain.to(rows)
    vocab = unembedding.shape[1]
    up, down = Lists(len(rows), vocab), Lists(len(rows), vocab)
    for first in range(0, vocab, _TOKENS):
        columns = unembedding[:, first : first + _TOKENS].to(rows)
        for features in blocks_of(len(rows)):
            scores = rows[features] @ columns
            up.offer(features, first, scores)
            down.offer(features, first, scores.neg_())
        progress(min(1.0, (first + _TOKENS) / vocab))
    down.values.neg_()
    return up, down


def blocks_of(n_features: int) -> Iterator[slice]:
    """Features in blocks."""
    for begin in range(0, n_features, _FEATURES):
        yield slice(begin, min(begin + _FEATURES, n_features))


def blocks_of_tokens(vocab: int) -> Iterator[Tensor]:
    """The vocabulary in blocks."""
    yield from torch.arange(vocab).split(_TOKENS)
