"""Sparse products with gradients: encoder and decoder where only a few features of each token are active.

Every one of them, forwards and backwards, is a sum of a few rows weighted by numbers, which is what `embedding_bag`
computes. Only the encoder's own product is dense. A step that is written with these costs a third of one in which
autograd goes through the dense products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_PAIRS = 4096  # so many gathered rows of a weight at once


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which feature is active at which token: one token after another.

    Attributes:
        features: (pair,) the feature of each.
        offsets: (token + 1,) where each token's pairs begin.
        n_features: how many features there are.
    """

    features: Tensor
    offsets: Tensor
    n_features: int

    @cached_property
    def tokens(self) -> Tensor:
        """(pair,) the token of each."""
        tokens = torch.arange(len(self.offsets) - 1, device=self.features.device)
        return tokens.repeat_interleave(self.offsets.diff(), output_size=len(self.features))

    @cached_property
    def _by_feature(self) -> tuple[Tensor, Tensor]:
        """The order in which the pairs of one feature stand together, and where each feature's begin."""
        counts = torch.bincount(self.features, minlength=self.n_features)
        return self.features.argsort(), functional.pad(counts.cumsum(0), (1, 0))

    def summed_by_token(self, rows: Tensor, weights: Tensor) -> Tensor:
        """(token, d): the rows (feature, d) of each token's features, weighted."""
        return _bags(self.features, rows, self.offsets, weights)

    def summed_by_feature(self, rows: Tensor, weights: Tensor) -> Tensor:
        """(feature, d): the rows (token, d) of each feature's tokens, weighted; 0 where it was active nowhere."""
        order, offsets = self._by_feature
        return _bags(self.tokens[order], rows, offsets, weights[order])

    def products(self, of_features: Tensor, of_tokens: Tensor) -> Tensor:
        """(pair,): the scalar product of the feature's row with the token's."""
        found = of_tokens.new_empty(len(self.features))
        for begin in range(0, len(found), _PAIRS):
            part = slice(begin, begin + _PAIRS)
            left, right = of_features[self.features[part]], of_tokens[self.tokens[part]]
            found[part] = torch.linalg.vecdot(left, right)
        return found


def _bags(indices: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    return functional.embedding_bag(
        indices, rows, offsets, mode="sum", per_sample_weights=weights.to(rows.dtype), include_last_offset=True
    )


def pre_activations(x: Tensor, W_enc: Tensor, b_enc: Tensor, pairs: Pairs, known: Tensor) -> Tensor:
    """(pair,): what is `known` of these pairs, W_enc[feature] . x[token] + b_enc[feature], with gradients.

    x: (token, d_in), W_enc: (feature, d_in), b_enc: (feature,).
    """
    made: Any = _Encoded.apply(x, W_enc, b_enc, pairs, known)
    return made


def decoded(values: Tensor, W_dec: Tensor, pairs: Pairs) -> Tensor:
    """(token, d_out): the features' rows of W_dec (feature, d_out), weighted by `values` (pair,), with gradients."""
    made: Any = _Decoded.apply(values, W_dec, pairs)
    return made


class _Encoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, pairs: Pairs, known: Tensor) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.pairs = pairs
        return known.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x, W_enc), pairs = ctx.saved_tensors, ctx.pairs
        of_x = pairs.summed_by_token(W_enc, grad) if ctx.needs_input_grad[0] else None
        of_weight = pairs.summed_by_feature(x, grad) if ctx.needs_input_grad[1] else None
        of_bias = grad.new_zeros(pairs.n_features).index_add_(0, pairs.features, grad)
        return of_x, of_weight, of_bias, None, None


class _Decoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.pairs = pairs
        return pairs.summed_by_token(W_dec, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (values, W_dec), pairs = ctx.saved_tensors, ctx.pairs
        of_values = pairs.products(W_dec, grad) if ctx.needs_input_grad[0] else None
        of_weight = pairs.summed_by_feature(grad, values) if ctx.needs_input_grad[1] else None
        return of_values, of_weight, None
