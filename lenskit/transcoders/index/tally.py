"""Tally: how often and how strongly each feature is active: counts, sums, largest values and histograms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lenskit.transcoders.index.kept import Arrays
from lenskit.transcoders.index.pairs import Pairs


class Tally:
    """Exact sums over a corpus, in one pass: no feature's largest activation has to be known beforehand.

    A feature's histogram has equal bins from 0 to a power of two that is above all it has met. When something larger
    comes, the range is doubled, and two bins become one: the counts stay those of all values so far.

    Args:
        n_features: how many features there are. Memory: 24 + 4 bins bytes for each.
        bins: how many bins; a power of two.
    """

    def __init__(self, n_features: int, bins: int) -> None:
        if bins < 2 or bins & (bins - 1):
            raise ValueError(f"bins is a power of two, since a histogram grows by doubling its range: not {bins}.")
        self.counts = np.zeros(n_features, np.int64)
        self.sums = np.zeros(n_features, np.float64)
        self.largest = np.zeros(n_features, np.float32)
        self.exponents = np.full(n_features, _NONE, np.int32)
        self.histogram = np.zeros((n_features, bins), np.uint32)

    @property
    def bins(self) -> int:
        """How many bins a histogram has."""
        return self.histogram.shape[1]

    def add(self, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Count some pairs. Gives the features whose range has grown, and how often it was doubled."""
        sizes = np.diff(pairs.begins, append=len(pairs))
        self.counts[pairs.active] += sizes
        self.sums[pairs.active] += np.add.reduceat(pairs.values.astype(np.float64), pairs.begins)
        largest = np.maximum(self.largest[pairs.active], np.maximum.reduceat(pairs.values, pairs.begins))
        self.largest[pairs.active] = largest
        grown = self._stretch(pairs.active, np.frexp(largest)[1])
        line = np.repeat(np.arange(len(sizes)), sizes)
        cells = line * self.bins + self.bin_of(pairs.features, pairs.values, self.bins)
        counts = np.bincount(cells, minlength=len(sizes) * self.bins).reshape(-1, self.bins)
        self.histogram[pairs.active] += counts.astype(np.uint32)
        return grown

    def bin_of(self, features: np.ndarray, values: np.ndarray, bins: int) -> np.ndarray:
        """In which of so many bins of its feature's range each value lies; exact, as all are powers of two."""
        return (np.ldexp(values, -self.exponents[features]) * np.float32(bins)).astype(np.int64)

    def _stretch(self, features: np.ndarray, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = self.exponents[features]
        self.exponents[features] = exponents
        grew = (before != _NONE) & (exponents > before)
        features, doublings = features[grew], (exponents - before)[grew]
        if len(features):
            old, line = self.histogram[features], np.arange(len(features))
            self.histogram[features] = 0
            for bin_ in range(self.bins):
                self.histogram[features, merged(bin_, doublings)] += old[line, bin_]
        return features, doublings

    def state(self) -> Arrays:
        """Everything, by name."""
        return dict(vars(self))

    def resume(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        for name in vars(self):
            setattr(self, name, state[name].copy())


_NONE = -(1 << 20)  # no exponent of a number


def merged(bins: np.ndarray | int, doublings: np.ndarray) -> np.ndarray:
    """Where bins are after so many doublings of the range."""
    return bins >> np.minimum(doublings, 31)
