"""What is kept of a stream does not depend on how it is divided, stays as small as promised, and is a fair sample."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenskit.transcoders.index.banding import in_bands
from lenskit.transcoders.index.by_token import ByToken, Entries
from lenskit.transcoders.index.examples import NOWHERE
from lenskit.transcoders.index.gathering import SKETCH, Gathering, hashed, positions_of, values_of
from lenskit.transcoders.index.kept import Column, Kept
from lenskit.transcoders.index.neighbours import coactive
from lenskit.transcoders.index.pairs import Pairs

FEATURES, LENGTH = 7, 16
Stream = tuple[np.ndarray, np.ndarray, np.ndarray]  # features, positions, values


def stream(chunks: int, seed: int, density: float = 0.3, grows: bool = True) -> Stream:
    """Random activations whose size grows on the way, so that ranges are doubled again and again."""
    random = np.random.default_rng(seed)
    active = random.random((chunks * LENGTH, FEATURES)) < density
    positions, features = np.nonzero(active)
    size = 0.01 * 2.0 ** (8 * positions / active.shape[0]) if grows else 1.0
    values = (random.exponential(1.0, len(positions)) * size + 1e-4).astype(np.float32)
    return features, positions.astype(np.uint32), values


def gathered(given: Stream, chunks: int, parts: list[int], **sizes: int) -> Gathering:
    """A gathering that was told of the stream in so many parts, each of whole chunks."""
    ids = (np.arange(chunks * LENGTH, dtype=np.uint32) % 13).reshape(chunks, LENGTH)
    made = Gathering(FEATURES, ids, **{"top": 4, "per_band": 2, "bins": 8, **sizes})
    features, positions, values = given
    chunk = positions // LENGTH
    edges = sorted({0, chunks, *parts})
    for begin, end in pairwise(edges):
        some = (chunk >= begin) & (chunk < end)
        made.add(features[some], positions[some], values[some], np.ones(int(some.sum()), bool))
    made.by_token.settle()
    made.ended()
    return made


@settings(max_examples=15)
@given(seed=st.integers(0, 100), parts=st.lists(st.integers(0, 40), max_size=6))
def test_any_division_of_a_stream_leaves_the_same(seed: int, parts: list[int]) -> None:
    whole, divided = (gathered(stream(40, seed), 40, some) for some in ([], parts))
    one, other = whole.state(), divided.state()
    assert one.keys() == other.keys()
    for name in one:
        if name in ("tally.sums", "by_token.entries.sums"):  # in the last bits, a sum depends on the order
            assert np.allclose(one[name], other[name], rtol=1e-12)
        elif name.startswith(("tops", "samples")) and name.rsplit(".", 1)[1] != "keys":
            held = one[f"{name.rsplit('.', 1)[0]}.keys"] != np.iinfo(np.uint64).max
            assert np.array_equal(one[name][held], other[name][held]), name
        else:
            assert np.array_equal(one[name], other[name]), name


@settings(max_examples=15)
@given(seed=st.integers(0, 100))
def test_samples_are_those_with_the_smallest_numbers_of_each_slice_of_the_final_range(seed: int) -> None:
    features, positions, values = given = stream(40, seed)
    made = gathered(given, 40, [3, 11, 20, 33])
    for f in range(FEATURES):
        mine, where = values[features == f], positions[features == f]
        range_ = 2.0 ** np.frexp(mine.max())[1]
        for slice_ in range(4):
            inside = (mine >= slice_ * range_ / 4) & (mine < (slice_ + 1) * range_ / 4)
            expected = where[inside][np.argsort(hashed(where[inside]))][:2].tolist()
            row = f * 4 + slice_
            held = made.samples.filled[row]
            assert positions_of(made.samples.keys[row][held]).tolist() == expected
            at = [int(np.flatnonzero(where == position)[0]) for position in expected]
            assert made.samples.beside["value"][row][held].tolist() == mine[at].tolist()
        top = made.tops.keys[f][made.tops.filled[f]]
        peaks = {int(c): mine[where // LENGTH == c].max() for c in set(where // LENGTH)}
        assert values_of(top).tolist() == sorted(peaks.values(), reverse=True)[:4]
        counts = np.histogram(mine, np.arange(9) * range_ / 8)[0]
        assert made.tally.histogram[f].tolist() == counts.tolist()


def test_each_position_of_a_slice_is_as_likely_as_any_other() -> None:
    random, chunks = np.random.default_rng(0), 2000
    positions = np.arange(chunks * LENGTH, dtype=np.uint32)
    values = (random.random(len(positions)) * 0.98 + 0.01).astype(np.float32)
    made = gathered((np.zeros(len(positions), int), positions, values), chunks, [500, 1500], per_band=200, bins=16)
    found = positions_of(made.samples.keys[:8])[made.samples.filled[:8]]
    assert len(found) == 8 * 200
    share = np.histogram(found, 10, (0, len(positions)))[0] / len(found)
    # The standard deviation of a tenth of 1,600 is 0.0075.
    assert np.abs(share - 0.1).max() < 0.03
    assert len(np.unique(hashed(positions))) == len(positions)


@settings(max_examples=15)
@given(seed=st.integers(0, 100))
def test_examples_of_a_band_lie_in_it_and_no_chunk_has_two(seed: int) -> None:
    features, positions, values = given = stream(60, seed, grows=False)
    made = gathered(given, 60, [20])
    bands = in_bands(made, 3, 2)
    for f in range(FEATURES):
        mine, where = values[features == f], positions[features == f]
        for band in range(3):
            there = bands["positions"][f, band] != NOWHERE
            found, value = bands["positions"][f, band][there], bands["values"][f, band][there]
            assert len(set(found // LENGTH)) == len(found)
            for position, v in zip(found, value, strict=True):
                assert v == mine[where == position][0]
                assert band * mine.max() / 3 * (1 - 1e-6) <= v <= (band + 1) * mine.max() / 3 * (1 + 1e-6)


@settings(max_examples=15)
@given(seed=st.integers(0, 100))
def test_windows_are_what_is_near_in_the_same_chunk(seed: int) -> None:
    features, positions, values = stream(12, seed)
    pairs = Pairs.of(features, positions, values, values > 0, LENGTH, FEATURES)
    dense = np.zeros((FEATURES, 12, 24 + LENGTH + 8), np.float32)
    dense[features, positions // LENGTH, 24 + positions % LENGTH] = values
    steps, scale = pairs.windows(np.arange(len(pairs)))
    for at in range(0, len(pairs), 7):
        chunk, pos = divmod(int(pairs.positions[at]), LENGTH)
        expected = dense[pairs.features[at], chunk, pos : pos + 33]
        assert scale[at] == expected.max()
        assert np.allclose(steps[at] * (scale[at] / 255), expected, atol=scale[at] / 254)
        assert ((steps[at] > 0) == (expected > 0)).all()


@settings(max_examples=15)
@given(
    offers=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 31)), unique_by=lambda each: each[1]),
    cut=st.integers(0, 30),
)
def test_a_table_keeps_the_smallest_keys_of_each_row_and_what_belongs_to_them(
    offers: list[tuple[int, int]], cut: int
) -> None:
    table = Kept(4, 3, np.uint32, {"double": Column((2,), np.int64)})
    for some in (offers[:cut], offers[cut:]):
        rows, keys = np.array([r for r, _ in some], int), np.array([k for _, k in some], np.uint32)
        table.offer(rows, keys, lambda chosen, keys=keys: {"double": np.stack([keys[chosen].astype(int) * 2] * 2, 1)})
    table.in_order()
    for row in range(4):
        expected = sorted(key for r, key in offers if r == row)[:3]
        held = table.filled[row]
        assert table.keys[row][held].tolist() == expected
        assert table.beside["double"][row][held].tolist() == [[key * 2] * 2 for key in expected]


def test_memory_does_not_grow_with_the_corpus() -> None:
    sizes = []
    for chunks in (100, 1000):
        made = gathered(stream(chunks, 0), chunks, list(range(0, chunks, 50)))
        held = made.state()
        sizes.append(sum(a.nbytes for name, a in held.items() if not name.startswith("by_token")))
    assert sizes[0] == sizes[1]
    usual = Gathering(100, np.zeros((1, LENGTH), np.uint32), top=16, per_band=4, bins=32)
    held = sum(a.nbytes for name, a in usual.state().items() if not name.startswith("by_token"))
    assert held / 100 == 24 + 4 * 32 + 45 * 16 + 49 * 64 + 4 * SKETCH


def test_a_table_by_token_that_overflows_keeps_the_strongest_of_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    import lenskit.transcoders.index.by_token as by_token

    monkeypatch.setattr(by_token, "_MOST", 400)
    monkeypatch.setattr(by_token, "_WAITING", 50)
    monkeypatch.setattr(by_token, "_PER_TOKEN", 20)
    random, table = np.random.default_rng(0), ByToken()
    total = np.zeros((10, 60))
    scale = random.permutation(60) + 1.0
    for _ in range(30):
        features = np.sort(random.integers(0, 60, 200))
        tokens = random.integers(0, 10, 200)
        values = (scale[features] * (0.5 + random.random(200))).astype(np.float32)
        table.add(Pairs(features, np.arange(200, dtype=np.uint32), values, values > 0, 1000), tokens)
        np.add.at(total, (tokens, features), values)
        assert len(table.entries.keys) <= 400
    entries: Entries = table.settle()
    assert table.forgotten > 0
    for token in range(10):
        mine = entries.at(np.flatnonzero(entries.tokens == token))
        strongest = set(np.argsort(-total[token])[:5].tolist())
        assert strongest <= set(mine.features.tolist())
        assert (mine.sums <= total[token, mine.features] * (1 + 1e-6)).all()  # what was forgotten is lacking
        assert mine.sums.sum() > 0.5 * total[token].sum()


@settings(max_examples=15)
@given(seed=st.integers(0, 50))
def test_the_overlap_of_sets_that_fit_their_sketches_is_exact(seed: int) -> None:
    features, positions, _ = given = stream(20, seed, density=0.2)
    which, index = coactive(gathered(given, 20, [7]).sketches, lambda share: None)
    sets = [set(positions[features == f].tolist()) for f in range(FEATURES)]
    for f in range(FEATURES):
        for g, value in zip(which[f], index[f], strict=True):
            if g >= 0:
                assert value == pytest.approx(len(sets[f] & sets[g]) / len(sets[f] | sets[g]))
        expected = sorted(len(sets[f] & sets[g]) / len(sets[f] | sets[g]) for g in range(FEATURES) if g != f)
        assert index[f].tolist() == pytest.approx(expected[::-1])


def test_what_is_no_number_is_refused() -> None:
    made = Gathering(2, np.zeros((1, LENGTH), np.uint32), top=2, per_band=2, bins=8)
    with pytest.raises(FloatingPointError, match="infinite"):
        made.add(np.array([0]), np.array([1], np.uint32), np.array([np.inf], np.float32), np.ones(1, bool))
    made.add(np.zeros(0, int), np.zeros(0, np.uint32), np.zeros(0, np.float32), np.zeros(0, bool))
    assert made.tally.counts.sum() == 0
