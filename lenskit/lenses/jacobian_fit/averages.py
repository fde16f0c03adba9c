"""Averages: running sums of passages in two halves, which give the mean, its last change, and how far it may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lenskit.lenses.jacobian_files.stored import Matrices
from lenskit.lenses.jacobian_fit.recipe import Place
from lenskit.lenses.jacobian_fit.rows import PerPlace


@dataclass(eq=False)
class Averages:
    """Sums of the matrices of passages. Passages go to one half and the other in turn, so that the two tell of noise.

    Attributes:
        halves: the two sums.
        counts: how many passages are in each.
    """

    places: tuple[Place, ...]
    halves: tuple[PerPlace, PerPlace] = field(default_factory=lambda: ({}, {}))
    counts: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def passages(self) -> int:
        """How many passages there are."""
        return sum(self.counts)

    def add(self, sums: PerPlace, count: int, which: int) -> Tensor:
        """Add the sums of so many passages to a half, and give by how much each mean changed (place,), relative.

        The change is the norm of the difference of the two means over that of the new one; infinite for the first.
        """
        before, seen = self.passages, self.passages + count
        changes = torch.full((len(self.places),), math.inf, dtype=torch.float64)
        for n, place in enumerate(self.places):
            half = self.halves[which]
            old = self.mean(place) if before else None
            half[place] = half[place] + sums[place] if place in half else sums[place].clone()
            if old is not None:
                new = self._sum(place) / seen
                changes[n] = _ratio((new - old).norm(), new.norm())
        self.counts[which] += count
        return changes

    def errors(self) -> Tensor:
        """(place,) the standard error of each mean, relative to its norm, from the two halves; NaN with one only.

        The halves' means differ by sqrt(1 / a + 1 / b) times what one passage scatters, and the mean of all is off by
        sqrt(1 / n) times it.
        """
        a, b = self.counts
        errors = torch.full((len(self.places),), math.nan, dtype=torch.float64)
        if not a or not b:
            return errors
        share = math.sqrt(a * b) / (a + b)
        for n, place in enumerate(self.places):
            first, second = (half[place] / count for half, count in zip(self.halves, self.counts, strict=True))
            errors[n] = share * _ratio((first - second).norm(), self.mean(place).norm())
        return errors

    def mean(self, place: Place) -> Tensor:
        """(d_model out, d_in) the mean over all passages so far."""
        return self._sum(place) / self.passages

    def means(self, whole: bool = True) -> Matrices:
        """The means, by source and layer; not `whole`, matrices of their shape."""
        found: Matrices = {}
        for place in self.places:
            matrix = self.mean(place) if whole else self.halves[0][place]
            found.setdefault(place.source, {})[place.layer] = matrix
        return found

    def _sum(self, place: Place) -> Tensor:
        there = [half[place] for half in self.halves if place in half]
        return there[0] if len(there) == 1 else there[0] + there[1]


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part) / max(float(whole), 1e-30)


def weighted(means: Sequence[Matrices], counts: Sequence[int]) -> Matrices:
    """The mean of means, each counting by its passages."""
    total = sum(counts)
    found: Matrices = {}
    for source, layers in means[0].items():
        for layer, first in layers.items():
            mean = torch.zeros_like(first, dtype=torch.float64)
            for each, count in zip(means, counts, strict=True):
                mean += each[source][layer].double() * (count / total)
            found.setdefault(source, {})[layer] = mean.to(first.dtype)
    return found
