"""An index says of each feature what a loop over all activations says: of a dictionary, and of plain neurons."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lenskit.models.model import Model
from lenskit.models.show import show
from lenskit.transcoders.activations import JumpReLU, TopK
from lenskit.transcoders.index.bases import Neurons
from lenskit.transcoders.index.feature_index import FeatureIndex
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny, tiny_tokenizer
from tests.transcoders.made_up import numbers
from tests.transcoders.naive_index import Naive

D, VOCAB, LENGTH = 32, 300, 17


def model(seed: int = 0, architecture: str = "llama") -> Model:
    return Model(tiny(architecture, seed, layers=3, vocab=VOCAB), tiny_tokenizer(VOCAB), name=f"tiny {seed}")


def corpus(chunks: int, seed: int = 0, distinct: int = 40) -> torch.Tensor:
    return torch.randint(1, distinct, (chunks, LENGTH), generator=torch.Generator().manual_seed(seed))


def dictionary(seed: int = 0, features: int = 48, k: int = 6) -> Transcoder:
    return Transcoder(
        numbers(features, D, seed=seed) / D**0.5,
        numbers(features, seed=seed + 1) / 4,
        numbers(features, D, seed=seed + 2),
        numbers(D, seed=seed + 3),
        TopK(k),
        reads=("mlp_in", 1),
        writes=("mlp_out", 1),
    )


NEURONS = ("mlp_post", 1)
BASES = pytest.mark.parametrize("basis", [dictionary(), NEURONS], ids=["dictionary", "neurons"])


def built(folder: Path, basis: object, ids: torch.Tensor, m: Model | None = None, **sizes: int) -> FeatureIndex:
    return FeatureIndex.build(m or model(), basis, ids, folder, on_progress=lambda progress: None, **sizes)  # pyright: ignore[reportArgumentType]


@BASES
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), skip=st.integers(0, 3))
def test_density_maximum_mean_histogram_and_top_examples_are_those_of_a_loop(
    basis: Transcoder | tuple[str, int], seed: int, skip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    m, ids = model(seed), corpus(30, seed)
    index, naive = built(tmp_path_factory.mktemp("index"), basis, ids, m, skip=skip), Naive.of(m, basis, ids, skip)
    assert index.tokens == naive.tokens
    for f in range(index.n_features):
        values = naive.values(f)
        assert index.density[f] == pytest.approx(len(values) / naive.tokens)
        assert index.max[f] == pytest.approx(values.max(initial=0), rel=1e-5)
        assert index.mean[f] == pytest.approx(values.mean() if len(values) else 0, rel=1e-5)
        edges, counts = index.histogram(f)
        assert counts.sum() == len(values)
        # Values are the model's own in batches of another shape: at an edge they may fall to either side.
        assert np.abs(counts - np.histogram(values, edges)[0]).sum() <= 2
        found = [(example.value, example.chunk, example.pos) for example in index.examples(f)]
        expected = naive.top(f, 16)
        assert [value for value, *_ in found] == pytest.approx([value for value, *_ in expected], rel=1e-5)
        assert [place for _, *place in found] == [place for _, *place in expected]


@BASES
def test_an_example_shows_the_activations_of_all_tokens_around_it(
    basis: Transcoder | tuple[str, int], tmp_path: Path
) -> None:
    m, ids = model(), corpus(30)
    index, naive = built(tmp_path, basis, ids, m), Naive.of(m, basis, ids)
    for f in range(0, index.n_features, 5):
        wide = [index.examples(f, band, window=None) for band in (None, *range(5))]
        for example in (example for some in wide for example in some):
            begin = example.pos - example.at
            row = slice(begin, begin + len(example.ids))
            assert example.ids == tuple(ids[example.chunk, row].tolist())
            expected = naive.active[f, example.chunk, row]
            assert np.allclose(example.activations, expected, atol=expected.max() / 254)
            assert ((example.activations > 0) == (expected > 0)).all()
            assert example.activations[example.at] == pytest.approx(example.value)
            assert example.tokens == tuple(show(piece) for piece in m.text.pieces(example.ids))
    narrow = index.examples(3, n=1, window=(2, 1))[0]
    assert len(narrow.ids) <= 4
    assert narrow.tokens[narrow.at] in str(narrow).split("«")[1]


@BASES
def test_bands_are_equal_and_their_examples_lie_in_them_each_in_a_chunk_of_its_own(
    basis: Transcoder | tuple[str, int], tmp_path: Path
) -> None:
    m, ids = model(), corpus(60)
    index, naive = built(tmp_path, basis, ids, m, bands=4, per_band=3), Naive.of(m, basis, ids)
    for f in range(index.n_features):
        values, bands = naive.values(f), index.bands(f)
        assert [band.low for band in bands] == pytest.approx([index.max[f] * i / 4 for i in range(4)])
        assert sum(band.share for band in bands) == pytest.approx(float(len(values) > 0))
        for number, band in enumerate(bands):
            assert [example.value for example in band.examples] == sorted(
                (e.value for e in band.examples), reverse=True
            )
            for example in band.examples:
                assert band.low - 1e-5 <= example.value <= band.high + 1e-5
                assert example.value == pytest.approx(naive.active[f, example.chunk, example.pos], rel=1e-4)
            chunks = [example.chunk for example in band.examples]
            assert len(set(chunks)) == len(chunks) <= 3
            inside = (naive.active[f] > band.low + 1e-4) & (naive.active[f] < band.high - 1e-4)
            if inside.any(1).sum() >= 12:
                assert len(chunks) == 3
            assert [e.pos for e in index.examples(f, number)] == [e.pos for e in band.examples]


@BASES
def test_what_fires_on_a_word_is_counted_over_all_of_its_occurrences(
    basis: Transcoder | tuple[str, int], tmp_path: Path
) -> None:
    m, ids = model(), corpus(30)
    index, naive = built(tmp_path, basis, ids, m), Naive.of(m, basis, ids)
    for token in (3, 17, 30):
        expected = {f: naive.on_token(f, token) for f in range(index.n_features)}
        order = sorted((f for f in expected if expected[f][1]), key=lambda f: -expected[f][0])
        found = index.features_of_token(token, 32)
        assert [each.feature for each in found] == order[:32]
        for each in found:
            mean, times, there = expected[each.feature]
            assert each.mean == pytest.approx(mean, rel=1e-4)
            assert (each.times, each.share) == (times, pytest.approx(times / there))
    for f in range(0, index.n_features, 7):
        tokens = {token: naive.on_token(f, token) for token in range(1, 40)}
        best = sorted(
            (t for t in tokens if tokens[t][1]), key=lambda t: -tokens[t][0] * tokens[t][2] / (tokens[t][2] + 2)
        )
        found = index.tokens_of_feature(f, 5)
        assert [i for _, i, _ in found] == best[:5]
        assert [value for *_, value in found] == pytest.approx([tokens[i][0] for i in best[:5]], rel=1e-4)
    text = m.text.pieces([17])[0]
    assert isinstance(text, str)
    assert index.features_of_token(text) == index.features_of_token(17)
    assert index.features_of_token(299) == []
    with pytest.raises(ValueError, match="not one token"):
        index.features_of_token("no such token")


def test_neighbours_are_those_that_write_the_same_and_those_active_at_the_same_tokens(tmp_path: Path) -> None:
    m, ids, tc = model(), corpus(30), dictionary()
    index, naive = built(tmp_path, tc, ids, m), Naive.of(m, tc, ids)
    unit = tc.W_dec[0].double() / tc.W_dec[0].double().norm(dim=1, keepdim=True)
    cosines = unit @ unit.T - 2 * torch.eye(48)
    for f in range(48):
        found = index.similar(f)
        assert [value for _, value in found] == pytest.approx(
            cosines[f].sort(descending=True).values[:8].tolist(), abs=1e-5
        )
        assert found[0][0] == int(cosines[f].argmax())
        exact = sorted((naive.jaccard(f, g) for g in range(48) if g != f), reverse=True)
        together = index.coactive(f)
        if (naive.active[f] > 0).sum() and all((naive.active[g] > 0).sum() <= 128 for g in range(48)):
            assert [value for _, value in together] == pytest.approx([value for value in exact[:8] if value])
        assert all(value == pytest.approx(naive.jaccard(f, g), abs=0.2) for g, value in together)


def test_neurons_are_compared_by_where_they_are_among_the_strongest_of_their_layer(tmp_path: Path) -> None:
    m, ids = model(), corpus(100)
    index, naive = built(tmp_path, NEURONS, ids, m), Naive.of(m, NEURONS, ids)
    least = np.sort(naive.active, axis=0)[-32]
    strong = Naive(naive.ids, np.where(naive.active >= least, naive.active, 0), 1)
    missed = [value - strong.jaccard(f, g) for f in range(index.n_features) for g, value in index.coactive(f, 16)]
    # One estimate from 128 positions errs by 0.04; and of many, the largest are taken.
    assert abs(float(np.mean(missed))) < 0.06
    assert float(np.std(missed)) < 0.06


def test_what_fires_in_a_text_now_is_what_the_dictionary_encodes(tmp_path: Path) -> None:
    m, tc = model(), dictionary()
    index = built(tmp_path, tc, corpus(10), m)
    text = "The capital of France is Paris."
    firing = index.firing(m, text)
    x = m.run(text, keep=tc.reads)[tc.reads][0]
    dense = tc.encode(x).dense()
    dense[0] = 0
    assert len(firing.tokens) == len(x)
    for f in range(48):
        assert np.allclose(firing.of(f), dense[:, f], atol=1e-5)
    for pos in range(len(x)):
        expected = sorted(((f, v) for f, v in enumerate(dense[pos].tolist()) if v > 0), key=lambda each: -each[1])
        assert firing.at(pos) == [(f, pytest.approx(v, rel=1e-4)) for f, v in expected]
    best, value, pos = firing.strongest(1)[0]
    assert value == pytest.approx(float(dense.max())) == float(firing.of(best)[pos])
    assert len({f for f, *_ in firing.strongest(100)}) == len(firing.strongest(100))
    with pytest.raises(ValueError, match="not what this index is of"):
        index.firing(m, text, basis=Neurons.at(NEURONS))


def test_features_are_found_by_order_and_by_text(tmp_path: Path) -> None:
    m, ids, tc = model(), corpus(20), dictionary(features=200, k=2)
    index = built(tmp_path, tc, ids, m)
    order = index.sorted_by("max")
    assert sorted(order.tolist()) == list(range(200))
    alive = order[index.density[order] > 0]
    assert (np.diff(index.max[alive]) <= 0).all()
    assert order[: len(alive)].tolist() == alive.tolist()
    assert 0 < len(alive) < 200
    assert index.sorted_by("number", descending=False)[0] == alive.min()
    with pytest.raises(ValueError, match="sorted by"):
        index.sorted_by("colour")  # pyright: ignore[reportArgumentType]
    pieces = m.text.pieces(range(VOCAB))
    has = {i for i, piece in enumerate(pieces) if isinstance(piece, str) and "th" in piece.casefold()}
    expected = [
        f for f in range(200) if has & set(index.promoted[f].tolist()) or has & {e.ids[e.at] for e in index.examples(f)}
    ]
    assert index.find("TH").tolist() == expected
    promoting = [f for f in range(200) if has & set(index.promoted[f].tolist())]
    assert index.find("th", by="promotes").tolist() == promoting
    assert set(index.find("th", by="fires")) | set(promoting) == set(expected)
    assert len(index.to_pandas()) == 200
    card = index.card(int(order[0]))
    assert str(card) == repr(card)
    assert card.promotes == index.promotes(card.number)
    assert "promotes" in str(card)
    with pytest.raises(IndexError, match="features 0 to 199"):
        index.card(200)


def test_the_negative_side_of_neurons_is_an_index_of_its_own(tmp_path: Path) -> None:
    m, ids = model(), corpus(20)
    low = built(tmp_path / "low", Neurons.at(NEURONS, negative=True), ids, m)
    post = m.run(ids, keep=NEURONS)[NEURONS][:, 1:]
    assert np.allclose(low.max, (-post).amax((0, 1)).clamp_min(0), rtol=1e-4)
    high = built(tmp_path / "high", NEURONS, ids, m)
    assert low.suppresses(4, 3) == [(token, i, pytest.approx(-value)) for token, i, value in high.promotes(4, 3)]
    assert low.basis(m) == Neurons.at(NEURONS, negative=True)


def test_negative_activations_of_a_dictionary_count_as_none(tmp_path: Path) -> None:
    m, ids, tc = model(), corpus(20), dictionary()
    tc = Transcoder(
        tc.W_enc, tc.b_enc, tc.W_dec, tc.b_dec, JumpReLU(torch.full((48,), -0.5)), reads=tc.reads, writes=tc.writes
    )
    index, naive = built(tmp_path, tc, ids, m), Naive.of(m, tc, ids)
    assert np.allclose(index.density, [(naive.active[f] > 0).sum() / naive.tokens for f in range(48)])
