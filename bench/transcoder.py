"""What a sparse dictionary costs over its dense products: d_in 768, 24,576 features, k 32, 1,024 tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from bench.interleaved import Ratio, ratio
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.training import Training
from lenskit.transcoders.transcoder import Transcoder

D, FEATURES, K, TOKENS = 768, 24_576, 32, 1024


def report() -> Iterator[Ratio]:
    """Reading with a dictionary, and one step of training it."""
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, D, generator=noise)
    weight = torch.randn(FEATURES, D, generator=noise) / D**0.5
    tc = Transcoder(weight, None, weight, None, TopK(K), reads=("mlp_in", 0), writes=("mlp_out", 0))
    bias = tc.b_enc.clone()
    yield ratio(
        "encode and decode, over the bare encoder product",
        lambda: tc(x),
        lambda: torch.addmm(bias, x, weight.T),
        bound=1.2,
        pairs=11,
    )
    y = torch.randn(TOKENS, D, generator=noise)
    training = Training(Recipe(FEATURES, k=K, batch=TOKENS), D, D, tied=False, steps=1000).begin(x, y)
    yield ratio(
        "one TopK training step, over dense autograd with fused Adam",
        lambda: training.step(x, y),
        dense_step(weight, x, y),
        bound=0.55,
        pairs=7,
    )


def dense_step(weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """A step as one writes it without further thought."""
    W_enc, W_dec = (torch.nn.Parameter(weight.clone()) for _ in range(2))
    b_enc, b_dec = torch.nn.Parameter(torch.zeros(FEATURES)), torch.nn.Parameter(torch.zeros(D))
    optimizer = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], fused=True)

    def step() -> None:
        pre = torch.addmm(b_enc, x, W_enc.T)
        values, chosen = pre.topk(K, sorted=False)
        codes = torch.zeros_like(pre).scatter(1, chosen, values.relu())
        loss = (torch.addmm(b_dec, codes, W_dec) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
