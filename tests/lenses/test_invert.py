"""Inversion finds the state whose prediction is given."""

from functools import cache

import pytest
import torch

import lenskit as lk
from lenskit.lenses.invert import invert
from tests.lenses.affine import AffineLens
from tests.models.tiny import tiny

IDS = torch.randint(1, 131, (2, 3), generator=torch.Generator().manual_seed(0))


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family))


def naive_kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    x, y = a.double().log_softmax(-1), b.double().log_softmax(-1)
    return (x.exp() * (x - y)).sum(-1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "granite"])
def test_a_prediction_of_the_model_is_found_again(family: str) -> None:
    run = model(family).run(IDS)
    found = invert(model(family), run.logits)
    assert found.preimage.shape == (2, 3, 32)
    assert found.kl.shape == found.grad_norm.shape == found.evaluations.shape == (2, 3)
    assert found.kl.max() < 1e-4
    assert found.grad_norm.max() < 1e-2
    with torch.no_grad():
        torch.testing.assert_close(
            found.kl.double(), naive_kl(run.logits, model(family).unembed(found.preimage)), atol=1e-5, rtol=1e-3
        )
    assert all(parameter.grad is None for parameter in model(family).hf_model.parameters())


def test_through_a_lens_the_state_is_the_one_that_it_reads() -> None:
    lens = AffineLens(model("llama"))
    run = model("llama").run(IDS, keep="resid_pre")
    h = run["resid_pre", 1]
    with torch.no_grad():
        target = model("llama").unembed(lens.transport(h, ("resid_pre", 1)))
    found = invert(lens, target, layer=1)
    assert found.kl.max() < 1e-4
    with torch.no_grad():
        again = model("llama").unembed(lens.transport(found.preimage, ("resid_pre", 1)))
    assert naive_kl(target, again).max() < 1e-4
    near = invert(lens, target, layer=1, start=h)
    torch.testing.assert_close(near.preimage, h, atol=1e-3, rtol=1e-3)
    assert near.evaluations.max() <= 4


def test_gradient_descent_finds_it_too() -> None:
    logits = model("llama").run(IDS[:1, :1]).logits
    start = invert(model("llama"), logits, steps=0, optimizer="sgd").kl
    found = invert(model("llama"), logits, optimizer="sgd", lr=3.0, steps=800)
    assert found.kl.max() < 1e-3 < start.min()


def test_a_prior_holds_the_state_near_and_makes_it_definite() -> None:
    run = model("llama").run(IDS[:1], keep="resid_post")
    h = run["resid_post", 2]
    stuck = invert(model("llama"), run.logits, prior=h + 1.0, prior_weight=1e6)
    torch.testing.assert_close(stuck.preimage, h + 1.0, atol=1e-2, rtol=1e-2)
    small = invert(model("llama"), run.logits, prior_weight=1e-3)
    free = invert(model("llama"), run.logits, start=3 * h)
    assert (small.preimage.norm(dim=-1) < free.preimage.norm(dim=-1)).all()
    assert (small.loss > small.kl).all()
    # Every length of h says the same: near 2h, it is 2h.
    for start in (None, h):
        near = invert(model("llama"), run.logits, prior=2 * h, prior_weight=1e-3, start=start)
        torch.testing.assert_close(near.preimage, 2 * h, atol=0.02, rtol=0.02)


def test_weights_say_which_tokens_count() -> None:
    logits = torch.randn(131, generator=torch.Generator().manual_seed(1)) * 4
    weights = torch.zeros(131)
    weights[:5] = 1.0
    found = invert(model("llama"), logits, weights=weights, prior_weight=1e-3)
    with torch.no_grad():
        said = model("llama").unembed(found.preimage)
    x, y = logits.double().log_softmax(-1), said.double().log_softmax(-1)
    torch.testing.assert_close(found.kl.double(), (weights * x.exp() * (x - y)).sum(), atol=1e-5, rtol=1e-4)
    whole = invert(model("llama"), logits, weights=torch.ones(131)).kl
    torch.testing.assert_close(whole, invert(model("llama"), logits).kl)


def test_what_cannot_be_inverted_is_refused() -> None:
    logits = torch.zeros(2, 131)
    with pytest.raises(TypeError, match="say which row of the lens's reading"):
        invert(lk.LogitLens(model("llama")), logits)
    with pytest.raises(TypeError, match="a model's own prediction has no layers"):
        invert(model("llama"), logits, layer=1)
    with pytest.raises(ValueError, match=r"start has shape \(3, 32\), and these targets need \(2, 32\)"):
        invert(model("llama"), logits, start=torch.zeros(3, 32))
    with pytest.raises(ValueError, match="optimizer must be 'lbfgs' or 'sgd'"):
        invert(model("llama"), logits, optimizer="adam")  # pyright: ignore[reportArgumentType]
    with pytest.raises(FloatingPointError, match="the loss of the inversion is not finite"):
        invert(model("llama"), logits, start=torch.full((2, 32), torch.nan))
