"""A lens with a random affine map for each layer, which stands for a trained one in the tests."""

import torch
from torch import Tensor

import lenskit as lk
from lenskit.lenses.reading import read
from lenskit.models.sites import Site, SiteLike


class AffineLens:
    """It reads what enters a block, `h + A h + b` with random A and b, as a tuned lens does."""

    name, site = "affine", "resid_pre"
    read = read

    def __init__(self, model: lk.Model, d_model: int = 32, seed: int = 0) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(seed)

        def some(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.maps = [(some(d_model, d_model) / 20, some(d_model) / 5) for _ in range(model.n_layers + 1)]

    def transport(self, h: Tensor, site: SiteLike) -> Tensor:
        name, layer, _ = Site.parse(site)
        assert layer is not None
        weight, bias = self.maps[layer + (name == "resid_post")]
        return h + h @ weight.to(h.dtype).T + bias.to(h.dtype)
