"""Weights are the model's own numbers, found without a list of architectures."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lenskit.models.anatomy import Anatomy
from lenskit.models.sites import SiteUnavailable
from lenskit.models.weighing.projections import Linear, Product, Reader, find_reader
from lenskit.models.weights import BIASES, MATRICES, Weights
from tests.models.tiny import tiny
from tests.models.weighed import FAMILIES, by_head, close, model, tokens, weights

# The promises of the docstring, in the numbers of the sites


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ends_are_those_of_the_model(family: str) -> None:
    w, ids = weights(family), tokens(family)
    run = model(family).run(ids, keep=["embed", "final_norm"])
    close(w.W_E[ids], run["embed"])
    scores, cap = run["final_norm"] @ w.W_U + w.b_U.tensor(), model(family).anatomy.tail.softcap
    close(scores if cap is None else torch.tanh(scores / cap) * cap, run.logits)


@pytest.mark.parametrize("family", ["gpt2", "gpt_bigcode", "opt"])
def test_learned_positions_are_those_of_the_model(family: str) -> None:
    run = model(family).run(tokens(family), keep="pos_embed")
    close(weights(family).W_pos[:6].expand_as(run["pos_embed"]), run["pos_embed"])


@pytest.mark.parametrize("family", [*FAMILIES, "opt", "gpt_oss"])
def test_queries_keys_and_values_are_what_attention_is_given_times_the_weights(family: str) -> None:
    w = weights(family)
    run = model(family).run(tokens(family), keep=["attn_in", "q", "k", "v"])
    for layer in range(model(family).n_layers):
        x = run["attn_in", layer]
        close(by_head(x, w.W_V[layer], w.b_V[layer]), run["v", layer])
        for matrix, bias, site in ((w.W_Q, w.b_Q, "q"), (w.W_K, w.b_K, "k")):
            if f"W_{site.upper()}" not in w.notes or "times" in w.notes[f"W_{site.upper()}"]:
                # At the first position a rotary embedding turns nothing.
                close(by_head(x, matrix[layer], bias[layer])[:, 0], run[site, layer][:, 0])


@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
def test_behind_a_norm_of_queries_the_view_ends_before_it_and_says_so(family: str) -> None:
    w, kind = weights(family), {"qwen3": "Qwen3RMSNorm", "olmo2": "Olmo2RMSNorm"}[family]
    assert w.notes["W_Q"] == f"before the {kind} that stands between"
    run = model(family).run(tokens(family), keep=["attn_in", "q"])
    attention = model(family).hf_model.model.layers[1].self_attn
    made = by_head(run["attn_in", 1], w.W_Q[1], w.b_Q[1])
    with torch.no_grad():
        normed = attention.q_norm(made if family == "qwen3" else made.flatten(-2)).reshape(made.shape)
    close(normed[:, 0], run["q", 1][:, 0])


@pytest.mark.parametrize("family", [*FAMILIES, "exaone4", "hyperclovax"])
def test_what_heads_and_neurons_write_is_added_to_the_residual_stream(family: str) -> None:
    w = weights(family)
    run = model(family).run(tokens(family), keep=["z", "attn_out", "mlp_post", "mlp_out"])
    for layer in range(model(family).n_layers):
        for made, name, site in (
            (torch.einsum("bphk,hkd->bpd", run["z", layer], w.W_O[layer]) + w.b_O[layer], "W_O", "attn_out"),
            (run["mlp_post", layer] @ w.W_out[layer] + w.b_out[layer], "W_out", "mlp_out"),
        ):
            writer = w.found.parts.writer(name, layer)
            if writer.post_norm is not None:
                assert "in front of the residual stream" in w.notes[name]
                assert writer.post_norm.module is not None
                with torch.no_grad():
                    made = writer.post_norm.module(made) * writer.factor
            close(made, run[site, layer])


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_are_what_the_mlp_is_given_times_the_weights(family: str) -> None:
    w = weights(family)
    run = model(family).run(tokens(family), keep=["mlp_in", "mlp_pre", "mlp_post"])
    for layer in range(model(family).n_layers):
        x, pre, post = run["mlp_in", layer], run["mlp_pre", layer], run["mlp_post", layer]
        into = x @ w.W_in[layer] + w.b_in[layer]
        if "W_gate" in w.found.parts.layers[layer].readers:
            close(x @ w.W_gate[layer] + w.b_gate[layer], pre)
            active = torch.nn.functional.gelu(pre, approximate="tanh") if family == "gemma2" else pre * pre.sigmoid()
            close(active * into, post)
        else:
            close(into, pre)


# Against the modules' own layouts, written down by hand


def _neox(hf: Any) -> Tensor:
    return hf.gpt_neox.layers[1].attention.query_key_value.weight.reshape(4, 3, 8, 32).permute(1, 0, 3, 2)


def _gpt2(hf: Any) -> Tensor:
    return hf.transformer.h[1].attn.c_attn.weight.reshape(32, 3, 4, 8).permute(1, 2, 0, 3)


def _phi3(hf: Any) -> list[Tensor]:
    parts = hf.model.layers[1].self_attn.qkv_proj.weight.split([32, 16, 16])
    return [part.reshape(-1, 8, 32).mT for part in parts]


def _bloom(hf: Any) -> Tensor:
    return hf.transformer.h[1].self_attention.query_key_value.weight.reshape(4, 3, 16, 64).permute(1, 0, 3, 2)


def _falcon_groups(hf: Any) -> list[Tensor]:
    heads = hf.transformer.h[1].self_attention.query_key_value.weight.reshape(2, 4, 8, 32).mT
    queries, key, value = heads.split([2, 1, 1], dim=1)
    return [queries.flatten(0, 1), *(shared.repeat_interleave(2, 1).flatten(0, 1) for shared in (key, value))]


def _llama(hf: Any) -> list[Tensor]:
    attention = hf.model.layers[1].self_attn
    return [p.weight.reshape(-1, 8, 32).mT for p in (attention.q_proj, attention.k_proj, attention.v_proj)]


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "gpt_neox": _neox,
    "gpt2": _gpt2,
    "phi3": _phi3,
    "llama": _llama,
    "bloom": _bloom,
    "falcon_groups": _falcon_groups,
}


@pytest.mark.parametrize("family", LAYOUTS)
def test_columns_found_by_value_are_those_that_the_layout_says(family: str) -> None:
    w = weights(family)
    expected = LAYOUTS[family](model(family).hf_model)
    for view, by_hand in zip((w.W_Q, w.W_K, w.W_V), expected, strict=True):
        assert torch.equal(view[1], by_hand.detach())


def test_multi_query_attention_has_one_key_and_value_head() -> None:
    w = weights("gpt_bigcode")
    heads = w.W_Q.shape[1]
    assert heads > 1
    assert w.W_K.shape[1] == w.W_V.shape[1] == 1
    assert w.by_query_head("W_K").shape == w.W_Q.shape
    assert torch.equal(w.by_query_head("b_V")[0], w.b_V[0].expand(heads, -1))


def test_shapes_are_transformer_lens_s() -> None:
    w = weights("llama")
    shapes = {name: tuple(getattr(w, name).shape) for name in (*MATRICES, *BIASES) if name != "W_pos"}
    assert shapes == {
        "W_E": (131, 32), "W_Q": (3, 4, 32, 8), "W_K": (3, 2, 32, 8), "W_V": (3, 2, 32, 8), "W_O": (3, 4, 8, 32),
        "W_in": (3, 32, 96), "W_gate": (3, 32, 96), "W_out": (3, 96, 32), "W_U": (32, 131), "b_Q": (3, 4, 8),
        "b_K": (3, 2, 8), "b_V": (3, 2, 8), "b_O": (3, 32), "b_in": (3, 96), "b_gate": (3, 96), "b_out": (3, 32),
        "b_U": (131,),
    }  # fmt: skip
    for name, shape in shapes.items():
        assert getattr(w, name).tensor().shape == shape


def test_a_number_by_which_the_model_multiplies_is_inside_and_noted() -> None:
    granite = {"W_O": 0.4, "W_out": 0.4, "W_U": 0.4}  # logits are divided by 2.5
    assert weights("granite").notes == {name: f"times {factor}, as the model does" for name, factor in granite.items()}
    assert weights("gemma2").notes["W_E"] == "times 5.65685, as the model does"  # 32 ** 0.5
    assert weights("opt").notes["W_Q"] == "times 0.25, as the model does"  # 16 ** -0.5
    assert "times 1.34657, as the model does" in weights("gpt_oss").notes["W_Q"]  # YaRN: 0.1 * ln 32 + 1


# What is not there, and what is hard to see


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("gpt2", "W_gate", r"W_gate does not exist in layer 0 of GPT2: its MLP is not gated. Use W_in"),
        (
            "mamba",
            "W_Q",
            r"W_Q does not exist in layer 0 of Mamba: it is found by a site that is not there. 'q' does not",
        ),
        ("deepseek_v3", "W_K", r"W_K does not exist in layer 0 of DeepseekV3: .* latent.* Use the site 'k'"),
        ("deepseek_v3", "b_V", r"W_V does not exist in layer 0 of DeepseekV3"),
        ("deepseek_v3", "OV", r"W_V does not exist|OV does not exist"),
    ],
)
def test_what_is_not_there_says_why_and_what_to_use(family: str, name: str, reason: str) -> None:
    with pytest.raises(SiteUnavailable, match=reason):
        _ = getattr(weights(family), name)[0]


def test_positions_that_are_not_learned_are_refused() -> None:
    with pytest.raises(SiteUnavailable, match="no position embedding"):
        _ = weights("llama").W_pos


def test_a_projection_that_is_more_than_a_matrix_is_refused() -> None:
    class Adapted(nn.Module):
        """What an adapter does: a matrix, and something beside it."""

        def __init__(self, base_layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = base_layer

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + 0.1 * x.tanh()

    hf = tiny("llama")
    hf.model.layers[1].self_attn.q_proj = Adapted(hf.model.layers[1].self_attn.q_proj)
    w = Weights.of(Anatomy(hf))
    assert w.W_Q[0].shape == (4, 32, 8)
    with pytest.raises(SiteUnavailable, match=r"W_Q does not exist in layer 1 of Llama: no matrix product"):
        _ = w.W_Q[1]


def test_half_precision_finds_the_same_columns_and_folds_in_float() -> None:
    hf = tiny("gpt_neox")
    w = Weights.of(Anatomy(copy.deepcopy(hf).bfloat16()))
    for layer in range(3):
        for name in ("W_Q", "W_K", "W_V", "W_in"):
            columns = w.found.parts.reader(name, layer).columns
            assert torch.equal(columns, weights("gpt_neox").found.parts.reader(name, layer).columns)
    assert w.W_Q[0].dtype == torch.bfloat16
    assert w.folded().W_Q[0].dtype == torch.float32
    assert w.OV[0, 0].norm().dtype == torch.float32


def test_where_all_prompts_look_alike_the_layer_before_says_which_columns() -> None:
    """First tokens of a real model nearly coincide (attention sinks): in bfloat16, whole columns then look the same."""
    linear = nn.Linear(4, 6, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(24.0).reshape(6, 4))
    source = Product(Linear(linear, True), torch.tensor([[1.0, 2, 2, 3, 4, 5]]).expand(8, 6).contiguous())
    target = source.output[:, [2, 0]].reshape(8, 1, 2)
    hint = Reader(source.linear, torch.tensor([[2, 0]]))
    assert find_reader(target, [source], [], None) is None
    found = find_reader(target, [source], [], hint)
    assert found is not None
    assert found.columns.tolist() == [[2, 0]]
    assert find_reader(target + 1, [source], [], hint) is None


def test_columns_that_are_the_same_in_the_matrix_too_are_no_doubt() -> None:
    """Heads that were pruned to zero."""
    linear = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        linear.weight[2:] = 0
    x = torch.randn(8, 4)
    source = Product(Linear(linear, True), linear(x).detach())
    found = find_reader(source.output.reshape(8, 2, 2), [source], [], None)
    assert found is not None
    assert torch.equal(found.weight(), linear.weight.detach().reshape(2, 2, 4).mT)


def test_printed_they_say_what_is_there_and_why_the_rest_is_not() -> None:
    text = repr(weights("qwen3"))
    assert text.startswith("Weights of Qwen3\n")
    assert "  W_Q     (3, 4, 32, 8)  before the Qwen3RMSNorm that stands between\n" in text
    assert "  W_pos   unavailable: 'pos_embed' does not exist in Qwen3" in text
    assert repr(weights("gpt2").folded().centred()).startswith("Weights of GPT2, folded and centred\n")
