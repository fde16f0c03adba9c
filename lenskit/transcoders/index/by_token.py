"""ByToken: how strongly each feature is active on each token of the vocabulary, as far as both occur together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lenskit.transcoders.index.kept import Arrays, first_of_each
from lenskit.transcoders.index.pairs import Pairs

_MOST = 1 << 22  # entries held
_WAITING = 1 << 20  # entries that wait before they are sorted in, at least
_PER_TOKEN = 64  # features left of each token where there is no room for all of them
_LEAST = 8


class Entries(NamedTuple):
    """Sums of one feature's activations on one token each.

    Attributes:
        keys: (entry,) uint64, token << 32 | feature.
        sums: (entry,) float64.
        counts: (entry,) uint32, how often.
    """

    keys: np.ndarray
    sums: np.ndarray
    counts: np.ndarray

    @property
    def tokens(self) -> np.ndarray:
        """(entry,) int64."""
        return (self.keys >> np.uint64(32)).astype(np.int64)

    @property
    def features(self) -> np.ndarray:
        """(entry,) int64."""
        return (self.keys & np.uint64(0xFFFFFFFF)).astype(np.int64)

    def at(self, which: np.ndarray) -> Entries:
        """Some of them."""
        return Entries(self.keys[which], self.sums[which], self.counts[which])


class ByToken:
    """A sparse table (token, feature) of sums and counts.

    It holds all there is while that is at most 4 million entries, 80 MB. Beyond, each token keeps the 64 features with
    the largest sums so far (fewer where very many tokens were seen): what comes later of the others starts from 0.
    `forgotten` tells how often that was done; while it is 0 the table is exact.
    """

    def __init__(self) -> None:
        self.entries = _none()
        self.waiting = _none()
        self.forgotten = 0

    def add(self, pairs: Pairs, ids: np.ndarray) -> None:
        """Count some pairs; ids (pair,): the token of each."""
        keys = (ids.astype(np.uint64) << np.uint64(32)) | pairs.features.astype(np.uint64)
        fresh = _summed(Entries(keys, pairs.values.astype(np.float64), np.ones(len(keys), np.uint32)))
        self.waiting = _joined(self.waiting, fresh)
        if len(self.waiting.keys) >= max(_WAITING, len(self.entries.keys) // 2):
            self.settle()

    def settle(self) -> Entries:
        """Sort in what waits, and give the table."""
        self.entries, self.waiting = _merged(self.entries, _summed(self.waiting)), _none()
        if len(self.entries.keys) > _MOST:
            tokens = self.entries.tokens
            room = min(_PER_TOKEN, max(_LEAST, _MOST // 2 // len(first_of_each(tokens))))
            strongest = best_of_each(tokens, self.entries.sums, room)
            self.entries = self.entries.at(np.sort(strongest))
            self.forgotten += 1
        return self.entries

    def state(self) -> Arrays:
        """Everything, by name."""
        parts = {"entries": self.entries, "waiting": self.waiting}
        arrays = {f"{name}.{field}": array for name, part in parts.items() for field, array in part._asdict().items()}
        return arrays | {"forgotten": np.array([self.forgotten])}

    def resume(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        self.entries, self.waiting = (
            Entries(*(state[f"{name}.{field}"].copy() for field in Entries._fields)) for name in ("entries", "waiting")
        )
        self.forgotten = int(state["forgotten"][0])


def best_of_each(groups: np.ndarray, sizes: np.ndarray, most: int) -> np.ndarray:
    """The numbers of the largest of each group, no more than so many, group by group, the largest first."""
    order = np.lexsort((-sizes, groups))
    groups = groups[order]
    begins = first_of_each(groups)
    rank = np.arange(len(groups)) - np.repeat(begins, np.diff(begins, append=len(groups)))
    return order[rank < most]


def _none() -> Entries:
    return Entries(np.zeros(0, np.uint64), np.zeros(0), np.zeros(0, np.uint32))


def _joined(one: Entries, other: Entries) -> Entries:
    return Entries(*(np.concatenate(both) for both in zip(one, other, strict=True)))


def _summed(entries: Entries) -> Entries:
    """Sorted by key, each key once."""
    if not len(entries.keys):
        return entries
    keys, sums, counts = entries.at(np.argsort(entries.keys))
    begins = first_of_each(keys)
    return Entries(keys[begins], np.add.reduceat(sums, begins), np.add.reduceat(counts, begins))


def _merged(many: Entries, few: Entries) -> Entries:
    """Two tables as one, both sorted and with each key once: in one walk, which a sort of everything is not."""
    place = np.searchsorted(many.keys, few.keys)
    known = np.zeros(len(few.keys), bool)
    inside = place < len(many.keys)
    known[inside] = many.keys[place[inside]] == few.keys[inside]
    many.sums[place[known]] += few.sums[known]
    many.counts[place[known]] += few.counts[known]
    fresh = few.at(np.flatnonzero(~known))
    at = place[~known] + np.arange(len(fresh.keys))
    is_old = np.ones(len(many.keys) + len(at), bool)
    is_old[at] = False
    return Entries(*(_woven(is_old, at, old, new) for old, new in zip(many, fresh, strict=True)))


def _woven(is_old: np.ndarray, at: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    made = np.empty(len(is_old), old.dtype)
    made[is_old], made[at] = old, new
    return made
