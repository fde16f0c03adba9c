"""Banding: from samples of many slices of each feature's range to examples in a few equal bands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lenskit.transcoders.index.by_token import best_of_each
from lenskit.transcoders.index.examples import NOWHERE
from lenskit.transcoders.index.gathering import Gathering, positions_of, values_of
from lenskit.transcoders.index.kept import Arrays, first_of_each


def in_bands(gathering: Gathering, bands: int, per_band: int) -> Arrays:
    """Examples (feature, band, example): bands of equal width from 0 to each feature's largest activation.

    Of the samples in a band those with the smallest numbers drawn, and of one chunk no more than one. Where an edge
    cuts a slice, few of its samples may be left on one side: what is wanting is taken from the strongest examples, as
    far as they lie in the band. The strongest come first. Keys are the names in the file, without "band_".
    """
    found = _candidates(gathering)
    largest = gathering.tally.largest[found.feature]
    # In float32, as whoever draws the bands computes their edges.
    band = np.minimum((found.value / largest * np.float32(bands)).astype(np.int64), bands - 1)
    group = found.feature * bands + band
    chosen = _one_of_a_chunk(group, found.position // np.uint32(gathering.ids.shape[1]), found.drawn)
    chosen = chosen[best_of_each(group[chosen], -found.drawn[chosen], per_band)]
    chosen = chosen[np.lexsort((-found.value[chosen], group[chosen]))]
    begins = first_of_each(group[chosen])
    cells = group[chosen], np.arange(len(chosen)) - np.repeat(begins, np.diff(begins, append=len(chosen)))
    shape = (gathering.n_features * bands, per_band)
    made: Arrays = {"positions": np.full(shape, NOWHERE, np.uint32), "values": np.zeros(shape, np.float32)}
    made["positions"][cells], made["values"][cells] = found.position[chosen], found.value[chosen]
    is_sample = chosen < found.samples
    for name in ("window", "scale"):
        sampled, strongest = gathering.samples.beside[name], gathering.tops.beside[name]
        table = made[f"{name}s"] = np.zeros((*shape, *sampled.shape[2:]), sampled.dtype)
        for source, some in ((sampled, is_sample), (strongest, ~is_sample)):
            at = chosen[some]
            table[tuple(axis[some] for axis in cells)] = source[found.row[at], found.slot[at]]
    return {name: table.reshape(gathering.n_features, bands, *table.shape[1:]) for name, table in made.items()}


class _Candidates(NamedTuple):
    """All examples that are held, the samples first: where they are held, what they are, and the numbers drawn."""

    row: np.ndarray
    slot: np.ndarray
    feature: np.ndarray
    position: np.ndarray
    value: np.ndarray
    drawn: np.ndarray
    samples: int


def _candidates(gathering: Gathering) -> _Candidates:
    samples, tops = gathering.samples, gathering.tops
    at, peaks = np.nonzero(samples.filled), np.nonzero(tops.filled)
    values: np.ndarray = samples.beside["value"]
    drawn = (samples.keys[at] >> np.uint64(32)).astype(np.float64)
    parts = (
        (*at, at[0] // gathering.slices, positions_of(samples.keys[at]), values[at], drawn),
        # Behind all samples, the strongest first.
        (*peaks, peaks[0], positions_of(tops.keys[peaks]), values_of(tops.keys[peaks]), 2.0**33 + peaks[1]),
    )
    row, slot, feature, position, value, drawn = (np.concatenate(both) for both in zip(*parts, strict=True))
    return _Candidates(row, slot, feature, position, value, drawn, len(at[0]))


def _one_of_a_chunk(group: np.ndarray, chunk: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The numbers of those that were drawn first of their chunk, in each group."""
    order = np.lexsort((drawn, chunk, group))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (group[order][1:] != group[order][:-1]) | (chunk[order][1:] != chunk[order][:-1])
    return order[fresh]
