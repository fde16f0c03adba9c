"""Two prompts line up token by token, or they are refused where they first differ, or a map says how."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenskit.models.model import Model
from lenskit.patching.align import PromptsDiffer, alignment, proposed
from lenskit.patching.metrics import logit_diff, prob
from lenskit.patching.sweeps import sweep
from tests.models.tiny import tiny, tiny_tokenizer

rows = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny("llama", vocab=300), tiny_tokenizer())


def test_prompts_of_different_length_are_refused_with_the_first_difference_shown(model: Model) -> None:
    with pytest.raises(PromptsDiffer) as refused:
        sweep(model, "the keys to the table", "the key to the table", metric=prob(7))
    message = str(refused.value)
    base, source = model.text.ids("the key to the table"), model.text.ids("the keys to the table")
    assert f"the patched one has {len(base)} tokens, the source {len(source)}" in message
    at = next(i for i, (a, b) in enumerate(zip(base, source, strict=False)) if a != b)
    assert f"differ at position {at}:" in message
    shown = model.text.str_tokens(base)
    assert f"{at}:{shown[at]}" in message.splitlines()[1]
    assert f"{at}:{model.text.str_tokens(source)[at]}" in message.splitlines()[2]
    assert "align=" in message


def test_one_prompt_may_begin_the_other(model: Model) -> None:
    with pytest.raises(PromptsDiffer, match="where one of them ends, at position 2:"):
        alignment([1, 2], [1, 2, 3], None, model.text)


@given(rows, rows)
def test_a_proposal_pairs_every_position_at_most_once_in_order_and_equal_tokens_first(
    base: list[int], source: list[int]
) -> None:
    pairs = proposed(base, source)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(pairs))
    assert all(0 <= b < len(base) and 0 <= s < len(source) for b, s in pairs)
    assert proposed(base, base) == tuple((i, i) for i in range(len(base)))


def test_a_longer_name_is_left_out_and_all_else_is_paired() -> None:
    assert proposed([1, 2, 9, 4, 5], [1, 2, 7, 8, 4, 5]) == ((0, 0), (1, 1), (3, 4), (4, 5))
    assert proposed([1, 2, 3], [1, 9, 3]) == ((0, 0), (1, 1), (2, 2))


def test_a_map_that_names_what_does_not_exist_is_refused(model: Model) -> None:
    with pytest.raises(IndexError, match="position 9 of the patched prompt, which has 3 tokens"):
        alignment([1, 2, 3], [1, 2], {9: 0}, model.text)
    with pytest.raises(IndexError, match="position -4 of the source prompt, which has 2 tokens"):
        alignment([1, 2, 3], [1, 2], {0: -4}, model.text)
    with pytest.raises(ValueError, match="position 1 of the patched prompt twice"):
        alignment([1, 2, 3], [1, 2], [(1, 0), (1, 1)], model.text)
    with pytest.raises(ValueError, match="align is empty"):
        alignment([1, 2, 3], [1, 2], {}, model.text)
    assert alignment([1, 2, 3], [1, 2], {-1: -1, 0: 0}, model.text).pairs == ((0, 0), (2, 1))


def test_patterns_need_prompts_of_one_length(model: Model) -> None:
    with pytest.raises(ValueError, match="keys as well as queries"):
        sweep(model, [1, 2, 3], [1, 2], "pattern", prob(7), align={0: 0, 1: 1})


def test_where_the_metric_reads_the_two_prompts_belongs_together_too(model: Model) -> None:
    metric = logit_diff(7, 9, pos=1)
    made = sweep(model, [1, 8, 2, 3], [1, 4, 3], metric=metric, align={0: 0, 1: 2, 2: 3})
    seven, nine = model.run([1, 8, 2, 3]).logits[0, 2, [7, 9]].tolist()
    assert made.clean == pytest.approx(seven - nine, abs=1e-5)
    with pytest.raises(ValueError, match="reads position 1, which has no partner"):
        sweep(model, [1, 8, 2, 3], [1, 4, 3], metric=metric, align={0: 0, 2: 3})
