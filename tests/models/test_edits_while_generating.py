"""Edits in a generation: each step is what a run of the text so far gives with the same edits."""

from functools import cache

import pytest
import torch

import lenskit as lk
from tests.models.tiny import tiny

PROMPTS = [[5, 6, 7, 8], [9, 10]]
NEW = 4


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family))


def random(size: int) -> torch.Tensor:
    return 2 * torch.randn(size, generator=torch.Generator().manual_seed(3))


EDITS = [
    lk.Add("k", random(8), layers=1),
    lk.Add("v", random(8), layers=1, pos=1),
    lk.Add("v", random(8), layers=0, pos=[0, 5]),  # not there yet in the first step
    lk.Add("resid_post", random(32), layers=1),
    lk.Scale("pattern", 0.5, layers=1, heads=1),
    lk.Set("mlp_out", 0.3, layers=2, pos=slice(3, None)),
]


@pytest.mark.parametrize("edit", EDITS, ids=repr)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_each_step_equals_a_run_of_the_text_so_far(family: str, edit: lk.Edit) -> None:
    """What the cache holds of keys and values is what attention saw when they were edited."""
    mine = model(family)
    for prompts in (PROMPTS, PROMPTS[:1]):
        made = mine.generate(prompts, NEW, edits=edit)
        for row, prompt in enumerate(prompts):
            text = made.tokens[row, -len(prompt) - NEW :].tolist()
            for length in range(len(prompt), len(text)):
                there = [pos for pos in edit.pos if pos < length] if isinstance(edit.pos, list) else edit.pos
                chosen = {"layers": edit.layers, "heads": edit.heads, "pos": there}
                values = {name: value for name, value in vars(edit).items() if name in ("value", "by", "scale")}
                same = type(edit)(edit.site, **values, **chosen)
                try:
                    run = mine.run(text[:length], edits=same)
                except lk.NothingEdited:  # no such position yet
                    run = mine.run(text[:length])
                assert int(run.logits[0, -1].argmax()) == text[length]


def test_steps_choose_among_the_forwards_of_a_generation() -> None:
    mine, push = model("llama"), 50 * random(32)
    plain = mine.generate(PROMPTS, NEW, keep="resid_post")
    made = mine.generate(PROMPTS, NEW, keep="resid_post", edits=lk.Add("resid_post", push, layers=2, steps=2))
    assert torch.equal(made.tokens[:, : 4 + 2], plain.tokens[:, : 4 + 2])
    assert not torch.equal(made.tokens, plain.tokens)
    for step, (a, b) in enumerate(zip(made.steps, plain.steps, strict=True)):
        if step < 3:
            added = a["resid_post", 2] - b["resid_post", 2]
            torch.testing.assert_close(added, push.expand_as(added) * (step == 2), atol=1e-4, rtol=1e-4)


def test_steps_and_positions_that_never_come_raise() -> None:
    for edit in (lk.Zero("v", pos=50), lk.Zero("v", steps=9), lk.Zero("v", pos=1, steps=slice(1, None))):
        with pytest.raises(lk.NothingEdited, match="its positions and steps were never reached"):
            model("llama").generate(PROMPTS, 3, edits=edit)


def test_what_is_written_to_keys_and_values_in_a_trace_is_what_later_steps_see() -> None:
    mine, v = model("llama"), random(8)
    for site in ("k", "v", "z"):
        with mine.trace(PROMPTS[0], generate=NEW) as t:
            for _ in t.steps:
                t[site, 1] = t[site, 1] + v
        assert torch.equal(t.generated.tokens, mine.generate(PROMPTS[0], NEW, edits=lk.Add(site, v, layers=1)).tokens)
