"""Direct logit attribution: the parts sum to the model's own logits, and each is what a naive computation gives."""

from functools import cache

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.models.direct import By
from tests.models.tiny import tiny, tiny_tokenizer

FAMILIES = ["llama", "gpt2", "gemma2", "olmo2", "granite", "gpt_neox", "phi", "qwen3", "cohere"]
ROWS = [[3, 4, 5, 6, 90], [7, 8]]
A, B = 5, 9


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family))


def own_difference(family: str, row: list[int]) -> float:
    """The difference of two logits, from Hugging Face's model itself, without a soft-cap."""
    hf = model(family).hf_model
    cap = getattr(hf.config, "final_logit_softcapping", None)
    with torch.no_grad():
        logits = hf(input_ids=torch.tensor([row])).logits[0, -1].double()
    if cap:
        logits = torch.atanh(logits / cap) * cap
    return float(logits[A] - logits[B])


@pytest.mark.parametrize("by", ["component", "head", "neuron"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_sum_to_the_models_own_logit_difference(family: str, by: By) -> None:
    parts = lk.direct_logits(model(family), ROWS, A, B, by=by)
    wanted = torch.tensor([own_difference(family, row) for row in ROWS])
    torch.testing.assert_close(parts.values.sum(0), wanted, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(parts.logit, wanted, atol=2e-5, rtol=1e-4)
    assert parts.error < 1e-4


def by_hand(family: str, written: Tensor, resid: Tensor) -> float:
    """The direct effect of one written vector, in float64 and with the norm spelled out."""
    hf = model(family).hf_model
    x, h = written.double(), resid.double()
    norm = hf.transformer.ln_f if family == "gpt2" else hf.model.norm
    if family == "gpt2":
        x, h = x - x.mean(), h - h.mean()
    eps = norm.eps if family == "gpt2" else norm.variance_epsilon
    normed = x / (h.square().mean() + eps).sqrt() * norm.weight.detach().double()
    return float(normed @ (hf.lm_head.weight[A] - hf.lm_head.weight[B]).detach().double())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_part_is_what_a_naive_computation_gives(family: str) -> None:
    hf, row = model(family).hf_model, ROWS[0]
    run = model(family).run([row], keep=["attn_out", "mlp_out", "z", "mlp_post", "resid_post"])
    resid = run["resid_post", -1][0, -1]
    whole = lk.direct_logits(model(family), [row], A, B)
    heads = lk.direct_logits(model(family), [row], A, B, by="head")
    neurons = lk.direct_logits(model(family), [row], A, B, by="neuron")
    for layer in range(3):
        for part, site in (("attn", "attn_out"), ("mlp", "mlp_out")):
            wanted = by_hand(family, run[site, layer][0, -1], resid)
            assert float(whole[f"{layer}.{part}"]) == pytest.approx(wanted, abs=1e-5)
        block = hf.transformer.h[layer] if family == "gpt2" else hf.model.layers[layer]
        out = block.attn.c_proj.weight if family == "gpt2" else block.self_attn.o_proj.weight.T
        down = block.mlp.c_proj.weight if family == "gpt2" else block.mlp.down_proj.weight.T
        for head in range(4):
            written = run["z", layer, head][0, -1] @ out[8 * head : 8 * (head + 1)]
            assert float(heads[f"{layer}.attn.{head}"]) == pytest.approx(by_hand(family, written, resid), abs=1e-5)
        for neuron in (0, 17, 50):
            written = run["mlp_post", layer][0, -1, neuron] * down[neuron]
            assert float(neurons[f"{layer}.mlp.{neuron}"]) == pytest.approx(by_hand(family, written, resid), abs=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_behind_a_post_norm_the_heads_of_a_layer_still_sum_to_its_attention(family: str) -> None:
    heads = lk.direct_logits(model(family), ROWS, A, B, by="head")
    whole = lk.direct_logits(model(family), ROWS, A, B)
    for layer in range(3):
        of_layer = [label for label in heads.labels if label.startswith(f"{layer}.attn.")]
        assert len(of_layer) == 5
        total = sum((heads[label] for label in of_layer), torch.zeros(2))
        torch.testing.assert_close(total, whole[f"{layer}.attn"], atol=1e-5, rtol=1e-4)


def test_one_token_alone_and_padding_on_either_side() -> None:
    parts = lk.direct_logits(model("gpt2"), ROWS, A)
    logits = [model("gpt2").run(row).logits[0, -1, A] for row in ROWS]
    torch.testing.assert_close(parts.values.sum(0), torch.stack(logits), atol=1e-5, rtol=1e-5)
    assert parts.of == "'#5'"
    with pytest.raises(IndexError, match="pos 2 does not exist: a prompt here has 2 tokens"):
        lk.direct_logits(model("gpt2"), ROWS, A, pos=2)


def test_it_prints_ranks_and_becomes_a_table_and_a_figure() -> None:
    talking = lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300))
    parts = lk.direct_logits(talking, "The capital of", "a", "b", by="component")
    assert parts.of == "'a' - 'b'"
    assert parts.top(2)[0][1] == pytest.approx(float(parts.values.abs().max()) * (1 if parts.top(1)[0][1] > 0 else -1))
    table = parts.to_pandas()
    assert list(table.columns) == ["part", "row", "logit"]
    assert float(table.logit.sum()) == pytest.approx(float(parts.logit), abs=1e-5)
    assert len(parts.figure(4).data[0].x) == 4  # pyright: ignore[reportAttributeAccessIssue]
    assert repr(parts).startswith("DirectLogits('a' - 'b': ")
    with pytest.raises(KeyError, match=r"no part '9.mlp'. Parts are: embed, 0.attn"):
        parts["9.mlp"]
    with pytest.raises(ValueError, match="'component', 'head' or 'neuron'"):
        lk.direct_logits(talking, "The", "a", by="layer")  # pyright: ignore[reportArgumentType]


def test_on_the_demo_model_the_heads_that_move_the_name_stand_out(demo: lk.Model) -> None:
    prompt = "When Mary and John went to the store, John gave a drink to"
    parts = lk.direct_logits(demo, prompt, " Mary", " John", by="head")
    assert float(parts.logit) == pytest.approx(6.1, abs=0.2)
    assert parts.error < 1e-4
    assert parts.top(1)[0][0] == "23.attn.3"
