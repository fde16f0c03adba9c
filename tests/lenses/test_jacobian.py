"""A Jacobian lens reads, as the other lenses do: all its layers, some of them, and what blocks add."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.lenses.evaluate import evaluate
from lenskit.lenses.jacobian import JacobianLens
from lenskit.models.identity import ModelMismatch
from tests.models.tiny import tiny

D, LAYERS = 32, 4
IDS = [5, 17, 90, 3, 44, 8]


@cache
def model(architecture: str) -> lk.Model:
    return lk.Model(tiny(architecture, layers=LAYERS), name="org/tiny")


def matrices(layers: list[int], seed: int = 0) -> dict[int, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {layer: torch.eye(D) + 0.1 * torch.randn(D, D, generator=rng) for layer in layers}


def lens(architecture: str = "llama") -> JacobianLens:
    return JacobianLens(model(architecture), matrices([0, 1, 2]))


def probabilities(of: lk.Model, h: Tensor) -> Tensor:
    with torch.no_grad():
        return of.unembed(h).double().softmax(-1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "granite"])
def test_a_reading_is_what_the_norm_and_the_unembedding_make_of_the_product(architecture: str) -> None:
    of, j = model(architecture), lens(architecture)
    run = of.run([IDS], keep="resid_post")
    read = j.read([IDS])
    for layer in range(LAYERS):
        h = run["resid_post", layer][0]
        carried = h if layer == LAYERS - 1 else h @ j.matrix(layer).T
        expected = probabilities(of, carried)
        assert (read.top_ids[layer, :, 0] == expected.argmax(-1).numpy()).all()
        np.testing.assert_allclose(read.top_probs[layer, :, 0], expected.amax(-1), rtol=1e-4)
        entropy = -(expected * expected.log()).sum(-1)
        np.testing.assert_allclose(read.entropy[layer], entropy, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(read.kl[-1], 0)


def test_the_identity_in_every_layer_is_the_logit_lens() -> None:
    ones = JacobianLens(model("llama"), dict.fromkeys(range(3), torch.eye(D)))
    ours, logit = ones.read([IDS]), lk.LogitLens(model("llama")).read([IDS])
    np.testing.assert_array_equal(ours.top_ids, logit.top_ids)
    np.testing.assert_allclose(ours.kl, logit.kl, rtol=1e-5, atol=1e-6)


def test_a_lens_of_some_layers_has_their_rows_and_the_last() -> None:
    whole, part = lens(), JacobianLens(model("llama"), {layer: lens().matrix(layer) for layer in (0, 2)})
    assert part.layers == (0, 2)
    some, all_of_it = part.read([IDS]), whole.read([IDS])
    assert some.layers.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(some.top_ids, all_of_it.top_ids[[0, 2, 3]])
    np.testing.assert_allclose(some.entropy, all_of_it.entropy[[0, 2, 3]], rtol=1e-6)
    measured = evaluate({"part": part, "whole": whole}, torch.tensor(IDS * 4).view(2, -1), marginals=True)
    table = measured.to_pandas().set_index(["lens", "layer"])
    for layer in ("0", "2", "3"):
        ours, theirs = (table.loc[(name, layer)].to_numpy(float) for name in ("part", "whole"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_place_decides_which_matrix_carries() -> None:
    j, h = lens(), torch.randn(2, 3, D)
    at_one = j.transport(h, ("resid_post", 1))
    torch.testing.assert_close(at_one, h @ j.matrix(1).T)
    assert torch.equal(j.transport(h, "resid_pre.2"), at_one)
    assert torch.equal(j.transport(h, ("mlp_out", 1)), at_one)
    assert j.transport(h, ("resid_post", -1)) is h
    assert torch.equal(j.matrix(-1), torch.eye(D))
    assert j.transport(h.bfloat16(), ("resid_post", 1)).dtype == torch.bfloat16


def test_what_is_not_there_is_said() -> None:
    part, h = JacobianLens(model("llama"), matrices([2])), torch.randn(2, D)
    with pytest.raises(IndexError, match=r"no matrix for resid_post\.1\. It has resid_post in layers 2\. Fit one"):
        part.transport(h, ("resid_post", 1))
    with pytest.raises(IndexError, match=r"no matrix for attn_out\.2\. .* sources=\['attn_out'\]"):
        part.transport(h, ("attn_out", 2))
    with pytest.raises(IndexError, match=r"resid_pre\.0 comes before every layer"):
        part.transport(h, ("resid_pre", 0))
    with pytest.raises(IndexError, match=r"no matrix for resid_post\.0"):
        part.matrix(0)
    with pytest.raises(IndexError, match="there are layers 0 to 3"):
        part.transport(h, ("resid_post", 4))
    with pytest.raises(ValueError, match=r"reads resid_pre, .* not \('pattern', 1\)"):
        part.transport(h, ("pattern", 1))
    assert part.layers_at("resid_post") == [2]
    assert part.layers_at("resid_pre") == [3]
    assert part.layers_at("attn_out") == []


def test_what_a_block_adds_is_read_where_it_was_fitted_for() -> None:
    ids = torch.randint(131, (2, 10), generator=torch.Generator().manual_seed(0))
    j = JacobianLens.fit(model("llama"), ids, skip_first=2, sources=["resid_post", "attn_out"])
    assert j.sources == ("resid_post", "attn_out")
    run = model("llama").run([IDS], keep=["attn_out", "resid_mid"])
    for site in ("attn_out", "resid_mid", "mlp_out"):
        assert j.read([IDS], site=site).shape == (LAYERS + 1, len(IDS))
    h = run["attn_out", 1]
    torch.testing.assert_close(j.transport(h, ("attn_out", 1)), h @ j.matrix(1, "attn_out").T)
    torch.testing.assert_close(j.transport(h, ("resid_mid", 1)), h @ j.matrix(1, "attn_out").T)


def test_a_lens_of_the_penultimate_residual_ends_with_the_model_s_own_output() -> None:
    j = JacobianLens(model("llama"), matrices([0, 1]), target="penultimate")
    read = j.read([IDS])
    assert read.layers.tolist() == [0, 1, 2, 3]
    logit = lk.LogitLens(model("llama")).read([IDS])
    np.testing.assert_array_equal(read.top_ids[2:], logit.top_ids[2:])


def test_it_writes_on_from_a_layer() -> None:
    whole = lens()
    wrote = whole.generate(torch.tensor([IDS]), layer=1, max_new_tokens=3)
    first = model("llama").unembed(
        whole.transport(model("llama").run([IDS], keep="resid_post")["resid_post", 1], ("resid_post", 1))
    )
    assert wrote.tokens[0, len(IDS)] == first[0, -1].argmax()


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelMismatch, match=r"a matrix \(16, 16\) for resid_post of layer 0, .* has d_model 32"):
        JacobianLens(model("llama"), {0: torch.eye(16)})
    with pytest.raises(ModelMismatch, match=r"of layer 3, and .* of the final residual has layers 0 to 2"):
        JacobianLens(model("llama"), {3: torch.eye(D)})
    with pytest.raises(ValueError, match="needs at least one layer's matrix"):
        JacobianLens(model("llama"), {})
    with pytest.raises(ValueError, match="'q' is no source of a Jacobian lens"):
        JacobianLens(model("llama"), {}, components={"q": {0: torch.eye(D)}})
