"""A lens made of one matrix for each layer, by hand: what a Jacobian lens is once it is fitted."""

from collections.abc import Mapping

import torch
from torch import Tensor

import lenskit as lk
from lenskit.lenses.lens_directions import lens_directions
from lenskit.models.sites import Site, SiteLike


class MatrixLens:
    """`J h` at `resid_post` of the layers it has; the last layer is the identity."""

    name, site = "matrix", "resid_post"
    directions = lens_directions

    def __init__(self, model: lk.Model, matrices: Mapping[int, Tensor]) -> None:
        self.model, self.matrices = model, dict(matrices)
        self.layers = tuple(sorted(self.matrices))

    def matrix(self, layer: int) -> Tensor:
        if layer == self.model.n_layers - 1:
            return torch.eye(len(next(iter(self.matrices.values()))))
        return self.matrices[layer]

    def transport(self, h: Tensor, site: SiteLike) -> Tensor:
        where = Site.parse(site)
        assert where.name == "resid_post"
        assert where.layer is not None
        return h @ self.matrix(where.layer).to(h).T


def random_lens(model: lk.Model, layers: int = 2, d_model: int = 32, seed: int = 0) -> MatrixLens:
    """The identity and noise, in the first layers."""
    noise = torch.Generator().manual_seed(seed)
    made = {layer: torch.eye(d_model) + 0.2 * torch.randn(d_model, d_model, generator=noise) for layer in range(layers)}
    return MatrixLens(model, made)
