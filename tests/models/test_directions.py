"""Directions are what the head reads: their products with the final norm are the logits."""

from functools import cache

import pytest
import torch
from torch import nn

import lenskit as lk
from lenskit.models.directions import direction_between, directions
from tests.models.tiny import tiny, tiny_tokenizer


@cache
def model(family: str = "llama") -> lk.Model:
    return lk.Model(tiny(family, vocab=300), tiny_tokenizer(300), name="tiny")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_final_norm_along_a_direction_is_the_logit(family: str) -> None:
    run = model(family).run("to the store", keep="final_norm")
    ids = [model(family).text.token(" Mary"), 7]
    rows = directions(model(family), [" Mary", 7])
    torch.testing.assert_close(run["final_norm"] @ rows.T, run.logits[..., ids])
    between = direction_between(model(family), " Mary", 7)
    torch.testing.assert_close(run["final_norm"] @ between, run.logits[..., ids[0]] - run.logits[..., ids[1]])


def test_directions_are_a_copy() -> None:
    before = model().hf_model.lm_head.weight[7].clone()
    rows = directions(model(), [7])
    rows.zero_()
    assert not rows.requires_grad
    assert torch.equal(model().hf_model.lm_head.weight[7], before)


def test_what_is_no_direction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"300 is no token: the head has rows 0 to 299"):
        directions(model(), [5, 300])
    with pytest.raises(ValueError, match=r"-1 is no token"):
        directions(model(), [-1])
    with pytest.raises(ValueError, match=r"no token is given"):
        directions(model(), [])
    with pytest.raises(TypeError, match=r"takes a list, and this is ' Mary'"):
        directions(model(), " Mary")
    with pytest.raises(ValueError, match=r"' Maryam' is not one token"):
        direction_between(model(), " Maryam", " John")


class Wrapped(nn.Module):
    """A head inside an adapter, as LoRA makes it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h)


def test_a_head_that_is_not_linear_is_refused() -> None:
    hf_model = tiny("llama", vocab=300)
    hf_model.set_output_embeddings(Wrapped(hf_model.get_output_embeddings()))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"the head of tiny is a Wrapped, .* takes an nn\.Linear"):
        directions(lk.Model(hf_model, tiny_tokenizer(300), name="tiny"), [1])
