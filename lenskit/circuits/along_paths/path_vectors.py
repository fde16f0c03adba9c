"""Vectors of paths: by which direction of the residual stream a place in a prompt counts, everything else being held.

With attention patterns and norms held, what is explained is an affine function of the residual stream at any place that
reads it, and so is what any step of a path gives. A vector is that function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from lenskit.models.sites import Site
from lenskit.models.weighing.norms import Norm
from lenskit.transcoders.index.embeddings import norm_before

if TYPE_CHECKING:
    from lenskit.models.model import Model


class Vector(NamedTuple):
    """What the residual stream at one place gives: `direction @ stream[pos] + constant`.

    Attributes:
        stream: where the residual stream is read: `resid_pre`, `resid_mid` or `resid_post` of a layer.
        pos: the position.
        direction: (d_model,).
        constant: what is given whatever is in the stream: biases between the stream and what reads it.
    """

    stream: Site
    pos: int
    direction: Tensor
    constant: float

    def value(self, stream: Tensor) -> float:
        """What it gives of the stream (pos, d_model)."""
        return float(stream[self.pos] @ self.direction) + self.constant


def norm_and_stream(model: Model, site: Site) -> tuple[Norm, Site]:
    """What is between a site and the residual stream, and where that is. Raises `SiteUnavailable` for another site."""
    if site.name == "final_norm":
        return model.weights.norm("final_norm"), Site("resid_post", model.n_layers - 1)
    norm = norm_before(model, site)
    if site.name == "attn_in":
        return norm, Site("resid_pre", site.layer)
    if site.name == "mlp_in":
        serial = site.layer in model.anatomy.layers_of("resid_mid")
        return norm, Site("resid_mid" if serial else "resid_pre", site.layer)
    return norm, site


def back_through(norm: Norm, direction: Tensor, x: Tensor) -> tuple[Tensor, float]:
    """A direction of what a norm gives as one of what it reads, its scale held at that of `x` (d_model,).

    Beside it what the norm's bias gives along that direction.
    """
    if norm.module is None:
        return direction, 0.0
    constant = 0.0 if (bias := norm.bias) is None else float(bias.to(direction) @ direction)
    return norm.back(direction) / norm.scale(x).to(direction), constant
