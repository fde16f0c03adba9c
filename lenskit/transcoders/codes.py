"""Codes: which features are active where, and how much: what a dictionary makes of activations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Codes(NamedTuple):
    """The active features of a number of tokens, one token after another; nothing is stored of the others.

    Attributes:
        features: (active,) which features, as int64.
        values: (active,) how active they are.
        offsets: (token + 1,) where in these each token begins, and at last their number.
        shape: what the tokens were laid out as, such as (batch, pos).
        n_features: how many features the dictionary has.
    """

    features: Tensor
    values: Tensor
    offsets: Tensor
    shape: tuple[int, ...]
    n_features: int

    @property
    def counts(self) -> Tensor:
        """How many features are active in each token, in the tokens' own layout: L0."""
        return self.offsets.diff().view(self.shape)

    @property
    def tokens(self) -> Tensor:
        """(active,) the number of the token at which each is active, counted through the layout."""
        numbers = torch.arange(len(self.offsets) - 1, device=self.features.device)
        return numbers.repeat_interleave(self.offsets.diff())

    def at(self, *place: int) -> tuple[Tensor, Tensor]:
        """The features that are active at one place of the layout, the strongest first, and how active they are.

        >>> features, values = codes.at(0, -1)  # doctest: +SKIP
        """
        if len(place) != len(self.shape):
            raise IndexError(f"these codes are laid out as {self.shape}: say one index for each axis, not {place}.")
        for axis, (index, size) in enumerate(zip(place, self.shape, strict=True)):
            if not -size <= index < size:
                raise IndexError(f"index {index} of axis {axis} does not exist: these codes are {self.shape}.")
        token = 0
        for index, size in zip(place, self.shape, strict=True):
            token = token * size + index % size
        begin, end = int(self.offsets[token]), int(self.offsets[token + 1])
        order = self.values[begin:end].argsort(descending=True, stable=True)
        return self.features[begin:end][order], self.values[begin:end][order]

    def of(self, feature: int) -> Tensor:
        """How active one feature is everywhere, in the tokens' layout; 0 where it is not."""
        if not -self.n_features <= feature < self.n_features:
            raise IndexError(f"feature {feature} does not exist: there are features 0 to {self.n_features - 1}.")
        here = self.features == feature % self.n_features
        found = self.values.new_zeros(len(self.offsets) - 1)
        return found.index_put((self.tokens[here],), self.values[here]).view(self.shape)

    def dense(self) -> Tensor:
        """(..., feature): all features, most of them 0. It is as large as it sounds: for small cases only."""
        found = self.values.new_zeros(len(self.offsets) - 1, self.n_features)
        return found.index_put((self.tokens, self.features), self.values).view(*self.shape, self.n_features)

    def __repr__(self) -> str:
        tokens = len(self.offsets) - 1
        mean = len(self.features) / tokens if tokens else 0.0
        return f"Codes({' x '.join(map(str, self.shape))} tokens, {mean:.1f} of {self.n_features:,} features active)"
