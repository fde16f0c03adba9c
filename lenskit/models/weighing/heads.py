"""Heads by weights alone: what each adds to the residual stream of what stands in it at the token it looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lenskit.models.weighing.factored import FactoredMatrix
from lenskit.models.weighing.norms import wide

if TYPE_CHECKING:
    from lenskit.models.model import Model


def through_heads(model: Model, layer: int) -> FactoredMatrix:
    """(head, d_model, d_model): what each head of a layer adds to the residual stream of what stands in it at a token.

    It looks at that token alone, the norms before and behind it divide by 1, and biases are left out. In float32 at
    least. Raises `IndexError` for a layer that is not there, `SiteUnavailable` where the heads' weights are not found.
    """
    if not 0 <= layer < model.n_layers:
        raise IndexError(f"layer {layer} does not exist: this model has layers 0 to {model.n_layers - 1}.")
    heads = model.weights.OV[layer]
    A = model.weights.norm("attn_in", layer).back(wide(heads.A).mT).mT
    B, writer = wide(heads.B), model.weights.found.parts.writer("W_O", layer)
    if (behind := writer.post_norm) is not None:
        B = B - B.mean(-1, keepdim=True) if behind.centres else B
        B = B * writer.factor if behind.gain is None else B * (behind.gain.to(B) * writer.factor)
    return FactoredMatrix(A, B)
