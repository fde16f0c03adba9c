"""A Jacobian lens of this model passes its check, and one of another checkpoint of the same shape does not."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.data import Chunks
from lenskit.lenses.jacobian import JacobianLens
from lenskit.lenses.jacobian_check import Refit, check
from lenskit.lenses.jacobian_fit.recipe import Recipe
from lenskit.lenses.jacobian_fit.rows import PerPlace, Rows
from tests.models.tiny import tiny, tiny_tokenizer

LAYERS = 5


@cache
def model(seed: int = 0) -> lk.Model:
    return lk.Model(tiny("llama", seed, layers=LAYERS, vocab=300), tiny_tokenizer(300), name=f"tiny {seed}")


def ids(seed: int = 1, passages: int = 6) -> Tensor:
    return torch.randint(1, 300, (passages, 64), generator=torch.Generator().manual_seed(seed))


@cache
def fitted(seed: int = 0) -> JacobianLens:
    return JacobianLens.fit(model(seed), ids(2, 4), skip_first=8)


def attached(lens: JacobianLens, to: lk.Model) -> JacobianLens:
    """The matrices of a lens given to a model, as a file without an identity is."""
    return JacobianLens(to, {layer: lens.matrix(layer) for layer in lens.layers})


def test_a_lens_of_this_model_passes() -> None:
    made = check(fitted(), ids())
    assert made.passed, made
    assert made["matrices"].figure == "4 of 4 layers, all finite and of their own"
    assert made["the last layer is the model's own output"].passed
    assert sorted(made.refits) == [0, 2, 3]
    assert all(refit.cosine > 0.65 * refit.expected for refit in made.refits.values())
    assert "nothing speaks against it" in repr(made)
    assert "refit of resid_post.2 on two passages: cosine" in repr(made)


def test_the_figures_are_those_of_plain_sums() -> None:
    lens, chunks = fitted(), ids()
    made = check(lens, chunks, refit=False)
    assert made.refits == {}
    for layer in (0, 3):
        kl = {True: 0.0, False: 0.0}
        for chunk in chunks:
            run = model().run(chunk[None], keep="resid_post")
            final = run.logits[0, 1:].double().log_softmax(-1)
            h = run["resid_post", layer][0, 1:]
            for is_lens in kl:
                carried = h @ lens.matrix(layer).T if is_lens else h
                with torch.no_grad():
                    said = model().unembed(carried).double().log_softmax(-1)
                kl[is_lens] += float((final.exp() * (final - said)).sum(-1).mean()) / len(chunks)
        assert made.kl[layer] == pytest.approx(kl[True], rel=1e-3)
        assert made.logit_kl[layer] == pytest.approx(kl[False], rel=1e-3)
        away = (lens.matrix(layer).double() - torch.eye(32)).norm() / 32**0.5
        assert made.from_identity[layer] == pytest.approx(float(away), rel=1e-6)
    table = made.to_pandas()
    assert table["layer"].tolist() == [0, 1, 2, 3]
    assert [math.isnan(cosine) for cosine in table["refit_cosine"]] == [True] * 4


def test_a_lens_of_another_checkpoint_of_the_same_shape_is_doubtful() -> None:
    made = check(attached(fitted(1), model(0)), ids())
    assert not made.passed
    assert all(refit.passed is False for refit in made.refits.values())
    assert all(abs(refit.cosine) < 0.3 < refit.expected for refit in made.refits.values())
    assert repr(made).count("DOUBTFUL") >= 4


def test_the_further_the_weights_have_moved_the_less_a_lens_agrees() -> None:
    """As a lens of the base model does on one that was trained on: nearby it passes, far away it does not."""
    cosines, verdicts = list[float](), list[bool]()
    for moved in (0.0, 0.3, 3.0):
        hf = tiny("llama", 0, layers=LAYERS, vocab=300)
        noise = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for weight in hf.model.parameters():
                if weight.dim() == 2:
                    weight += moved * weight.shape[-1] ** -0.5 * torch.randn(weight.shape, generator=noise)
        made = check(attached(fitted(), lk.Model(hf, tiny_tokenizer(300))), ids())
        cosines.append(made.refits[0].cosine / max(made.refits[0].expected, 0.1))
        verdicts.append(made.passed)
    assert cosines == sorted(cosines, reverse=True)
    assert verdicts[0]
    assert not verdicts[-1]


def test_matrices_that_are_none_are_named() -> None:
    lens = fitted()
    whole = {layer: lens.matrix(layer) for layer in lens.layers}
    for change, said in (
        ({1: torch.eye(32)}, "layer 1 is the identity"),
        ({2: whole[1]}, "layer 2 is that of the layer before"),
        ({3: torch.zeros(32, 32)}, "layer 3 has no numbers"),
        ({0: whole[0] * torch.nan}, "layer 0 has no numbers"),
    ):
        made = check(JacobianLens(model(), whole | change), ids(), refit=False)
        assert said in made["matrices"].figure
        assert not made.passed


def test_a_lens_upside_down_is_doubtful() -> None:
    lens = fitted()
    turned = {LAYERS - 2 - layer: lens.matrix(layer) for layer in lens.layers}
    made = check(JacobianLens(model(), turned), ids())
    assert made["towards the identity at the top"].passed is False
    assert not made.passed


def test_a_lens_of_some_layers_is_checked_in_those() -> None:
    lens = fitted()
    made = check(JacobianLens(model(), {2: lens.matrix(2)}), ids())
    assert list(made.kl) == [2]
    assert list(made.refits) == [2]
    assert made["towards the identity at the top"].passed is None
    assert made.passed


def test_what_two_passages_can_show_is_what_their_own_agreement_allows() -> None:
    """A truth and two noisy looks at it: the cosine of their mean with the truth, from their cosine alone."""
    noise = torch.Generator().manual_seed(0)
    truth, a, b = (torch.randn(200, 200, generator=noise) for _ in range(3))
    first, second = truth + 1.5 * a, truth + 1.5 * b
    between = float(torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0))
    seen = float(torch.nn.functional.cosine_similarity(truth.flatten(), (first + second).flatten(), dim=0))
    assert Refit(seen, between).expected == pytest.approx(seen, abs=0.02)
    assert Refit(0.9, -0.1).passed is None


@cache
def wide(seed: int) -> lk.Model:
    """A model with more dimensions than a refit has directions."""
    return lk.Model(tiny("llama", seed, layers=LAYERS, d_model=96, vocab=300), name=f"wide {seed}")


def test_along_a_few_directions_a_refit_is_that_of_every_row() -> None:
    lens, chunks = JacobianLens.fit(wide(0), ids(2, 4), skip_first=8), ids()
    first, second = (JacobianLens.fit(wide(0), chunks[at][None], skip_first=16) for at in (0, -1))

    def beyond(of: JacobianLens, layer: int) -> Tensor:
        return (of.matrix(layer).double() - torch.eye(96)).flatten()

    for layer, refit in check(lens, chunks).refits.items():
        a, b, mine = (beyond(each, layer) for each in (first, second, lens))
        assert refit.between == pytest.approx(float(torch.cosine_similarity(a, b, 0)), abs=0.03)
        assert refit.cosine == pytest.approx(float(torch.cosine_similarity(mine, a + b, 0)), abs=0.03)


def test_a_few_directions_are_enough_to_doubt_another_checkpoint() -> None:
    lens = JacobianLens.fit(wide(1), ids(2, 4), skip_first=8)
    assert check(lens, ids()).passed
    made = check(attached(lens, wide(0)), ids())
    assert all(refit.passed is False for refit in made.refits.values()), made


def test_what_a_refit_takes_along_directions_is_the_matrix_along_them() -> None:
    chunks = Chunks(ids(3, 1), None)
    recipe = Recipe.of(wide(0), chunks, "final", ["resid_post"], [0, 3], skip_first=8)
    directions = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    found = Rows(wide(0), recipe, at_once=2).along(chunks.ids[0], directions)
    whole = JacobianLens.fit(wide(0), chunks.ids, skip_first=8)
    for place, rows in found.items():
        torch.testing.assert_close(rows, directions @ whole.matrix(place.layer), rtol=0, atol=1e-5)


def test_derivatives_that_overflow_are_no_verdict_and_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowed(rows: Rows, ids: Tensor, directions: Tensor) -> PerPlace:
        return {place: torch.full((len(directions), 32), torch.inf) for place in rows.recipe.places}

    monkeypatch.setattr(Rows, "along", overflowed)
    made = check(fitted(), ids())
    assert made["refit of resid_post.0 on two passages"].passed is None
    assert "n/a      refit of resid_post.0 on two passages: the model's derivatives are no numbers" in repr(made)


def test_a_model_that_reads_no_text_needs_ids() -> None:
    bare = lk.Model(tiny("llama", 0, layers=LAYERS, vocab=300))
    with pytest.raises(TypeError, match="this model reads none: give token ids"):
        check(attached(fitted(), bare))


def test_nothing_is_left_behind() -> None:
    before = model().run(ids()[:1]).logits
    check(fitted(), ids())
    assert torch.equal(model().run(ids()[:1]).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model().hf_model.modules())
    assert all(weight.grad is None for weight in model().hf_model.parameters())
