"""A tuned lens carries resid_pre of each layer, is fitted in closed form, and reads with one row more."""

import os
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.data import Chunks
from lenskit.lenses.closed_form import RIDGE, gathered, seen_weight
from lenskit.lenses.live import LiveReading
from lenskit.lenses.translators import Translators
from lenskit.lenses.tuned import TunedLens
from lenskit.models.identity import ModelMismatch
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = "The capital of France is Paris."
ALL = bool(os.environ.get("LENSKIT_ALL_ARCHITECTURES"))


@cache
def model(architecture: str = "llama") -> lk.Model:
    return lk.Model(tiny(architecture, vocab=300), tiny_tokenizer(300), name="tiny")


def random_lens(of: lk.Model) -> TunedLens:
    rng = torch.Generator().manual_seed(3)
    weight, bias = (0.1 * torch.randn(*shape, generator=rng) for shape in ((3, 32, 32), (3, 32)))
    return TunedLens(of, Translators(weight, bias))


def hidden(of: lk.Model, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """Every block's input and the last block's output, by plain hooks in the plain Hugging Face model."""
    seen: list[Tensor] = []
    blocks = of.anatomy.blocks
    hooks = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for block in blocks]
    hooks.append(
        blocks[-1].register_forward_hook(lambda _, __, out: seen.append(out if isinstance(out, Tensor) else out[0]))
    )
    with torch.no_grad():
        of.hf_model(ids)
    for hook in hooks:
        hook.remove()
    return seen[:-1], seen[-1]


# What it reads


def test_translator_i_reads_the_input_of_block_i() -> None:
    lens, ids = random_lens(model()), torch.tensor([model().text.ids(PROMPT)])
    inputs, _ = hidden(model(), ids)
    read = lens.read(ids)
    weight, bias = lens.translators.whole().weight, lens.translators.whole().bias
    assert bias is not None
    for layer, h in enumerate(inputs):
        probs = model().unembed(h + h @ weight[layer].T + bias[layer]).softmax(-1)[0]
        np.testing.assert_allclose(read.top_probs[layer], probs.topk(10).values.detach(), atol=1e-5)
    assert read.shape == (4, ids.shape[1])


def test_the_last_row_is_the_model_s_own_prediction() -> None:
    read = random_lens(model()).read(PROMPT)
    logits = model().run(PROMPT).logits[0]
    np.testing.assert_allclose(read.top_probs[-1], logits.softmax(-1).topk(10).values, atol=1e-6)
    assert (read.kl[-1] == 0).all()
    assert (read.kl[:-1] > 0).all()


def test_resid_post_of_a_layer_is_resid_pre_of_the_next() -> None:
    lens, h = random_lens(model()), torch.randn(2, 5, 32)
    torch.testing.assert_close(lens.transport(h, "resid_post.0"), lens.transport(h, "resid_pre.1"))
    assert lens.transport(h, ("resid_post", 2)) is h
    assert not torch.equal(lens.transport(h, "resid_pre.2"), h)


def test_without_translators_it_is_the_logit_lens() -> None:
    lens, h = TunedLens(model()), torch.randn(2, 32)
    assert torch.equal(lens.transport(h, "resid_pre.1"), h)
    logit, tuned = lk.LogitLens(model()).read(PROMPT), lens.read(PROMPT)
    np.testing.assert_allclose(tuned.entropy[1:], logit.entropy, atol=1e-5)


def test_what_it_cannot_read_is_refused() -> None:
    lens, h = random_lens(model()), torch.randn(2, 32)
    with pytest.raises(ValueError, match=r"a tuned lens reads resid_pre, .* such as resid_pre.5, not 'z.1'"):
        lens.transport(h, "z.1")
    with pytest.raises(ValueError, match=r"such as resid_pre\.5, not 'resid_pre'"):
        lens.transport(h, "resid_pre")
    with pytest.raises(IndexError, match=r"resid_pre\.3 does not exist: there are layers 0 to 2"):
        lens.transport(h, "resid_pre.3")
    with pytest.raises(ModelMismatch, match="of 2 layers with d_model 32, and tiny has 3 layers"):
        TunedLens(model(), Translators.identity(2, 32))


def test_a_live_reading_follows_as_a_full_read_does() -> None:
    lens = random_lens(model())
    live = LiveReading(lens)
    ids = model().text.ids(PROMPT)
    for end in (3, 5, len(ids), 4):
        moved = live.now(ids[:end]).trajectory
        whole = lens.read(ids[:end])
        np.testing.assert_allclose(moved.kl, whole.kl, atol=1e-5)
        np.testing.assert_array_equal(moved.top_ids, whole.top_ids)


def test_low_rank_factors_carry_as_their_product_does() -> None:
    lens, h = random_lens(model()), torch.randn(4, 32)
    small = lens.low_rank(7)
    assert repr(small) == "TunedLens(tiny, 3 layers, rank 7)"
    weight, bias = small.translators.whole().weight, small.translators.whole().bias
    assert bias is not None
    torch.testing.assert_close(small.transport(h, "resid_pre.1"), h + h @ weight[1].T + bias[1])


@pytest.mark.parametrize("rank", [None, 7])
def test_a_state_by_itself_is_carried_as_it_is_among_others(rank: int | None) -> None:
    lens, h = random_lens(model()), torch.randn(2, 3, 32)
    lens = lens if rank is None else lens.low_rank(rank)
    torch.testing.assert_close(lens.transport(h[1, 2], "resid_pre.1"), lens.transport(h, "resid_pre.1")[1, 2])


