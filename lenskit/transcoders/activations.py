"""Activations: which of a dictionary's pre-activations become active features, and how active they are.

Each is a frozen value with one method, `picked`, that is given a block of pre-activations (token, feature), which it
may overwrite, and gives what is active in it. `kind` is its name in files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lenskit.largest import largest


class Picked(NamedTuple):
    """The active features of a block of tokens: features and values (active,), and how many each token has (token,)."""

    features: Tensor
    values: Tensor
    counts: Tensor


@dataclass(frozen=True)
class ReLU:
    """Every feature whose pre-activation is positive. Bricken et al., "Towards Monosemanticity" (2023)."""

    kind: ClassVar[str] = "relu"

    def picked(self, pre: Tensor) -> Picked:
        return where(pre > 0, pre)


@dataclass(frozen=True)
class TopK:
    """The k largest of each token, as far as they are positive. Gao et al., "Scaling and evaluating SAEs" (2024).

    k: how many.
    """

    kind: ClassVar[str] = "topk"
    k: int

    def __post_init__(self) -> None:
        check_k(self.k)

    def picked(self, pre: Tensor) -> Picked:
        values, features = largest(pre, min(self.k, pre.shape[1]))
        return equal(features, values)


@dataclass(frozen=True)
class GroupMax:
    """The largest of each of k groups of neighbouring features, as far as positive: sparsify's "groupmax".

    k: how many groups; it divides the number of features.
    """

    kind: ClassVar[str] = "groupmax"
    k: int

    def __post_init__(self) -> None:
        check_k(self.k)

    def picked(self, pre: Tensor) -> Picked:
        if pre.shape[1] % self.k:
            raise ValueError(f"{pre.shape[1]} features cannot be dealt out to {self.k} groups of one size.")
        size = pre.shape[1] // self.k
        values, place = pre.view(pre.shape[0], self.k, size).max(-1)
        return equal(place + torch.arange(0, pre.shape[1], size, device=pre.device), values)


@dataclass(frozen=True)
class BatchTopK:
    """On average k for each token: what is above one threshold. Bussmann et al., "BatchTopK SAEs" (2024).

    In training the threshold is what leaves k per token of the batch. A trained dictionary has one of its own, without
    which what is active in a token would depend on the tokens beside it.

    k: how many on average. threshold: what a pre-activation must exceed; None while it is trained.
    """

    kind: ClassVar[str] = "batchtopk"
    k: int
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_k(self.k)

    def picked(self, pre: Tensor) -> Picked:
        if self.threshold is None:
            raise ValueError(
                "this BatchTopK dictionary has no threshold, without which a token's features depend on the tokens "
                "beside it: train it to its end, or give it one with threshold=."
            )
        return where(pre > max(self.threshold, 0.0), pre)


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """Every feature above a threshold of its own, unshifted. Rajamanoharan et al., "Jumping Ahead" (2024).

    threshold: (feature,) what each pre-activation must exceed.
    """

    kind: ClassVar[str] = "jumprelu"
    threshold: Tensor

    def picked(self, pre: Tensor) -> Picked:
        # A threshold below 0 would let negative values through: they are those of the published code, `x * (x > t)`.
        return where(pre > self.threshold, pre)


@dataclass(frozen=True, eq=False)
class Gated:
    """Features chosen by one bias and measured with another. Rajamanoharan et al., "Gated SAEs" (2024).

    Both read the same products, `x @ W_enc`, to which the dictionary itself adds nothing.

    gate_bias: (feature,) a feature is active where product + gate_bias > 0.
    log_scale, bias: (feature,) it is then relu(product * exp(log_scale) + bias).
    """

    kind: ClassVar[str] = "gated"
    gate_bias: Tensor
    log_scale: Tensor
    bias: Tensor

    def picked(self, pre: Tensor) -> Picked:
        is_open = pre > -self.gate_bias
        size = pre.mul_(self.log_scale.exp()).add_(self.bias)
        return where(is_open & (size > 0), size)


Activation = ReLU | TopK | GroupMax | BatchTopK | JumpReLU | Gated
KINDS: dict[str, type[Activation]] = {each.kind: each for each in (ReLU, TopK, GroupMax, BatchTopK, JumpReLU, Gated)}


def where(active: Tensor, values: Tensor) -> Picked:
    """What is active, of (token, feature)."""
    tokens, features = active.nonzero(as_tuple=True)
    return Picked(features, values[tokens, features], active.sum(1))


def equal(features: Tensor, values: Tensor) -> Picked:
    """The same number in each token, (token, k), but for those that are not above 0."""
    active = values > 0
    if not bool(active.all()):
        return Picked(features[active], values[active], active.sum(1))
    tokens, k = features.shape
    return Picked(features.flatten(), values.flatten(), torch.full((tokens,), k, device=features.device))


def check_k(k: int) -> None:
    """Raise ValueError for a number of features that cannot be."""
    if k < 1:
        raise ValueError(f"at least one feature of a token must be active, not k={k}.")
