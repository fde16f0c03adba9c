"""What a published dictionary computes, in float64, from the definition of its format and its tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor


def doubled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in tensors.items()}


def topk(pre: Tensor, k: int) -> Tensor:
    """relu of the k largest, zeros elsewhere."""
    values, places = pre.relu().topk(k, -1)
    return torch.zeros_like(pre).scatter(-1, places, values)


def jump(pre: Tensor, threshold: Tensor) -> Tensor:
    return pre.relu() * (pre > threshold)


def groupmax(pre: Tensor, k: int) -> Tensor:
    groups = pre.relu().unflatten(-1, (k, -1))
    return (groups * (groups == groups.amax(-1, keepdim=True))).flatten(-2)


def gated(product: Tensor, gate: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return (product + gate > 0) * (product * scale.exp() + bias).relu()
