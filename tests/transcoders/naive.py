"""What a dictionary computes, written down token by token and feature by feature in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from lenskit.transcoders.activations import BatchTopK, Gated, GroupMax, JumpReLU, ReLU, TopK
from lenskit.transcoders.transcoder import Transcoder


def active(dictionary: Transcoder, pre: Tensor) -> dict[int, float]:
    """The active features of one token's pre-activations (feature,)."""
    activation, numbers = dictionary.activation, pre.tolist()
    match activation:
        case ReLU():
            return {i: x for i, x in enumerate(numbers) if x > 0}
        case TopK(k):
            best = sorted(range(len(numbers)), key=lambda i: -numbers[i])[:k]
            return {i: numbers[i] for i in best if numbers[i] > 0}
        case GroupMax(k):
            size = len(numbers) // k
            best = [max(range(g * size, (g + 1) * size), key=lambda i: numbers[i]) for g in range(k)]
            return {i: numbers[i] for i in best if numbers[i] > 0}
        case BatchTopK(_, threshold):
            assert threshold is not None
            return {i: x for i, x in enumerate(numbers) if x > threshold and x > 0}
        case JumpReLU(threshold):
            return {i: x for i, x in enumerate(numbers) if x > float(threshold[i])}
        case Gated(gate, scale, bias):
            sizes = [
                x * float(s.exp()) + float(b) for x, s, b in zip(numbers, scale.double(), bias.double(), strict=True)
            ]
            return {i: y for i, y in enumerate(sizes) if numbers[i] + float(gate[i]) > 0 and y > 0}


def codes_of(dictionary: Transcoder, token: Tensor) -> dict[int, float]:
    """The active features of one token (d_in,), already normalised."""
    x = token.double() if dictionary.centre is None else token.double() - dictionary.centre.double()
    return active(dictionary, dictionary.W_enc.double() @ x + dictionary.b_enc.double())


def written(dictionary: Transcoder, token: Tensor, write: int = 0) -> Tensor:
    """(d_out,): what one token is mapped to."""
    x, scale, eps, mean = token.double(), 1.0, 0.0, 0.0
    if dictionary.normalise == "norm":
        scale = float(x.norm()) / len(x) ** 0.5
    elif dictionary.normalise == "layer norm":
        mean, eps = float(x.mean()), 1e-5
        scale = float(((x - mean).square().sum() / (len(x) - 1)).sqrt())
    x = (x - mean) / (scale + eps)
    out = dictionary.b_dec[write].double().clone()
    for feature, value in codes_of(dictionary, x).items():
        out += value * dictionary.W_dec[write, feature].double()
    if dictionary.W_skip is not None:
        out += dictionary.W_skip[write].double() @ x
    return out * scale + mean if dictionary.restores else out


def each(dictionary: Transcoder, x: Tensor, write: int = 0) -> Tensor:
    """(..., d_out): every token by itself."""
    flat = x.reshape(-1, x.shape[-1])
    return torch.stack([written(dictionary, token, write) for token in flat]).view(*x.shape[:-1], -1)
