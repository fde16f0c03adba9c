"""Acting in a live table: what is written before, after and with a placebo is what `model.generate` writes."""

from functools import cache
from typing import Any

import pytest
import torch

import lenskit as lk
from lenskit.lenses.acting_live import SIDES, Act, Acted, LiveActing, as_python
from lenskit.models.steering import Ablate, Steer, Swap
from lenskit.models.steps import finish
from tests.models.test_model import hooks
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = "The keys to the cabinet"
COUNT = 4


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300, layers=4), tiny_tokenizer(300), name="tiny")


@cache
def ids() -> tuple[int, ...]:
    return tuple(model().batch(PROMPT).tokens[0].tolist())


def done(live: LiveActing, act: Act) -> Acted:
    return finish(live.act(lk.LogitLens(model()), ids(), act, COUNT))


def swapped(lens: lk.LogitLens) -> Swap:
    return Swap(lens, 101, 57, layers=[1, 2], pos=slice(2, None), strength=2.0)


def steered(lens: lk.LogitLens) -> Steer:
    return Steer(lens, 101, layers=[0, 1, 2], strength=0.4)


def ablated(lens: lk.LogitLens) -> Ablate:
    return Ablate(lens, 101, layers=[2, 3], pos=slice(3, None))


ACTS = [
    (Act("swap", 101, 57, strength=2.0, layers=(1, 2), pos=2), swapped),
    (Act("steer", 101, strength=0.4, layers=(0, 2), pos=0), steered),
    (Act("ablate", 101, layers=(2, 3), pos=3), ablated),
]


@pytest.mark.parametrize(("act", "edit_of"), ACTS, ids=[act.how for act, _ in ACTS])
def test_what_is_written_is_what_generate_writes_with_the_same_edit(act: Act, edit_of: Any) -> None:
    acted, edit = done(LiveActing(model()), act), edit_of(lk.LogitLens(model()))
    edits = {"before": [], "after": [edit], "placebo": [edit.placebo(0)]}
    for side in SIDES:
        made = model().generate(PROMPT, COUNT, edits=edits[side])
        assert acted.written[side] == made.tokens[0, len(ids()) :].tolist()
        odds = model().run(PROMPT, edits=edits[side]).logits[0, -1].softmax(-1)
        torch.testing.assert_close(acted.odds[side], odds, atol=2e-5, rtol=1e-3)
    assert acted.whole
    assert hooks(model().hf_model) == 0


def test_what_the_model_writes_by_itself_is_written_once() -> None:
    live = LiveActing(model())
    first = done(live, ACTS[0][0])
    parts = list(live.act(lk.LogitLens(model()), ids(), ACTS[2][0], COUNT))
    assert parts[0] is None or parts[0].written["before"] == first.written["before"]
    assert sum(part is not None for part in parts) == 2 * COUNT


def test_tokens_are_told_of_as_they_come() -> None:
    told = [part for part in LiveActing(model()).act(lk.LogitLens(model()), ids(), ACTS[0][0], COUNT) if part]
    lengths = [sum(map(len, part.written.values())) for part in told]
    assert lengths == sorted(lengths)
    assert len(told) == 3 * COUNT


def test_it_may_be_given_up_at_any_step_and_leaves_nothing_behind() -> None:
    live, plain = LiveActing(model()), model().run(PROMPT).logits
    for stop in range(0, 30, 7):
        steps = live.act(lk.LogitLens(model()), ids(), ACTS[0][0], COUNT)
        for _ in range(stop):
            next(steps, None)
        steps.close()
    assert hooks(model().hf_model) == 0
    assert torch.equal(model().run(PROMPT).logits, plain)


def test_layers_that_the_lens_does_not_read_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reads layers 0 to 3, and none of 7 to 9: choose other layers"):
        done(LiveActing(model()), Act("ablate", 101, layers=(7, 9)))


@pytest.mark.parametrize(("act", "edit_of"), ACTS, ids=[act.how for act, _ in ACTS])
def test_the_line_of_python_does_it_again(act: Act, edit_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    acted, code = done(LiveActing(model()), act), as_python(model(), PROMPT, (), act, COUNT)
    names = {"model": model(), "lens": lk.LogitLens(model()), "lk": _facade()}
    assert eval(code.removesuffix(".text"), names).new_tokens[0] == acted.written["after"]


def _facade() -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(Steer=Steer, Swap=Swap, Ablate=Ablate)


def test_after_what_was_written_the_line_gives_ids() -> None:
    assert as_python(model(), PROMPT, (5, 6), ACTS[2][0], 3).startswith(f"model.generate({[*ids(), 5, 6]}, 3, edits=")
