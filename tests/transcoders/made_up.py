"""Random dictionaries of every kind."""

from __future__ import annotations

import torch
from torch import Tensor

from lenskit.transcoders.activations import Activation, BatchTopK, Gated, GroupMax, JumpReLU, ReLU, TopK
from lenskit.transcoders.transcoder import Normalisation, Transcoder

D_IN, FEATURES = 12, 64


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def activations() -> dict[str, Activation]:
    return {
        "relu": ReLU(),
        "topk": TopK(5),
        "groupmax": GroupMax(8),
        "batchtopk": BatchTopK(5, threshold=0.9),
        "jumprelu": JumpReLU(numbers(FEATURES, seed=1).abs()),
        "gated": Gated(numbers(FEATURES, seed=2), numbers(FEATURES, seed=3) / 4, numbers(FEATURES, seed=4) / 4),
    }


def dictionary(
    kind: str = "topk",
    *,
    d_out: int = D_IN,
    writes: int = 1,
    skip: bool = False,
    centre: bool = False,
    normalise: Normalisation = "none",
    restores: bool = True,
    seed: int = 0,
) -> Transcoder:
    """A random transcoder; an SAE where what it writes is as wide as what it reads, and one site."""
    return Transcoder(
        numbers(FEATURES, D_IN, seed=seed) / D_IN**0.5,
        numbers(FEATURES, seed=seed + 1) / 4,
        numbers(writes, FEATURES, d_out, seed=seed + 2),
        numbers(writes, d_out, seed=seed + 3),
        activations()[kind],
        reads=("resid_post", 1),
        writes=[("resid_post", 1)] if writes == 1 and d_out == D_IN else [("mlp_out", 1 + i) for i in range(writes)],
        W_skip=numbers(writes, d_out, D_IN, seed=seed + 4) if skip else None,
        centre=numbers(D_IN, seed=seed + 5) if centre else None,
        normalise=normalise,
        restores=restores,
    )
