"""Only words are shown, and every number stays what it is."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lenskit as lk
from lenskit.lenses.live import LiveReading
from lenskit.lenses.shown import Shown
from lenskit.lenses.word_like import is_word, word_like
from lenskit.models.steps import finish
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = "The capital of France is"


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


@pytest.mark.parametrize(
    "piece", [" oven", "Paris", " don't", " well-known", " naïve", " été", "猫", "は", " मैं", " Ωμέγα"]
)
def test_a_word_is_a_word(piece: str) -> None:
    assert is_word(piece)


@pytest.mark.parametrize(
    "piece", ["ikipedia", " '", "”)", " 29", "\n", " a", "", " ", "  the", "_init", " -ed", "don'", b"\xe7\x8c", " x2"]
)
def test_what_is_none_is_none(piece: str | bytes) -> None:
    assert not is_word(piece)


def test_a_continuation_is_a_word_where_words_have_no_space_before_them() -> None:
    assert is_word("ikipedia", spaced=False)
    assert not is_word("ikipedia", spaced=True)


def test_a_model_without_a_tokenizer_has_no_words() -> None:
    with pytest.raises(TypeError, match="this model has no tokenizer"):
        lk.LogitLens(lk.Model(tiny("llama"))).read([1, 2, 3], words=True)


def test_words_are_those_that_are_likeliest_among_words_and_keep_the_probability_they_have_among_all() -> None:
    lens, mask = lk.LogitLens(model()), word_like(model())
    read, run = lens.read(PROMPT, words=True, top_k=5), model().run(PROMPT, keep="resid_post")
    for layer in range(model().n_layers - 1):
        with torch.no_grad():
            log_p = model().unembed(run["resid_post", layer][0]).double().log_softmax(-1)
        best, ids = log_p.masked_fill(~mask, -torch.inf).topk(5)
        np.testing.assert_array_equal(read.top_ids[layer], ids)
        np.testing.assert_allclose(read.top_probs[layer], best.exp(), atol=1e-6)


def test_nothing_else_changes() -> None:
    lens = lk.LogitLens(model())
    words, every = (lens.read(PROMPT, target="t", versus="e", words=on) for on in (True, False))
    for name in ("entropy", "kl", "rank", "target_log_prob", "versus_log_prob", "loss"):
        np.testing.assert_array_equal(getattr(words, name), getattr(every, name))
    assert words.provenance["words"] is True
    assert "words" not in every.provenance


def test_the_model_s_own_first_token_stays_in_front_of_the_last_row_whatever_it_is() -> None:
    lens, mask = lk.LogitLens(model()), word_like(model()).numpy()
    words, every = (lens.read(PROMPT, words=on) for on in (True, False))
    np.testing.assert_array_equal(words.top_ids[-1, :, 0], every.top_ids[-1, :, 0])
    np.testing.assert_allclose(words.top_probs[-1, :, 0], every.top_probs[-1, :, 0], atol=1e-6)
    assert mask[words.top_ids[-1, :, 1:]].all()
    assert mask[words.top_ids[:-1]].all()


def test_more_words_than_there_are_are_refused() -> None:
    there = int(word_like(model()).sum())
    with pytest.raises(ValueError, match=f"between 1 and the vocabulary's {there} words, not {there + 1}"):
        lk.LogitLens(model()).read(PROMPT, words=True, top_k=there + 1)


def test_a_live_reading_is_told_anew_when_words_are_asked_for() -> None:
    lens, live = lk.LogitLens(model()), LiveReading(lk.LogitLens(model()))
    assert live.now(PROMPT).ran > 0
    update = finish(live.update(PROMPT, words=True))
    assert (update.ran, update.start) == (0, 0)
    np.testing.assert_array_equal(update.trajectory.top_ids, lens.read(PROMPT, words=True).top_ids)


@settings(max_examples=50)
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6), st.lists(st.integers(1, 30), min_size=1, max_size=6)
)
def test_blocks_of_any_size_give_what_one_pass_over_all_gives(rows: int, k: int, seed: int, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, sum(sizes), generator=generator) * 5
    mask = torch.rand(sum(sizes), generator=generator) < 0.5
    if int(mask.sum()) < k:
        mask[:] = True
        k = min(k, sum(sizes))
    shown, start = Shown(rows, k, mask), 0
    for size in sizes:
        shown.add(scores[:, start : start + size].clone(), start)
        start += size
    p = torch.softmax(scores.double() * np.log(2), -1)
    most = p.topk(k)
    results = shown.in_place_of({"top_ids": most.indices.int(), "top_probs": most.values.float()})
    wanted = p.masked_fill(~mask, 0).topk(k)
    np.testing.assert_array_equal(results["top_ids"], wanted.indices)
    np.testing.assert_allclose(results["top_probs"], wanted.values, rtol=1e-4)
