"""A live reading follows a prompt as it is edited: it computes only what changed, and equals a full read."""

import random
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lenskit as lk
from lenskit.lenses.live import LiveReading
from tests.models.test_model import hooks
from tests.models.tiny import tiny

REUSING = ["llama", "gpt2", "gpt_neox", "granite"]


@cache
def lens(family: str) -> lk.LogitLens:
    return lk.LogitLens(lk.Model(tiny(family)))


def assert_same(a: lk.Trajectory, b: lk.Trajectory) -> None:
    assert a.ids.tolist() == b.ids.tolist()
    assert a.target_ids.tolist() == b.target_ids.tolist()
    for name in ("entropy", "kl", "target_log_prob", "top_probs"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-5)
    assert (a.rank == b.rank).mean() > 0.98


@settings(max_examples=30)
@given(
    st.sampled_from([*REUSING, "gemma2", "mistral"]),
    st.lists(st.sampled_from(["append", "append", "drop", "replace", "retarget", "give up"]), min_size=1, max_size=8),
    st.integers(0, 10**6),
)
def test_after_any_edits_it_equals_a_full_read(family: str, edits: list[str], seed: int) -> None:
    """Edits anywhere, new targets, and updates that are given up half-way, in any order."""
    chance, live = random.Random(seed), LiveReading(lens(family))
    ids, target = [chance.randrange(131) for _ in range(5)], None
    live.now(ids, target)
    for edit in edits:
        if edit == "append":
            ids = [*ids, *(chance.randrange(131) for _ in range(chance.randrange(1, 3)))]
        elif edit == "drop":
            ids = ids[: max(1, len(ids) - chance.randrange(1, 3))]
        elif edit == "replace":
            at = chance.randrange(len(ids))
            ids = [*ids[:at], chance.randrange(131), *ids[at + 1 :]]
        elif edit == "retarget":
            target = chance.choice([None, chance.randrange(131)])
        else:
            steps = live.update([*ids, 1, 2], target)
            for _ in range(chance.randrange(6)):
                next(steps, None)
            steps.close()
            continue
        assert_same(live.now(ids, target).trajectory, lens(family).read(ids, target=target))
    assert hooks(lens(family).model.hf_model) == 0


@pytest.mark.parametrize("family", REUSING)
def test_one_more_token_runs_one_position(family: str) -> None:
    live = LiveReading(lens(family))
    assert live.now([1, 2, 3, 4]).ran == 4
    update = live.now([1, 2, 3, 4, 5])
    assert (update.ran, update.start) == (1, 4)


@pytest.mark.parametrize("family", REUSING)
def test_an_edit_in_the_middle_runs_from_there_on_and_the_columns_before_are_the_same(family: str) -> None:
    live = LiveReading(lens(family))
    before = live.now([1, 2, 3, 4, 5]).trajectory
    update = live.now([1, 2, 9, 4, 5])
    assert (update.ran, update.start) == (3, 2)
    np.testing.assert_array_equal(update.trajectory.entropy[:, :2], before.entropy[:, :2])


def test_deleting_at_the_end_runs_nothing() -> None:
    live = LiveReading(lens("llama"))
    live.now([1, 2, 3, 4])
    assert live.now([1, 2]).ran == 0
    assert live.now([1, 2, 3, 4]).ran == 2


def test_another_target_reads_again_but_runs_nothing() -> None:
    live = LiveReading(lens("llama"))
    live.now([1, 2, 3])
    update = live.now([1, 2, 3], 7)
    assert (update.ran, update.start) == (0, 0)
    assert update.trajectory.target_ids.tolist() == [7, 7, 7]


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
def test_a_sliding_window_is_reused_only_where_the_cache_holds_every_position(family: str) -> None:
    """Either way the values are right (above); here: what a windowed cache has thrown away is never reused."""
    live = LiveReading(lens(family))
    live.now([1, 2, 3, 4])
    assert live.now([1, 2, 3, 4, 5]).ran == (1 if live.prefix.reusable else 5)
    assert not LiveReading(lens("gemma2")).prefix.reusable


def test_a_model_that_looks_ahead_is_read_whole_each_time() -> None:
    """An encoder under a language model's head: a later token changes every column."""
    bert = lk.LogitLens(lk.Model(tiny("bert")))
    assert not bert.model.anatomy.causal
    live = LiveReading(bert)
    live.now([1, 2, 3])
    update = live.now([1, 2, 3, 4])
    assert update.start == 0
    assert_same(update.trajectory, bert.read([1, 2, 3, 4]))
    prefix = live.prefix
    assert not prefix.reusable
    for ids in ([1, 2, 3], [1, 2, 3, 4]):
        run = prefix.run(ids, keep="resid_post", known=0)
        assert torch.equal(run["resid_post"], bert.model.run(ids, keep="resid_post")["resid_post"])
    assert not bert.model.check()["a later token changes nothing before it"].passed


def test_edits_that_stay_are_in_every_reading_and_gone_from_the_next() -> None:
    """What was computed before an edit came or went must not be taken for what is so now."""
    live = LiveReading(lens("llama"))
    model, before = live.lens.model, live.now([1, 2, 3, 4]).trajectory
    with model.edit(lk.Zero("attn_out", layers=0, pos=-1)):
        for ids in ([1, 2, 3, 4], [1, 2, 3, 4, 5]):
            update = live.now(ids)
            assert (update.start, update.ran) == (0, len(ids))
            assert_same(update.trajectory, lens("llama").read(ids))
        assert not np.array_equal(live.now([1, 2, 3, 4]).trajectory.entropy, before.entropy)
    assert_same(live.now([1, 2, 3, 4]).trajectory, before)


@pytest.mark.parametrize("family", ["mamba", "openai-gpt"])
def test_a_model_without_keys_and_values_is_run_whole_and_its_columns_are_kept(family: str) -> None:
    without = lk.LogitLens(lk.Model(tiny(family)))
    live = LiveReading(without)
    live.now([1, 2, 3])
    update = live.now([1, 2, 3, 4])
    assert (update.ran, update.start) == (4, 3)
    assert_same(update.trajectory, without.read([1, 2, 3, 4]))


def test_it_yields_before_each_block_and_its_share_grows_to_one() -> None:
    live = LiveReading(lens("llama"))
    shares = list(live.update([1, 2, 3]))
    assert len(shares) > lens("llama").model.n_layers
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_a_failing_model_leaves_the_last_reading_good() -> None:
    failing = lk.LogitLens(lk.Model(tiny("llama")))
    live = LiveReading(failing)
    good = live.now([1, 2, 3]).trajectory

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    handle = failing.model.anatomy.blocks[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        live.now([1, 2, 4])
    handle.remove()
    assert_same(live.now([1, 2, 3]).trajectory, good)
    assert_same(live.now([1, 2, 4]).trajectory, failing.read([1, 2, 4]))


def test_a_user_s_run_between_two_steps_changes_nothing() -> None:
    live, model = LiveReading(lens("gpt2")), lens("gpt2").model
    steps, plain = live.update([1, 2, 3, 4]), model.run([9, 8, 7]).logits
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            assert_same(stop.value.trajectory, lens("gpt2").read([1, 2, 3, 4]))
            break
        assert torch.equal(model.run([9, 8, 7]).logits, plain)
