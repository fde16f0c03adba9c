"""Views of weights: used like tensors, multiplied, folded and centred; and nobody can write through them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lenskit.models.anatomy import Anatomy
from lenskit.models.sites import SiteUnavailable
from lenskit.models.weighing.factored import FactoredMatrix
from lenskit.models.weighing.projections import Reader
from lenskit.models.weights import BIASES, MATRICES, Weights
from tests.models.tiny import tiny
from tests.models.weighed import FAMILIES, SERIES, by_head, close, fingerprint, model, tokens, weights

# Views


def test_a_view_can_be_used_like_a_tensor() -> None:
    w, x = weights("gpt2"), torch.randn(5, 32)
    full = w.W_U.tensor()
    assert torch.equal(x @ w.W_U, x @ full)
    assert torch.equal(w.W_E @ w.W_U, w.W_E.tensor() @ full)
    assert torch.equal(torch.einsum("pd,dv->pv", x, w.W_U), torch.einsum("pd,dv->pv", x, full))
    assert torch.equal(torch.stack([w.W_U, w.W_U]), torch.stack([full, full]))  # pyright: ignore[reportArgumentType]
    assert torch.equal(w.W_U.norm(dim=0), full.norm(dim=0))
    assert torch.equal(w.W_U[:, 7], full[:, 7])
    assert torch.equal(2 * w.W_U + 1 - w.W_U / 2 - w.W_U, 2 * full + 1 - full / 2 - full)
    assert torch.equal(1 - w.W_U, 1 - full)
    assert torch.equal(full * w.W_U, full * full)
    assert torch.equal(w.W_O.flatten(0, 1), w.W_O.stack().flatten(0, 1))
    assert np.array_equal(np.asarray(w.W_U), full.numpy())
    assert len(w.W_Q) == 3
    assert len(list(w.W_Q)) == 3
    assert not full.requires_grad
    with pytest.raises(AttributeError, match="W_U has no attribute 'nrom'"):
        w.W_U.nrom()
    assert repr(w.W_U) == "W_U((32, 131), float32)"
    assert repr(w.W_Q) == "W_Q((3, 4, 32, 8), float32)"


@pytest.mark.parametrize("index", [0, -1, (1, 2), (1, 2, 3), slice(1, 3), (slice(None), 2), (..., 0), ([2, 0], 1)])
def test_indexing_a_stack_is_indexing_what_it_stacks(index: Any) -> None:
    w = weights("gpt2")
    assert torch.equal(w.W_Q[index], w.W_Q.stack()[index])
    one = w.OV[index]
    close(one if isinstance(one, Tensor) else one.full(), w.OV.stack().full()[index])


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(IndexError, match=r"W_Q\[3\] does not exist: this model has layers 0 to 2"):
        _ = weights("gpt2").W_Q[3]
    with pytest.raises(IndexError, match=r"OV\[7\] does not exist"):
        _ = weights("gpt2").OV[7]


def test_one_layer_is_read_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    w, read = weights("gpt2"), []
    own = Reader.weight
    _ = w.found.parts.layers
    monkeypatch.setattr(Reader, "weight", lambda self: read.append(self) or own(self))
    _ = w.W_Q[1]
    assert read == [w.found.parts.layers[1].readers["W_Q"]]
    read.clear()
    _ = w.QK[2, 3]
    assert read == [w.found.parts.layers[2].readers[name] for name in ("W_Q", "W_K")]


ACCIDENTS: list[Any] = [
    lambda w: w.W_E.zero_(),
    lambda w: w.W_U.data.zero_(),
    lambda w: w.W_E.__setitem__(0, 1.0),
    lambda w: w.W_Q.__setitem__(0, 1.0),
    lambda w: nn.init.zeros_(w.W_U),
    lambda w: torch.add(torch.ones(131, 32), 1, out=w.W_E),
    lambda w: torch.neg_(w.W_pos),
]

COPIES: list[Any] = [
    *(lambda w, name=name: getattr(w, name).tensor() for name in (*MATRICES, *BIASES) if "gate" not in name),
    *(lambda w, name=name: getattr(w, name)[0] for name in (*MATRICES, *BIASES) if "gate" not in name),
    *(lambda w, name=name: getattr(w, name)[:] for name in (*MATRICES, *BIASES) if "gate" not in name),
    lambda w: w.W_E.T,
    lambda w: w.W_U.mT,
    lambda w: w.W_E.view(-1),
    lambda w: w.W_E.detach(),
    lambda w: torch.transpose(w.W_E, 0, 1),
    lambda w: torch.from_numpy(w.W_E.numpy()),
    lambda w: torch.from_numpy(np.asarray(w.W_E)),
    lambda w: torch.as_tensor(np.asarray(w.b_U)),
    lambda w: next(iter(w.W_O)),
    lambda w: next(iter(w.W_E)),
    lambda w: w.OV[1, 2].A,
    lambda w: w.OV[1, 2].B,
    lambda w: w.QK[1].T.A,
    lambda w: w.QK.stack().B,
    lambda w: (w.W_E @ w.OV[0, 0]).B,
    lambda w: w.by_query_head("W_V")[0],
    lambda w: w.norm("attn_in", 0).gain,
    lambda w: w.norm("final_norm").bias,
    lambda w: w.accumulated_bias(0),
    lambda w: w.accumulated_bias(1),
]


@pytest.mark.parametrize("how", [lambda w: w, Weights.folded, Weights.centred])
def test_no_accident_changes_the_model(how: Callable[[Weights], Weights]) -> None:
    w, before = how(weights("gpt2")), fingerprint(model("gpt2").hf_model)
    for accident in ACCIDENTS:
        with pytest.raises(TypeError, match=r"W_\w+ can be read only: W_\w+\.tensor\(\) is a copy"):
            accident(w)
    for given in COPIES:
        given(w).fill_(7.0)
    assert fingerprint(model("gpt2").hf_model) == before


def test_a_view_shows_what_the_model_holds_now() -> None:
    hf = tiny("llama")
    w = Weights.of(Anatomy(hf))
    _ = w.W_Q[1]
    with torch.no_grad():
        hf.model.layers[1].self_attn.q_proj.weight.mul_(2)
    assert torch.equal(w.W_Q[1].transpose(0, 1).flatten(1), hf.model.layers[1].self_attn.q_proj.weight.detach().mT)


def test_finding_leaves_nothing_behind() -> None:
    hf = tiny("gpt2")
    before, w = fingerprint(hf), Weights.of(Anatomy(hf))
    _ = repr(w), w.folded().W_U.tensor(), w.centred().W_O.stack()
    assert fingerprint(hf) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hf.modules())


# Products


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_qk_and_ov_are_the_products_of_their_matrices(family: str) -> None:
    w = weights(family)
    keys = w.W_K.shape[1]
    for head in range(4):
        shared = head * keys // 4
        assert isinstance(w.QK[1, head], FactoredMatrix)
        close(w.QK[1, head].full(), w.W_Q[1, head] @ w.W_K[1, shared].T)
        close(w.OV[1, head].full(), w.W_V[1, shared] @ w.W_O[1, head])
    assert w.QK.shape == w.OV.shape == (3, 4, 32, 32)


def test_at_the_first_position_qk_is_the_score_and_ov_what_attention_writes() -> None:
    """Llama has no biases, and a first token sees only itself, unrotated."""
    w = weights("llama")
    run = model("llama").run(tokens("llama")[:, :1], keep=["attn_in", "scores", "attn_out"])
    for layer in range(3):
        x = run["attn_in", layer][:, 0]
        scores = torch.stack([((x @ w.QK[layer, h]).full() * x).sum(-1) for h in range(4)], 1)
        close(scores * 8**-0.5, run["scores", layer][:, :, 0, 0])
        close(sum((x @ w.OV[layer, h]).full() for h in range(4)), run["attn_out", layer][:, 0])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["Q", "K", "V"])
@pytest.mark.parametrize("folded", [False, True])
def test_composition_is_the_paper_s_formula(family: str, kind: Any, folded: bool) -> None:
    w = weights(family).folded() if folded else weights(family)
    scores = w.composition(kind)
    ov, qk = w.OV.stack().full().double(), w.QK.stack().full().double()
    reader = {"Q": qk, "K": qk.mT, "V": ov}[kind]
    norm = torch.linalg.matrix_norm
    for l1 in range(3):
        for h1 in range(4):
            for l2 in range(3):
                for h2 in range(4):
                    a, b = ov[l1, h1], reader[l2, h2]
                    expected = norm(a @ b) / (norm(a) * norm(b)) if l2 > l1 else 0.0
                    assert float(scores[l1, h1, l2, h2]) == pytest.approx(float(expected), rel=1e-5)


def test_composition_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="of kind 'Q', 'K' or 'V', not 'X'"):
        weights("llama").composition("X")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="only W_K, W_V, b_K and b_V"):
        weights("llama").by_query_head("W_Q")  # pyright: ignore[reportArgumentType]


# Folding and centring


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_weights_read_the_normalised_residual_stream(family: str) -> None:
    w, before = weights(family), fingerprint(model(family).hf_model)
    folded = w.folded()
    keep = ["resid_pre", "attn_in", "attn_out", "v", "mlp_in", "mlp_pre", "resid_post"]
    run = model(family).run(tokens(family), keep=keep)
    for layer in range(model(family).n_layers):
        x = w.norm("attn_in", layer).normalise(run["resid_pre", layer])
        for name in ("Q", "K", "V"):
            plain, fold = (
                by_head(h, getattr(views, f"W_{name}")[layer], getattr(views, f"b_{name}")[layer])
                for views, h in ((w, run["attn_in", layer]), (folded, x))
            )
            close(fold, plain)
        middle = run["resid_pre", layer] + (run["attn_out", layer] if family in SERIES else 0)
        y, name = w.norm("mlp_in", layer).normalise(middle), "gate" if "W_gate" not in _missing(w, layer) else "in"
        into = y @ getattr(folded, f"W_{name}")[layer] + getattr(folded, f"b_{name}")[layer]
        close(into, run["mlp_pre", layer])
    last = w.norm("final_norm").normalise(run["resid_post", -1])
    scores, cap = last @ folded.W_U + folded.b_U.tensor(), model(family).anatomy.tail.softcap
    close(scores if cap is None else torch.tanh(scores / cap) * cap, run.logits)
    assert fingerprint(model(family).hf_model) == before


def _missing(w: Weights, layer: int) -> dict[str, str]:
    return w.found.parts.layers[layer].missing


def test_norms_are_taken_apart() -> None:
    kinds = {family: weights(family).norm("attn_in", 1) for family in ("llama", "gpt2", "gemma2", "olmo2")}
    assert [norm.kind for norm in kinds.values()] == ["RMSNorm", "LayerNorm", "RMSNorm", "none"]
    assert kinds["gemma2"].offset == 1.0
    assert kinds["olmo2"].gain is None
    assert kinds["llama"].bias is None
    x = torch.randn(2, 32)
    close(kinds["gpt2"].scale(x), (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt())
    assert torch.equal(kinds["olmo2"].normalise(x), x)
    assert torch.equal(kinds["olmo2"].scale(x), torch.ones(2, 1))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi"])
def test_centred_weights_make_the_centred_residual_stream_and_the_same_prediction(family: str) -> None:
    w, ids, before = weights(family).centred(), tokens(family), fingerprint(model(family).hf_model)
    run = model(family).run(ids, keep=["z", "mlp_post", "final_norm", "resid_post"])
    made = w.W_E[ids] + (w.W_pos[:6] if family == "gpt2" else 0)
    for layer in range(3):
        made = made + torch.einsum("bphk,hkd->bpd", run["z", layer], w.W_O[layer]) + w.b_O[layer]
        made = made + run["mlp_post", layer] @ w.W_out[layer] + w.b_out[layer]
    last = run["resid_post", -1]
    close(made, last - last.mean(-1, keepdim=True))
    logits = run["final_norm"] @ w.W_U + w.b_U.tensor()
    close(logits.log_softmax(-1), run.logits.log_softmax(-1))
    close(logits.mean(-1), torch.zeros(ids.shape))
    both = [weights(family).folded().centred(), weights(family).centred().folded()]
    assert torch.equal(both[0].W_U.tensor(), both[1].W_U.tensor())
    assert fingerprint(model(family).hf_model) == before


def test_centring_is_refused_where_the_model_would_notice() -> None:
    with pytest.raises(SiteUnavailable, match=r"would change Llama: .* LlamaRMSNorm .* Use centred\(writing=False\)"):
        weights("llama").centred()
    close(weights("llama").centred(writing=False).W_U.mean(-1), torch.zeros(32))
    assert torch.equal(weights("llama").centred(writing=False).W_O[1], weights("llama").W_O[1])
    with pytest.raises(SiteUnavailable, match=r"soft-cap sees what a softmax does not. Use centred\(unembed=False\)"):
        weights("gemma2").centred(writing=False)


def test_accumulated_bias_is_what_biases_alone_add() -> None:
    w = weights("gpt2")
    b_O, b_out = w.b_O.stack(), w.b_out.stack()
    assert torch.equal(w.accumulated_bias(0), torch.zeros(32))
    close(w.accumulated_bias(2), b_O[:2].sum(0) + b_out[:2].sum(0))
    close(w.accumulated_bias(1, mlp_input=True), b_O[:2].sum(0) + b_out[0])
    close(w.accumulated_bias(3, mlp_biases=False), b_O.sum(0))
    values = torch.einsum("lhk,lhkd->d", w.b_V.stack(), w.W_O.stack())
    close(w.accumulated_bias(3, value_biases=True), b_O.sum(0) + b_out.sum(0) + values)
    assert not weights("llama").accumulated_bias(3).any()
    with pytest.raises(SiteUnavailable, match="a norm stands before the residual stream"):
        weights("gemma2").accumulated_bias(2)
    with pytest.raises(IndexError, match="layers 0 to 2"):
        w.accumulated_bias(4)
