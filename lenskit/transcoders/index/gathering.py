"""Gathering: all that is remembered of a corpus while it goes by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lenskit.transcoders.index.by_token import ByToken
from lenskit.transcoders.index.kept import Arrays, Column, Kept
from lenskit.transcoders.index.pairs import AFTER, BEFORE, Pairs
from lenskit.transcoders.index.tally import Tally, merged

SKETCH = 128
"""How many positions of each feature are remembered to compare features by."""

_BESIDE = {"window": Column((BEFORE + 1 + AFTER,), np.uint8), "scale": Column((), np.float32)}
_LOW = np.uint64(0xFFFFFFFF)
_TOO_LARGE = np.float32(2.0**126)  # its range would be no number


class Gathering:
    """What one pass over a corpus leaves, and what it needs on the way; it does not grow with the corpus.

    - `tally`: counts, sums, maxima and histograms, exact.
    - `tops`: the chunks in which a feature is strongest, each by its peak; exact. Of equal peaks the first.
    - `samples`: some positions of each slice of a feature's range, for examples of every strength. Each position of
      the corpus has a number drawn by hashing it, and of each slice those with the smallest numbers are kept: whatever
      the order, all of its positions are equally likely (bottom-k sampling). When the range doubles, slices are joined.
    - `sketches`: the positions with the smallest numbers among all at which a feature is strong. Two features' sketches
      tell how much their positions overlap (Broder, "On the resemblance and containment of documents", 1997).
    - `by_token`: sums by feature and token of the vocabulary.

    Memory: for each feature 24 + 4 bins bytes, 45 bytes for each of the `top` examples and 49 for each of
    bins / 2 * per_band samples, and 512 for the sketch: 4.7 KB with the usual numbers and what goes with them; and by
    token 130 MB at most, and as much again while they are sorted in.

    Args:
        n_features, bins: as in `Tally`. top, per_band: how many examples to keep of the strongest, and of each slice.
        ids: (chunk, pos) the corpus.
    """

    def __init__(self, n_features: int, ids: np.ndarray, *, top: int, per_band: int, bins: int) -> None:
        if ids.size >= 1 << 32:
            raise ValueError(f"an index holds fewer than 2 ** 32 positions, and these texts have {ids.size:,}.")
        self.n_features, self.ids, self.slices = n_features, ids, bins // 2
        self.tally = Tally(n_features, bins)
        self.tops = Kept(n_features, top, np.uint64, _BESIDE)
        self.samples = Kept(n_features * self.slices, per_band, np.uint64, {**_BESIDE, "value": Column((), np.float32)})
        self.sketches = Kept(n_features, SKETCH, np.uint32)
        self.by_token = ByToken()

    def add(self, features: np.ndarray, positions: np.ndarray, values: np.ndarray, strong: np.ndarray) -> None:
        """Tell of the activations of some whole chunks: see `Pairs`; position by position."""
        if not len(features):
            return
        if not bool((values < _TOO_LARGE).all()):
            raise FloatingPointError("an activation is infinite: run the model in another dtype, float32 or bfloat16.")
        pairs = Pairs.of(features, positions, values, strong, self.ids.shape[1], self.n_features)
        self._join_slices(*self.tally.add(pairs))
        peaks = pairs.peaks
        self.tops.offer(
            pairs.features[peaks],
            (~_bits(pairs.values[peaks])).astype(np.uint64) << np.uint64(32) | pairs.positions[peaks],
            lambda chosen: _shown(pairs, peaks[chosen]),
        )
        drawn = hashed(pairs.positions)
        self.samples.offer(
            pairs.features * self.slices + self.tally.bin_of(pairs.features, pairs.values, self.slices),
            drawn.astype(np.uint64) << np.uint64(32) | pairs.positions,
            lambda chosen: {**_shown(pairs, chosen), "value": pairs.values[chosen]},
        )
        self.sketches.offer(pairs.features[pairs.strong], drawn[pairs.strong])
        self.by_token.add(pairs, self.ids.reshape(-1)[pairs.positions])

    def _join_slices(self, features: np.ndarray, doublings: np.ndarray) -> None:
        """Bring the samples of features whose range was doubled to the slices in which they lie now."""
        if not len(features):
            return
        rows = (features[:, None] * self.slices + np.arange(self.slices)).ravel()
        times = np.zeros(self.n_features, np.int64)
        times[features] = doublings
        old, keys, beside = self.samples.taken_out(rows)
        feature, slice_ = np.divmod(old, self.slices)
        new = feature * self.slices + merged(slice_, times[feature])
        self.samples.offer(new, keys, lambda chosen: {name: table[chosen] for name, table in beside.items()})

    def ended(self) -> None:
        """Bring what is kept into order, once the corpus has gone by."""
        for part in (self.tops, self.samples, self.sketches):
            part.in_order()

    @property
    def _parts(self) -> dict[str, Tally | Kept | ByToken]:
        names = ("tally", "tops", "samples", "sketches", "by_token")
        return {name: getattr(self, name) for name in names}

    def state(self) -> Arrays:
        """Everything, by name."""
        return {f"{name}.{key}": array for name, part in self._parts.items() for key, array in part.state().items()}

    def resume(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        for name, part in self._parts.items():
            begin = f"{name}."
            part.resume({key.removeprefix(begin): array for key, array in state.items() if key.startswith(begin)})


def values_of(keys: np.ndarray) -> np.ndarray:
    """The activations that the keys of `tops` hold; 0 for empty ones."""
    return (~(keys >> np.uint64(32)).astype(np.uint32)).view(np.float32)


def positions_of(keys: np.ndarray) -> np.ndarray:
    """The positions that the keys of `tops` and `samples` hold."""
    return (keys & _LOW).astype(np.uint32)


def hashed(positions: np.ndarray) -> np.ndarray:
    """A number for each position, uint32, as if drawn at random: no two positions have the same.

    The finaliser of MurmurHash3 (Appleby), which can be undone.
    """
    h = positions.astype(np.uint32)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def _bits(values: np.ndarray) -> np.ndarray:
    """The bits of positive float32 numbers, which are in the same order as the numbers."""
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def _shown(pairs: Pairs, at: np.ndarray) -> Arrays:
    window, scale = pairs.windows(at)
    return {"window": window, "scale": scale}
