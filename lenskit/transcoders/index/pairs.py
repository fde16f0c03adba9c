"""Pairs: which feature is active at which position of a corpus, sorted by feature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lenskit.transcoders.index.kept import first_of_each

BEFORE, AFTER = 24, 8
"""How many tokens of context an example has before and after its own, at most."""

_NARROW = 1 << 16  # so many numbers are sorted by counting
_AT_ONCE = 4096  # windows that fit the cache of a processor


@dataclass(frozen=True, eq=False)
class Pairs:
    """The activations of some whole chunks of the corpus, by feature and within a feature by position.

    Attributes:
        features: (pair,) int64.
        positions: (pair,) uint32, counted through the corpus: chunk times length plus position in the chunk.
        values: (pair,) float32, all above 0.
        strong: (pair,) bool, whether it counts where features are compared by when they are active.
        length: of the chunks.
    """

    features: np.ndarray
    positions: np.ndarray
    values: np.ndarray
    strong: np.ndarray
    length: int

    @classmethod
    def of(
        cls,
        features: np.ndarray,
        positions: np.ndarray,
        values: np.ndarray,
        strong: np.ndarray,
        length: int,
        n_features: int,
    ) -> Pairs:
        """Sort pairs that come position by position."""
        if n_features <= _NARROW:
            order = np.argsort(features.astype(np.uint16), kind="stable")
        else:
            order = np.argsort((features.astype(np.uint64) << np.uint64(32)) | positions)
        return cls(features[order].astype(np.int64), positions[order], values[order], strong[order], length)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def begins(self) -> np.ndarray:
        """Where each active feature's pairs begin."""
        return first_of_each(self.features)

    @cached_property
    def active(self) -> np.ndarray:
        """The features that are active at all, ascending."""
        return self.features[self.begins]

    @cached_property
    def chunks(self) -> np.ndarray:
        """(pair,) the chunk of each."""
        return self.positions // np.uint32(self.length)

    @cached_property
    def peaks(self) -> np.ndarray:
        """The pairs that are the largest of their feature in their chunk; the first of them, where several are."""
        fresh = (self.features[1:] != self.features[:-1]) | (self.chunks[1:] != self.chunks[:-1])
        begins = np.concatenate([[0], np.flatnonzero(fresh) + 1])
        sizes = np.diff(begins, append=len(self))
        highest = np.flatnonzero(self.values == np.repeat(np.maximum.reduceat(self.values, begins), sizes))
        line = np.repeat(np.arange(len(begins)), sizes)[highest]
        return highest[first_of_each(line)]

    def windows(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How active some pairs' features are around them: (n, window) in steps, and how much 255 steps are (n,).

        A window is 0 where the feature is not active, or outside the chunk. What is not 0 does not become 0.
        """
        steps = np.empty((len(at), BEFORE + 1 + AFTER), np.uint8)
        scale = np.empty(len(at), np.float32)
        for begin in range(0, len(at), _AT_ONCE):
            some = slice(begin, begin + _AT_ONCE)
            window = self._window(at[some])
            window.max(1, out=scale[some])
            is_active = window > 0
            window *= (np.float32(255) / scale[some])[:, None]
            np.maximum(np.rint(window, out=window), is_active, out=window)
            steps[some] = window
        return steps, scale

    def _window(self, at: np.ndarray) -> np.ndarray:
        """(n, window) activations.

        Among a feature's pairs each position occurs once and they ascend: what is near in the text is as near in the
        list, and beyond the first pair that is outside a window all are.
        """
        found = np.zeros((len(at), BEFORE + 1 + AFTER), np.float32)
        found[:, BEFORE] = self.values[at]
        for direction, reach in ((-1, BEFORE), (1, AFTER)):
            line, here = np.arange(len(at)), at
            for step in range(1, reach + 1):
                other = here + direction * step
                inside = (other >= 0) & (other < len(self))
                line, here, other = line[inside], here[inside], other[inside]
                # Unsigned positions wrap round where the other is on the wrong side, and are then too far.
                apart = self.positions[other] - self.positions[here]
                apart = apart if direction > 0 else -apart
                near = (self.features[other] == self.features[here]) & (self.chunks[other] == self.chunks[here])
                near &= apart <= reach
                line, here, other = line[near], here[near], other[near]
                if not len(line):
                    break
                found[line, BEFORE + direction * apart[near].astype(np.int64)] = self.values[other]
        return found
