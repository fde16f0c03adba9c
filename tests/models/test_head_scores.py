"""Head scores against loops so naive that they are obviously right, and against what is known of the demo model."""

import pytest
import torch

import lenskit as lk
from lenskit.models.head_scores import Kind
from tests.models.tiny import tiny

MODEL = lk.Model(tiny("llama"))


def naive(run: lk.Run, kind: str) -> torch.Tensor:
    pattern, tokens = run["pattern"], run.tokens.tolist()
    real = torch.ones_like(run.tokens) if run.mask is None else run.mask
    scores = torch.zeros(pattern.shape[0], pattern.shape[2])
    for layer in range(pattern.shape[0]):
        for head in range(pattern.shape[2]):
            found = []
            for row, ids in enumerate(tokens):
                for query in range(len(ids)):
                    keys = [
                        key
                        for key in range(query)
                        if real[row, key]
                        and real[row, query]
                        and (
                            (kind == "previous" and key == query - 1)
                            or (kind == "duplicate" and ids[key] == ids[query])
                            or (kind == "induction" and key > 0 and real[row, key - 1] and ids[key - 1] == ids[query])
                        )
                    ]
                    if keys:
                        found.append(sum(float(pattern[layer, row, head, query, key]) for key in keys))
            scores[layer, head] = sum(found) / len(found)
    return scores


@pytest.mark.parametrize("kind", ["previous", "duplicate", "induction"])
def test_scores_equal_a_naive_loop(kind: Kind) -> None:
    prompts = torch.cat([lk.repeated_tokens(MODEL, 6, rows=2), torch.tensor([[1, 2, 1, 1, 2, 1, 7, 8, 7, 8, 8, 8]])])
    run = MODEL.run(prompts, keep="pattern")
    torch.testing.assert_close(lk.head_scores(run, kind), naive(run, kind))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["previous", "duplicate", "induction"])
def test_padding_takes_no_part(kind: Kind, side: str) -> None:
    rows = [[3, 4, 5, 3, 4, 5], [9, 8, 9, 8]]
    run = MODEL.run(rows, keep="pattern", padding_side=side)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(lk.head_scores(run, kind), naive(run, kind))


def test_a_prompt_without_repeats_and_an_unknown_kind_are_refused() -> None:
    run = MODEL.run([[1, 2, 3]], keep="pattern")
    with pytest.raises(ValueError, match="no token comes twice"):
        lk.head_scores(run, "induction")
    with pytest.raises(ValueError, match="'previous', 'duplicate' or 'induction'"):
        lk.head_scores(run, "next")  # pyright: ignore[reportArgumentType]


def test_the_figure_has_a_cell_for_each_head_and_a_middle_where_there_are_signs() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.2, 0.3, 0.4]])
    figure = lk.heads_figure(scores, "induction").to_dict()["data"][0]
    assert torch.tensor(figure["z"]).T.tolist() == scores.tolist()
    assert figure["zmin"] == 0
    assert lk.heads_figure(scores - 0.5).to_dict()["data"][0]["zmid"] == 0
    with pytest.raises(ValueError, match=r"\(layer, head\); this has shape \(6,\)"):
        lk.heads_figure(scores.flatten())


def test_repeated_tokens_repeat_hold_nothing_special_and_fit(demo: lk.Model) -> None:
    ids = lk.repeated_tokens(demo, 30, rows=3, seed=1)
    assert ids.shape == (3, 60)
    assert torch.equal(ids[:, :30], ids[:, 30:])
    assert demo.tokenizer is not None
    assert not set(ids.flatten().tolist()) & set(demo.tokenizer.all_special_ids)
    with pytest.raises(ValueError, match="more than the 8,192"):
        lk.repeated_tokens(demo, 5000)


def test_the_known_heads_of_the_demo_model_are_found(demo: lk.Model) -> None:
    """The heads that others found before: 18.6 repeats what followed, 16.0 and 11.1 look one back."""
    run = demo.run(lk.repeated_tokens(demo, 25, rows=2), keep="pattern")
    induction, previous = lk.head_scores(run, "induction"), lk.head_scores(run, "previous")
    assert divmod(int(induction.argmax()), 9) == (18, 6)
    assert induction[18, 6] > 0.8
    assert previous[16, 0] > 0.8
    assert previous[11, 1] > 0.7
