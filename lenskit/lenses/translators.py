"""Translators: what a tuned lens adds to the residual in each layer, whole or in low-rank factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Translators:
    """Whole matrices: layer i carries `h` to `h + weight[i] h + bias[i]`, so that zeros are the logit lens.

    Attributes:
        weight: (layer, d_model, d_model), the output first.
        bias: (layer, d_model), or None for a lens without.
    """

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def identity(cls, layers: int, d_model: int) -> Translators:
        """Those that change nothing."""
        return cls(torch.zeros(layers, d_model, d_model), torch.zeros(layers, d_model))

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, d_model)."""
        return self.weight.shape[0], self.weight.shape[1]

    def carry(self, h: Tensor, layer: int) -> Tensor:
        """`h` (..., d_model) of a layer, as the final residual that it stands for."""
        start = h if self.bias is None else h + self.bias[layer]
        d_model = h.shape[-1]
        flat = torch.addmm(start.reshape(-1, d_model), h.reshape(-1, d_model), self.weight[layer].T)
        return flat.view(h.shape)

    def whole(self) -> Translators:
        """Themselves."""
        return self

    def of_layers(self, layers: Sequence[int]) -> Translators:
        """Those of some layers."""
        chosen = list(layers)
        return Translators(self.weight[chosen], None if self.bias is None else self.bias[chosen])

    def with_layers(self, layers: Sequence[int], others: Translators) -> Translators:
        """These, with the translators of some layers taken from `others`, which has only those."""
        chosen = list(layers)
        weight = self.weight.to(others.weight, copy=True)
        bias = weight.new_zeros(self.shape) if self.bias is None else self.bias.to(weight, copy=True)
        weight[chosen] = others.weight
        bias[chosen] = 0 if others.bias is None else others.bias
        return Translators(weight, bias)

    def to(self, device: torch.device, dtype: torch.dtype) -> Translators:
        """The same elsewhere, or in another dtype."""
        return Translators(self.weight.to(device, dtype), None if self.bias is None else self.bias.to(device, dtype))


@dataclass(frozen=True, eq=False)
class FactoredTranslators:
    """Low-rank factors: layer i carries `h` to `h + left[i] (right[i] h) + bias[i]`.

    Attributes:
        left: (layer, d_model, rank).
        right: (layer, rank, d_model).
        bias: (layer, d_model), or None for a lens without.
    """

    left: Tensor
    right: Tensor
    bias: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, d_model)."""
        return self.left.shape[0], self.left.shape[1]

    @property
    def rank(self) -> int:
        """How many directions each layer's matrix writes."""
        return self.left.shape[2]

    def carry(self, h: Tensor, layer: int) -> Tensor:
        """`h` (..., d_model) of a layer, as the final residual that it stands for."""
        start = h if self.bias is None else h + self.bias[layer]
        d_model = h.shape[-1]
        inner = h.reshape(-1, d_model) @ self.right[layer].T
        return torch.addmm(start.reshape(-1, d_model), inner, self.left[layer].T).view(h.shape)

    def whole(self) -> Translators:
        """The same as whole matrices."""
        return Translators(self.left @ self.right, self.bias)

    def to(self, device: torch.device, dtype: torch.dtype) -> FactoredTranslators:
        """The same elsewhere, or in another dtype."""
        bias = None if self.bias is None else self.bias.to(device, dtype)
        return FactoredTranslators(self.left.to(device, dtype), self.right.to(device, dtype), bias)


AnyTranslators = Translators | FactoredTranslators


def factored(translators: Translators, rank: int, metric: Tensor | None = None) -> FactoredTranslators:
    """The best factors of this rank: those that change what the matrices give by the least sum of squares.

    Args:
        translators: whole matrices.
        rank: of the factors, 1 to d_model.
        metric: (layer, d_model, d_model) second moments of what each layer reads, so that directions which the
            residual stream does not use cost nothing; None counts all directions alike.

    Source: reduced-rank approximation in the metric of the input (Izenman, 1975).
    """
    layers, d_model = translators.shape
    if not 1 <= rank <= d_model:
        raise ValueError(f"a rank is between 1 and d_model={d_model}, not {rank}.")
    lefts, rights = [], []
    for layer in range(layers):
        matrix = translators.weight[layer].double()
        root, back = _roots(None if metric is None else metric[layer].double(), matrix)
        u, s, v = torch.linalg.svd(matrix @ root, full_matrices=False)
        share = s[:rank].sqrt()  # half of each singular value on either side, so that both keep to one scale
        lefts.append(u[:, :rank] * share)
        rights.append(share[:, None] * (v[:rank] @ back))
    kind = translators.weight.dtype
    return FactoredTranslators(torch.stack(lefts).to(kind), torch.stack(rights).to(kind), translators.bias)


def _roots(metric: Tensor | None, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a metric and its inverse."""
    if metric is None:
        same = torch.eye(matrix.shape[1], dtype=matrix.dtype)
        return same, same
    values, vectors = torch.linalg.eigh(metric)
    values = values.clamp_min(values[-1] * 1e-9)
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T
