"""The loss and its gradient in closed form are what plain autograd gives, in float64, on every kind of head."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lenskit as lk
from lenskit.lenses.training.loss import AnyHead, PlainHead, blocks_of_rows, head_of
from tests.models.tiny import tiny

VOCAB = 131
# A bare matrix; one with a bias; a scale of the logits; a soft-cap; LayerNorm; a post-norm and multipliers.
ARCHITECTURES = ["llama", "phi", "granite", "gemma2", "gpt2", "cohere", "gptj"]


@cache
def model(architecture: str) -> lk.Model:
    return lk.Model(tiny(architecture).double().requires_grad_(False))


def by_autograd(of: lk.Model, carried: Tensor, final: Tensor | None, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss of each row and its gradient, from logits and log-softmaxes as anyone would write them."""
    h = carried.clone().requires_grad_()
    log_q = of.unembed(h).log_softmax(-1)
    if final is not None:
        log_p = of.unembed(final).log_softmax(-1)
        losses = (log_p.exp() * (log_p - log_q)).sum(-1)
    else:
        assert ids is not None
        losses = nn.functional.nll_loss(log_q, ids, reduction="none")
    [gradient] = torch.autograd.grad(losses.sum(), h)
    return losses.detach(), gradient


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("loss", ["kl", "ce"])
@settings(max_examples=10)
@given(rows=st.integers(1, 9), scale=st.sampled_from([0.1, 1.0, 30.0]), seed=st.integers(0, 99))
def test_it_is_what_autograd_gives(architecture: str, loss: str, rows: int, scale: float, seed: int) -> None:
    of, rng = model(architecture), torch.Generator().manual_seed(seed)
    carried, final = (scale * torch.randn(rows, 32, generator=rng, dtype=torch.float64) for _ in range(2))
    ids = torch.randint(VOCAB, (rows,), generator=rng)
    head = head_of(of.anatomy.tail)
    with torch.no_grad():
        towards = head.to_prediction(final) if loss == "kl" else head.to_tokens(ids)
        losses, gradient = towards(carried)
    expected = by_autograd(of, carried, final if loss == "kl" else None, ids)
    torch.testing.assert_close(losses, expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "gemma2"])
def test_a_plain_head_and_any_head_agree(architecture: str) -> None:
    tail = model(architecture).anatomy.tail
    plain, anyhow = head_of(tail), AnyHead(tail)
    assert isinstance(plain, PlainHead)
    carried, final = torch.randn(5, 32).double(), torch.randn(5, 32).double()
    with torch.no_grad():
        for a, b in zip(plain.to_prediction(final)(carried), anyhow.to_prediction(final)(carried), strict=True):
            torch.testing.assert_close(a, b)


def test_a_soft_cap_is_not_taken_for_a_plain_head() -> None:
    assert isinstance(head_of(model("gemma2").anatomy.tail), AnyHead)


@pytest.mark.parametrize("precision", ["half", "bfloat16"])
def test_in_half_precision_it_is_near(precision: str) -> None:
    half, exact = lk.Model(getattr(tiny("llama"), precision)()), model("llama")
    carried, final = torch.randn(6, 32), torch.randn(6, 32)
    with torch.no_grad():
        losses, gradient = head_of(half.anatomy.tail).to_prediction(final)(carried)
    expected = by_autograd(exact, carried.double(), final.double(), None)
    torch.testing.assert_close(losses.double(), expected[0], rtol=0.1, atol=0.05)
    assert torch.cosine_similarity(gradient.double().flatten(), expected[1].flatten(), 0) > 0.999
    assert losses.dtype == torch.float32


def test_a_target_stays_good_while_the_buffer_is_used_again() -> None:
    head = head_of(model("llama").anatomy.tail)
    carried, final = torch.randn(4, 32).double(), torch.randn(4, 32).double()
    with torch.no_grad():
        towards = head.to_prediction(final)
        first = towards(carried)
        towards(torch.randn(4, 32).double())
        again = towards(carried)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@given(st.integers(1, 5000), st.sampled_from([100, 49_152, 262_144, 10_000_000]))
def test_blocks_cover_every_row_once_within_the_buffer(rows: int, vocab: int) -> None:
    blocks = blocks_of_rows(rows, vocab)
    assert [row for block in blocks for row in range(rows)[block]] == list(range(rows))
    longest = max(block.stop - block.start for block in blocks)
    assert longest * vocab <= 12 << 20 or longest <= 16
