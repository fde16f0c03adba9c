"""Attention patterns against plain Hugging Face with eager attention, and against naive loops."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lenskit as lk
from lenskit.models.patterns import Attention, LivePatterns, attention
from lenskit.models.steps import finish
from tests.models.architectures import build
from tests.models.test_model import hooks
from tests.models.tiny import tiny

IDS = [5, 9, 17, 9, 23, 41, 5, 9]


def eager(hf: Any, ids: list[int]) -> list[torch.Tensor]:
    """(head, query, key) of every layer, as Hugging Face itself gives them."""
    before = hf.config._attn_implementation
    hf.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return [a[0] for a in hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions]
    finally:
        hf.set_attn_implementation(before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_patterns_are_those_that_hugging_face_gives_with_eager_attention(family: str) -> None:
    hf = tiny(family)
    seen = attention(lk.Model(hf), [IDS])
    for row, wanted in enumerate(eager(hf, IDS)):
        np.testing.assert_allclose(seen.pattern[row], wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_value_weighted_is_the_size_of_what_each_head_moves_from_each_token(family: str) -> None:
    """A loop over heads, queries and keys, each contribution alpha v W_O written out; grouped queries in the llamas."""
    model = lk.Model(tiny(family))
    seen = attention(model, [IDS])
    run = model.run([IDS], keep=["pattern", "v"])
    for layer in range(model.n_layers):
        w_o, v = model.weights.W_O[layer], run["v", layer][0]
        group = len(w_o) // v.shape[1]
        for head in range(len(w_o)):
            wanted = torch.zeros(len(IDS), len(IDS))
            for query, key in itertools.product(range(len(IDS)), range(len(IDS))):
                alpha = run["pattern", layer][0, head, query, key]
                wanted[query, key] = (alpha * v[key, head // group] @ w_o[head]).norm()
            wanted /= wanted.sum(-1, keepdim=True)
            np.testing.assert_allclose(seen.weights(layer, head, "value-weighted"), wanted.numpy(), atol=1e-5)


def made_up(pattern: np.ndarray, norms: np.ndarray | None = None) -> Attention:
    layers, heads, length, _ = pattern.shape
    ids = np.arange(length, dtype=np.int32)
    pieces = {i: f" t{i}" for i in range(length)}
    provenance = {"model": "made up"}
    return Attention(ids, tuple(range(layers)), (heads,) * layers, pattern, norms, None, pieces, provenance)


def causal(length: int, seed: int = 0, heads: int = 2) -> np.ndarray:
    scores = torch.randn(1, heads, length, length, generator=torch.Generator().manual_seed(seed)) * 2
    return scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1).numpy()


def test_without_the_first_token_the_rest_of_each_row_is_a_whole_and_next_to_nothing_stays_nothing() -> None:
    pattern = causal(4)
    pattern[0, 0, 3] = [0.995, 0.001, 0.002, 0.002]
    hidden = made_up(pattern).weights(0, 0, hide_first=True)
    assert (hidden[:, 0] == 0).all()
    assert (hidden[0] == 0).all()  # the first query has nothing else to look at
    assert (hidden[3] == 0).all()  # half a percent is left
    for query in (1, 2):
        np.testing.assert_allclose(
            hidden[query, 1:], pattern[0, 0, query, 1:] / pattern[0, 0, query, 1:].sum(), rtol=1e-6
        )


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_a_tile_is_the_largest_of_what_it_covers(length: int, side: int, hide: bool) -> None:
    seen = made_up(causal(length, seed=length))
    tiles = seen.thumbnails(hide_first=hide, side=side)[0]
    side = min(side, length)
    edges = [length * i // side for i in range(side + 1)]
    for head in range(2):
        weights = seen.weights(0, head, hide_first=hide)
        for row, column in itertools.product(range(side), range(side)):
            part = weights[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
            assert tiles[head, row, column] == np.rint(part.max() * 255)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(3, 60), min_size=1, max_size=9), min_size=1, max_size=5), st.booleans())
def test_a_live_prompt_equals_a_fresh_one_however_it_was_typed(prompts: list[list[int]], values: bool) -> None:
    live = LivePatterns(MODEL)
    for ids in prompts:
        got, fresh = finish(live.update([ids], values=values)), attention(MODEL, [ids])
        np.testing.assert_allclose(got.pattern, fresh.pattern, atol=1e-5)
        np.testing.assert_array_equal(got.ids, ids)
        if values:
            assert got.value_norm is not None
            assert fresh.value_norm is not None
            np.testing.assert_allclose(got.value_norm, fresh.value_norm, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(live.logits, MODEL.run([ids]).logits[0, -1], rtol=1e-4, atol=1e-4)


MODEL = lk.Model(tiny("llama"))


def test_only_what_comes_after_the_change_runs_again() -> None:
    live = LivePatterns(MODEL)
    ran = []
    for ids in (IDS[:5], IDS, IDS, [*IDS[:6], 50, 51], IDS[:3]):
        finish(live.update([ids]))
        ran.append(live.ran)
    assert ran == [5, 3, 0, 2, 1]


def test_edits_that_stay_are_seen_and_forgotten_with_them() -> None:
    live = LivePatterns(MODEL)
    before = finish(live.update([IDS]))
    with MODEL.edit(lk.Zero("z", layers=0)):
        edited = finish(live.update([IDS]))
        np.testing.assert_allclose(edited.pattern, MODEL.run([IDS], keep="pattern")["pattern"][:, 0], atol=1e-6)
    assert np.abs(edited.pattern[1:] - before.pattern[1:]).max() > 1e-4
    np.testing.assert_allclose(finish(live.update([IDS])).pattern, before.pattern, atol=1e-6)


def test_an_update_that_is_given_up_leaves_what_was_held_and_no_hook() -> None:
    live = LivePatterns(MODEL)
    held = finish(live.update([IDS]))
    steps = live.update([[7, 8, 9]])
    next(steps)
    next(steps)
    steps.close()
    assert hooks(MODEL.hf_model) == 0
    assert finish(live.update([IDS])) is held
    assert live.ran == 0


def test_scores_are_of_the_prompt_where_it_repeats_and_else_of_random_tokens() -> None:
    live = LivePatterns(MODEL)
    finish(live.update([IDS]))
    run = MODEL.run([IDS], keep="pattern")
    for kind in ("previous", "induction", "duplicate"):
        scored = finish(live.scores(kind))
        np.testing.assert_allclose(scored.values, lk.head_scores(run, kind).numpy(), atol=1e-5)
        assert not scored.random
    assert finish(live.scores("duplicate")).positions == 3
    finish(live.update([[5, 6, 7]]))
    scored = finish(live.scores("induction"))
    assert scored.random
    assert scored.positions >= 25
    wanted = lk.head_scores(MODEL.run(lk.repeated_tokens(MODEL, 25), keep="pattern"), "induction")
    np.testing.assert_allclose(scored.values, wanted.numpy(), atol=1e-5)
    assert not finish(live.scores("previous")).random


def test_a_prompt_whose_patterns_would_fill_the_memory_is_refused_before_anything_runs() -> None:
    hf = tiny("gpt2")
    model = lk.Model(hf)
    model.anatomy.context  # noqa: B018 -- looked up, so that nothing runs below
    live = LivePatterns(model)
    with pytest.raises(
        ValueError, match=r"take [\d,]+ MiB, and at most 512 are held: shorten the prompt to [\d,]+ tok"
    ):
        live._check_size(30, 10_000)


def test_a_model_without_patterns_says_why_and_of_a_hybrid_one_there_are_those_of_its_attention_layers() -> None:
    with pytest.raises(lk.SiteUnavailable, match="'pattern' does not exist in Mamba"):
        attention(lk.Model(build("mamba")), [[5, 6, 7]])
    hybrid = attention(lk.Model(build("lfm2")), [IDS])
    assert hybrid.layers == (1,)
    np.testing.assert_allclose(
        hybrid.weights(1, 2), lk.Model(build("lfm2")).run([IDS], keep=("pattern", 1))["pattern", 1, 2][0]
    )
    with pytest.raises(IndexError, match="there are patterns in layers 1 to 1"):
        hybrid.weights(0, 0)


def test_where_the_output_projection_cannot_be_told_value_weights_are_refused_with_the_reason() -> None:
    seen = attention(lk.Model(build("granitemoehybrid")), [IDS])
    assert seen.value_norm is None
    with pytest.raises(ValueError, match="W_O does not exist in layer 1"):
        seen.weights(1, 0, "value-weighted")


def test_what_is_not_there_is_refused_by_name() -> None:
    seen = attention(MODEL, [IDS])
    with pytest.raises(IndexError, match=r"head 0\.99 does not exist: there are patterns in layers 0 to"):
        seen.weights(0, 99)
    with pytest.raises(ValueError, match="'pattern' or 'value-weighted', not 'size'"):
        seen.weights(0, 0, "size")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="one prompt, not 2"):
        finish(LivePatterns(MODEL).update([[1, 2], [3, 4]]))
    with pytest.raises(ValueError, match="values=True"):
        finish(LivePatterns(MODEL).update([IDS])).weights(0, 0, "value-weighted")
    assert not seen.pattern.flags.writeable
    assert repr(seen).startswith("Attention(")
    assert repr(seen) == repr(attention(MODEL, [IDS]))


def test_the_previous_token_head_of_the_demo_model_is_there(demo: lk.Model) -> None:
    seen = attention(demo, "When Mary and John went to the store, John gave a drink to")
    weights = seen.weights(16, 0)
    assert seen.tokens[9] == "·John"
    assert weights[9].argmax() == 8
    assert np.diagonal(weights, -1).mean() > 0.75
