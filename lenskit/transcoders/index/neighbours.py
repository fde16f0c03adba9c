"""Neighbours: which features write the same, and which are active together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lenskit.largest import largest
from lenskit.transcoders.index.by_token import best_of_each
from lenskit.transcoders.index.kept import Kept, first_of_each

KEPT = 16
"""How many neighbours are kept of each feature."""

_ROWS = 512
_TOGETHER = 64  # features whose company is counted at once
_SHORTLIST = 4  # so many times more are looked at closely than are kept


def similar(rows: Tensor, progress: Callable[[float], object]) -> tuple[np.ndarray, np.ndarray]:
    """The rows (feature, d) with the largest cosine to each: (feature, n) which, and cosines, the largest first."""
    unit = torch.nn.functional.normalize(rows.float(), dim=1)
    kept = min(KEPT, len(unit) - 1)
    found, cosines = list[Tensor](), list[Tensor]()
    for begin in range(0, len(unit), _ROWS):
        block = unit[begin : begin + _ROWS] @ unit.T
        block[torch.arange(len(block)), torch.arange(begin, begin + len(block))] = -2.0
        values, which = largest(block, kept)
        values, order = values.sort(dim=1, descending=True, stable=True)
        found.append(which.gather(1, order).cpu())
        cosines.append(values.cpu())
        progress(min(1.0, (begin + _ROWS) / len(unit)))
    return torch.cat(found).numpy(), torch.cat(cosines).numpy()


def coactive(sketches: Kept, progress: Callable[[float], object]) -> tuple[np.ndarray, np.ndarray]:
    """The features that share most of each one's positions: (feature, n) which, and Jaccard's index of the two sets.

    The index, positions of both over positions of either, is estimated from sketches: below the smaller of the two
    largest numbers both sketches are complete, and there it is counted. Of features with no more positions than a
    sketch holds it is exact. Where fewer than n features share any, -1 fills the rest.
    """
    keys, filled = sketches.keys, sketches.filled
    n = len(keys)
    sizes = filled.sum(1)
    # Up to where each sketch is complete: everywhere, where it is not full.
    ends = np.where(sizes == sketches.slots, keys[:, -1], sketches.empty)
    owner = np.repeat(np.arange(n), sizes)
    order = np.argsort(keys[filled], kind="stable")
    by_position, sorted_keys = owner[order], keys[filled][order]
    begins = first_of_each(sorted_keys)
    position = np.empty(len(order), np.int64)
    position[order] = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(order)))
    crowd = np.diff(begins, append=len(order))
    kept = min(KEPT, n - 1)
    which, index = np.full((n, kept), -1, np.int32), np.zeros((n, kept), np.float32)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    for begin in range(0, n, _TOGETHER):
        end = min(begin + _TOGETHER, n)
        mine = position[offsets[begin] : offsets[end]]
        company = by_position[_ranges(begins[mine], crowd[mine])]
        line = np.repeat(owner[offsets[begin] : offsets[end]] - begin, crowd[mine])
        shared = np.bincount(line * n + company, minlength=(end - begin) * n)
        found = np.flatnonzero(shared)
        one, other = found // n + begin, found % n
        found, one, other = found[one != other], one[one != other], other[one != other]
        some = best_of_each(one, _roughly(shared[found], sizes, ends, one, other), _SHORTLIST * kept)
        one, other, both = one[some], other[some], shared[found[some]]
        jaccard = both / (_below(keys, ends, one, other) + _below(keys, ends, other, one) - both)
        best = best_of_each(one, jaccard, kept)
        rank = _rank(one[best])
        which[one[best], rank], index[one[best], rank] = other[best], jaccard[best]
        progress(end / n)
    return which, index


def _roughly(both: np.ndarray, sizes: np.ndarray, ends: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Jaccard's index as if a sketch's numbers were evenly spread."""
    end = np.minimum(ends[one], ends[other]).astype(np.float64)
    either = sizes[one] * (end / ends[one]) + sizes[other] * (end / ends[other]) - both
    return both / np.maximum(either, both)


def _below(keys: np.ndarray, ends: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many numbers of a sketch are where both are complete."""
    return (keys[one] <= np.minimum(ends[one], ends[other])[:, None]).sum(1) - _empties(keys, ends, one, other)


def _empties(keys: np.ndarray, ends: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many of those counted stand for empty slots: only where neither sketch is full."""
    empty = np.iinfo(keys.dtype).max
    open_ended = np.minimum(ends[one], ends[other]) == empty
    return np.where(open_ended, (keys[one] == empty).sum(1), 0)


def _ranges(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """begin, begin + 1, ... of each, one after another."""
    starts = np.cumsum(sizes) - sizes
    return np.arange(int(sizes.sum())) + np.repeat(begins - starts, sizes)


def _rank(groups: np.ndarray) -> np.ndarray:
    begins = first_of_each(groups)
    return np.arange(len(groups)) - np.repeat(begins, np.diff(begins, append=len(groups)))