# Closed form


def ridge_by_hand(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """(d + 1, d) ridge regression in float64, as one least squares of stacked rows."""
    x, y, weight = x.double(), y.double(), weight.double()
    x = torch.cat([x, torch.ones(len(x), 1)], 1) * weight
    penalty = RIDGE * x.square().sum(0).mean() * torch.eye(x.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0
    stacked = torch.cat([x, penalty.sqrt()])
    return torch.linalg.lstsq(stacked, torch.cat([y * weight, torch.zeros_like(penalty[:, :-1])])).solution


@pytest.mark.parametrize(
    "architecture",
    ["llama", "gpt2", *(["gpt_neox", "gemma2", "granite", "phi", "falcon", "gptj"] if ALL else [])],
)
def test_the_closed_form_is_the_ridge_regression_of_what_the_final_norm_sees(architecture: str) -> None:
    of = lk.Model(tiny(architecture, vocab=300).double())
    ids = torch.randint(300, (40, 12), generator=torch.Generator().manual_seed(1))
    lens = TunedLens.fit(of, ids, tokens=None)
    inputs, final = hidden(of, ids)
    y = final[:, 1:].flatten(0, 1)
    centred = y - y.mean(-1, keepdim=True) if architecture in ("gpt2", "gpt_neox", "phi", "falcon", "gptj") else y
    weight = 1 / centred.square().mean(-1, keepdim=True).sqrt()
    whole = lens.translators.whole()
    assert whole.bias is not None
    for layer, h in enumerate(inputs):
        x = h[:, 1:].flatten(0, 1)
        expected = ridge_by_hand(x, y - x, weight)
        torch.testing.assert_close(whole.weight[layer].T, expected[:-1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(whole.bias[layer], expected[-1], rtol=1e-5, atol=1e-6)


def test_it_lowers_the_divergence_at_every_layer() -> None:
    of = model()
    rng = torch.Generator().manual_seed(2)
    lens = TunedLens.fit(of, torch.randint(300, (200, 16), generator=rng), tokens=None)
    ids = torch.randint(300, (1, 60), generator=rng)
    tuned, logit = lens.read(ids), TunedLens(of).read(ids)
    assert (tuned.kl[:-1, 1:].mean(-1) < logit.kl[:-1, 1:].mean(-1)).all()


def test_its_bias_alone_is_the_weighted_mean() -> None:
    of = model()
    ids = torch.randint(300, (10, 12))
    bias = gathered(of, ids, [1]).solve(bias_only=True).bias
    inputs, final = hidden(of, ids)
    y, x = final[:, 1:].flatten(0, 1), inputs[1][:, 1:].flatten(0, 1)
    weight = 1 / y.square().mean(-1, keepdim=True)
    assert bias is not None
    torch.testing.assert_close(bias[0], ((y - x) * weight).sum(0) / weight.sum(), rtol=1e-3, atol=1e-4)


def test_rows_weigh_as_the_norm_divides_them() -> None:
    final = torch.randn(50, 32) * torch.rand(50, 1) * 10 + 3
    rms = torch.nn.RMSNorm(32)
    torch.testing.assert_close(seen_weight([rms], final), final.square().mean(-1, keepdim=True).rsqrt())
    layer_norm = torch.nn.LayerNorm(32)
    torch.testing.assert_close(seen_weight([layer_norm], final), 1 / final.std(-1, unbiased=False, keepdim=True))
    assert (seen_weight([], final) == 1).all()


def test_the_pass_tells_how_far_it_is_and_leaves_nothing_behind() -> None:
    shares: list[float] = []
    TunedLens.fit(model(), torch.randint(300, (300, 12)), tokens=None, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) > 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model().hf_model.modules())


def test_texts_ids_and_chunks_are_the_same_to_it() -> None:
    text = PROMPT * 30
    from_text = TunedLens.fit(model(), text, chunk=16)
    ids = [0, *model().text.ids(text)]
    for given in ([text], torch.tensor(ids), Chunks(torch.tensor(ids)[: len(ids) // 16 * 16].view(-1, 16))):
        again = TunedLens.fit(model(), given, chunk=16)
        assert torch.equal(again.translators.whole().weight, from_text.translators.whole().weight)


def test_no_more_tokens_are_used_than_asked_and_they_come_from_all_over_the_text() -> None:
    from lenskit.models.corpus import chunks_of

    ids = torch.arange(300)
    assert chunks_of(model(), ids, 10, tokens=50).ids[:, 0].tolist() == [0, 60, 120, 180, 240]
    assert chunks_of(model(), iter(["ab" * 500]), 10, tokens=50).ids.shape == (5, 10)


def test_what_cannot_be_fitted_to_is_refused() -> None:
    with pytest.raises(TypeError, match="texts need a tokenizer, and this model has none"):
        TunedLens.fit(lk.Model(tiny("llama")), "a text")
    with pytest.raises(ValueError, match="the id 300 is no token"):
        TunedLens.fit(model(), torch.tensor([[1, 300]]))
    with pytest.raises(ValueError, match="is not one chunk of 128"):
        TunedLens.fit(model(), "too short")
    with pytest.raises(ValueError, match="chunks of 2 tokens have no position past 2"):
        TunedLens.fit(model(), torch.ones(4, 2).long(), skip_first=2)
