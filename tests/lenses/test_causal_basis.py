"""A causal basis finds the directions that were built in, and no direction of a real model beats its first."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.lenses.causal_basis import CausalBasis, causal_basis, directions_of, states_without
from lenskit.lenses.effects import effect_of, layer_effects
from lenskit.models.ablations import AblateLayer, remove_subspace
from tests.lenses.affine import AffineLens
from tests.models.tiny import tiny, tiny_tokenizer

HOW = ["zero", "mean", "resample"]
IDS = torch.randint(1, 300, (4, 16), generator=torch.Generator().manual_seed(0))


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


@cache
def basis() -> CausalBasis:
    return causal_basis(AffineLens(model()), IDS, layer=2, k=4, chunk=16)


def from_half(logit: float) -> float:
    """KL from a coin with this logit to a fair one."""
    p = 1 / (1 + math.exp(-logit))
    return sum(x * math.log(2 * x) for x in (p, 1 - p))


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_it_finds_the_directions_that_were_built_in(how) -> None:
    """Two coins thrown apart: one reads the state along a, the other, less, along b; nothing reads the rest."""
    d, c = 6, 0.5
    turn, _ = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(4), dtype=torch.float64))
    a, b = turn[0], turn[1]
    states = torch.cat([c * turn, -c * turn])

    def predict(h: Tensor) -> Tensor:
        x, y = 1.5 * h @ a, 0.7 * h @ b
        return torch.stack([torch.zeros_like(x), x, y, x + y], -1)

    energies, vectors = directions_of(predict, states, 4, how=how)
    assert abs(float(vectors[0] @ a)) > 1 - 1e-6
    assert abs(float(vectors[1] @ b)) > 1 - 1e-6
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(4, dtype=torch.float64))
    expected = [from_half(1.5 * c) / d, from_half(0.7 * c) / d, 0.0, 0.0]
    torch.testing.assert_close(energies, torch.tensor(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("how", HOW)
def test_removing_a_direction_is_removing_its_span(how) -> None:
    states = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    v = torch.nn.functional.normalize(torch.ones(5), dim=0)
    torch.testing.assert_close(states_without(states, v, how, 3), remove_subspace(states, v, how, seed=3))


def naive_energy(v: Tensor) -> float:
    lens = AffineLens(model())
    h = model().run(IDS, keep="resid_pre")["resid_pre", 2][:, 1:].flatten(0, 1)
    with torch.no_grad():
        clean, removed = (
            model().unembed(lens.transport(x, ("resid_pre", 2))).double().log_softmax(-1)
            for x in (h, remove_subspace(h, v, "mean"))
        )
    return float((clean.exp() * (clean - removed)).sum(-1).mean())


def test_no_other_direction_has_more_energy_than_the_first() -> None:
    made = basis()
    torch.testing.assert_close(made.vectors @ made.vectors.T, torch.eye(4), atol=1e-5, rtol=0)
    assert made.energies.tolist() == sorted(made.energies.tolist(), reverse=True)
    for energy, v in zip(made.energies.tolist(), made.vectors, strict=True):
        assert naive_energy(v) == pytest.approx(energy, rel=1e-3)
    generator = torch.Generator().manual_seed(7)
    for other in torch.randn(60, 32, generator=generator):
        assert naive_energy(other) < made.energies[0]
    near = made.vectors[0] + 0.1 * torch.randn(30, 32, generator=generator)
    assert max(map(naive_energy, near)) <= float(made.energies[0]) * (1 + 1e-4)


def test_its_ablation_is_an_edit_and_its_effect_is_measured() -> None:
    edit = basis().ablation(count=2)
    assert edit.directions.shape == (2, 32)
    assert edit.layers == 2
    clean, edited = (model().run(IDS, edits=edits).logits.double().log_softmax(-1) for edits in ([], [edit]))
    kl = (clean.exp() * (clean - edited)).sum(-1)
    effect = effect_of(model(), IDS, edit)
    torch.testing.assert_close(effect.kl.double(), kl, atol=1e-5, rtol=1e-4)
    assert effect.mean == pytest.approx(float(kl.mean()), rel=1e-4)
    responses = basis().responses(model(), IDS)
    assert responses[0] == pytest.approx(effect_of(model(), IDS, basis().ablation(0, 1)).mean)
    assert repr(basis()).startswith("CausalBasis(4 directions at resid_pre.2, energies ")


@pytest.mark.parametrize("how", HOW)
def test_the_effect_of_each_layer_is_that_of_its_edit(how) -> None:
    found = layer_effects(model(), IDS, how=how, over="both")
    assert list(found) == [0, 1, 2]
    for layer, effect in found.items():
        edit = AblateLayer(layers=layer, how=how, over="both")
        assert torch.equal(effect.kl, effect_of(model(), IDS, edit).kl)


def test_padding_does_not_count() -> None:
    prompts = ["The capital of France", "The keys"]
    effect = effect_of(model(), prompts, AblateLayer(layers=1))
    alone = [effect_of(model(), prompt, AblateLayer(layers=1)) for prompt in prompts]
    total = sum(float(each.kl.sum()) for each in alone) / sum(each.kl.numel() for each in alone)
    assert effect.mean == pytest.approx(total, rel=1e-3)


def test_what_cannot_be_found_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 1 to 32 orthogonal directions"):
        causal_basis(AffineLens(model()), IDS, layer=1, k=33, chunk=16)
    with pytest.raises(IndexError, match="this lens has rows 0 to 3"):
        causal_basis(AffineLens(model()), IDS, layer=4, chunk=16)
    assert all(parameter.grad is None for parameter in model().hf_model.parameters())
