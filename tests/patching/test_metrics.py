"""Metrics: small frozen values that read a number off a prediction, with the texts and ids people give."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lenskit.models.edits import Add
from lenskit.models.model import Model
from lenskit.patching.engines.ends import Ends
from lenskit.patching.metrics import Metric, as_metric, kl, log_prob, logit_diff, prob, rank, scores_of
from tests.models.by_hand import FAMILIES
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = [5, 17, 80, 3, 44]
ALL = [logit_diff(7, 9), logit_diff([7, 4], [9, 2], pos=1), prob(11), log_prob(11, pos=-2), kl(pos=2)]


def test_metrics_are_written_as_they_are_made_and_equal_by_value() -> None:
    assert repr(logit_diff(" Mary", " John")) == "logit_diff(' Mary', ' John')"
    assert repr(logit_diff([" Mary", 4], [" John", 5], pos=3)) == "logit_diff([' Mary', 4], [' John', 5], pos=3)"
    assert [repr(m) for m in (prob(" a"), log_prob(3, pos=0), rank(" a"), kl())] == [
        "prob(' a')",
        "log_prob(3, pos=0)",
        "rank(' a')",
        "kl()",
    ]
    assert logit_diff(7, 9) == logit_diff([7], [9]) != logit_diff(9, 7)
    assert prob(7) != log_prob(7)
    assert len({prob(7), prob(7), rank(7)}) == 2
    with pytest.raises(AttributeError):
        prob(7).token = 8  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_tokens_rows_of_the_head_are_multiplied_and_give_the_models_own_logits(family: str) -> None:
    model = Model(tiny(family))
    run = model.run(PROMPT, keep=("resid_post", -1))
    ends = Ends(run["resid_post", -1][:, [1, 4]])
    torch.testing.assert_close(scores_of(model, ends), run.logits[:, [1, 4]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores_of(model, ends, [9, 3]), run.logits[:, [1, 4]][..., [9, 3]], rtol=1e-5, atol=1e-5)
    calls: list[Any] = []
    hook = model.anatomy.tail.head.register_forward_hook(lambda *_: calls.append(1))
    scores_of(model, ends, [9, 3])
    assert calls  # a person's own hook on the head must see it, so then the whole of it is computed
    hook.remove()
    scores_of(model, ends, [9, 3])
    assert len(calls) == 1


@pytest.mark.parametrize("metric", ALL, ids=repr)
def test_the_differentiable_form_is_the_same_number_and_its_gradient_predicts_a_small_step(metric: Metric) -> None:
    model = Model(tiny("llama").double())
    clean = model.run([5, 90, 80, 3, 44])
    at = metric.read(5)
    bound = metric.bound(model, torch.tensor([PROMPT]), Ends(None, clean.logits[:, at]))
    run = model.run(PROMPT, keep=("resid_post", 1), grads=bound.differentiable)
    value = bound.of(model, Ends(None, run.logits[:, at]))
    assert value.shape == (1,)
    step = 1e-3 * torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def moved(by: Tensor) -> Tensor:
        return bound.of(model, Ends(None, model.run(PROMPT, edits=Add("resid_post", by, layers=1)).logits[:, at]))

    slope = (moved(step) - moved(-step)) / 2
    predicted = (run.grad["resid_post", 1] * step).sum()
    assert float(slope) == pytest.approx(float(predicted), rel=2e-2, abs=2e-6)


def test_ranks_have_no_gradient() -> None:
    model = Model(tiny("llama"))
    with pytest.raises(TypeError, match="move in steps"):
        model.run(PROMPT, keep="resid_post", grads=rank(7).differentiable)


def test_many_cells_are_read_in_blocks_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(tiny("llama"))
    ends = Ends(torch.randn(7, 1, 32))
    whole = prob(11).of(model, ends)
    monkeypatch.setattr("lenskit.patching.metrics._BLOCK", 2 * 131)
    torch.testing.assert_close(prob(11).of(model, ends), whole)


def test_a_function_must_give_one_number() -> None:
    model = Model(tiny("llama"))
    ends = Ends(None, torch.randn(2, 5, 131))
    tokens = torch.tensor([PROMPT])

    def norm(run: Any) -> float:
        return float(run.logits.norm())

    bound = as_metric(norm).bound(model, tokens, ends)
    torch.testing.assert_close(bound.of(model, ends), ends.values.flatten(1).norm(dim=1))
    with pytest.raises(TypeError, match=r"must give one number, and gave a tensor of shape \(1, 131\)"):
        as_metric(lambda run: run.logits[:, -1]).bound(model, tokens, ends).of(model, ends)
    with pytest.raises(TypeError, match=r"is no metric. Metrics are logit_diff"):
        as_metric("logit_diff")  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_read_is_refused() -> None:
    model = Model(tiny("llama", vocab=300), tiny_tokenizer())
    tokens, ends = torch.tensor([PROMPT]), Ends(None, torch.randn(1, 1, 300))
    with pytest.raises(ValueError, match="' France Paris' is not one token but"):
        prob(" France Paris").bound(model, tokens, ends)
    with pytest.raises(ValueError, match=r"there is no token 300: the vocabulary has ids 0 to 299"):
        prob(300).bound(model, tokens, ends)
    with pytest.raises(IndexError, match="reads position 5, and the prompt has 5 tokens"):
        prob(3, pos=5).bound(model, tokens, ends)
    with pytest.raises(ValueError, match="pairs its tokens: 2 on one side, 1 on the other"):
        logit_diff([1, 2], 3)
    with pytest.raises(TypeError, match="a token is a text or an id"):
        prob(True)
    with pytest.raises(ValueError, match="bind it first"):
        kl().of(model, ends)
