"""Random dictionaries for the MLPs of tiny models, of every kind that a graph can be made of."""

import torch

import lenskit as lk
from lenskit.models.sites import Site
from lenskit.transcoders.activations import Activation, Gated, JumpReLU, ReLU, TopK

KINDS = ("relu", "topk", "jumprelu", "gated")


def activation(kind: str, features: int, draw: torch.Generator) -> Activation:
    """One of a kind, with random parameters."""
    if kind == "relu":
        return ReLU()
    if kind == "topk":
        return TopK(5)
    if kind == "jumprelu":
        return JumpReLU(torch.rand(features, generator=draw))
    gate, scale, bias = (0.3 * torch.randn(features, generator=draw) for _ in range(3))
    return Gated(gate, scale, bias)


def transcoder(
    model: lk.Model,
    layer: int,
    *,
    kind: str = "relu",
    features: int = 40,
    writes: list[int] | None = None,
    skip: bool = False,
    centre: bool = False,
    normalise: str = "none",
    seed: int = 0,
) -> lk.Transcoder:
    """A random dictionary that reads what the MLP of a layer reads, and writes what it writes, or several do."""
    draw = torch.Generator().manual_seed(1000 * seed + layer)
    width = int(model.run([[1, 2]], keep=("mlp_out", layer))["mlp_out", layer].shape[-1])
    written = writes or [layer]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw) / shape[-1] ** 0.5

    return lk.Transcoder(
        random(features, width),
        0.3 * random(features),
        random(len(written), features, width),
        random(len(written), width),
        activation(kind, features, draw),
        reads=Site("mlp_in", layer),
        writes=[Site("mlp_out", each) for each in written],
        W_skip=random(len(written), width, width) if skip else None,
        centre=random(width) if centre else None,
        normalise=normalise,  # pyright: ignore[reportArgumentType] -- one of its words
        restores=normalise != "layer norm",
    )
