"""Every architecture: what lenskit offers of a model is what the model computes, and the rest has a reason.

By default a sample; all of them with LENSKIT_ALL_ARCHITECTURES=1 (`make test-all`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

import lenskit as lk
from lenskit.models.running.attention_ops import listened_to
from lenskit.models.sites import LAYERED, NAMES
from tests.models.architectures import DECODERS, build
from tests.models.survey import EVERYTHING, STREAM, survey, table

# One or two of each kind: plain; with learned positions; soft-capped; norms after; residual multipliers; sliding
# windows; mixtures of experts; attention sinks; parallel residuals; attention written out, with many heads or one for
# all keys; latent attention; gated and hybrid; a state space; shared layers; the stream itself normed; several streams.
SAMPLE = [
    *("llama", "gpt2", "gemma2", "olmo2", "granite", "mistral", "mixtral", "gpt_oss", "cohere", "gptj", "bloom"),
    *("falcon", "gpt_bigcode", "opt", "deepseek_v3", "qwen3_next", "jamba", "zamba2", "bert", "gemma3n_text"),
]
ALL = bool(os.environ.get("LENSKIT_ALL_ARCHITECTURES"))
README = Path(__file__).parents[2] / "README.md"
HEADED = {"q": 4, "k": 4, "v": 4, "z": 4, "scores": 4, "pattern": 4}


def ids(rows: int = 2, length: int = 12) -> Tensor:
    return torch.randint(3, 150, (rows, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("model_type", DECODERS if ALL else SAMPLE)
def test_what_is_offered_is_what_the_model_computes(model_type: str) -> None:
    found = survey(model_type)
    assert found.check.passed, found.check


@pytest.mark.parametrize("model_type", DECODERS if ALL else SAMPLE)
def test_every_offered_site_has_its_shape_and_leaves_the_logits(model_type: str) -> None:
    model, tokens = lk.Model(build(model_type)), ids()
    forwards = {module: module.__dict__.get("forward") for module in model.hf_model.modules()}
    registry = dict(AttentionInterface._global_mapping)
    sites = [(name, layer) for name in LAYERED for layer in model.anatomy.layers_of(name)]
    run = model.run(tokens, keep=[*sites, *(name for name in ("embed", "pos_embed") if name in model.sites)])
    with torch.no_grad():
        assert torch.equal(run.logits, model.hf_model(input_ids=tokens).logits)
    for name, layer in sites:
        value = run[name, layer]
        if name in ("scores", "pattern"):
            assert value.shape[0] == 2
            assert value.shape[2:] == (12, 12)
        else:
            assert value.shape[:2] == (2, 12), name
        assert value.dim() == HEADED.get(name, 3), name
        assert not value.isnan().any(), name
        assert name == "scores" or value.isfinite().all(), name
    assert dict(AttentionInterface._global_mapping) == registry
    assert not listened_to()
    for module, forward in forwards.items():
        assert module.__dict__.get("forward") is forward
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("model_type", SAMPLE)
def test_what_is_not_offered_is_refused_with_a_reason(model_type: str) -> None:
    model = lk.Model(build(model_type))
    for name in NAMES:
        if name in model.sites:
            continue
        reason = model.sites.reasons[name]
        assert reason
        assert len(reason) > 20
        if name in LAYERED:
            for layer in set(range(model.n_layers)) - set(model.anatomy.layers_of(name)):
                with pytest.raises(lk.SiteUnavailable, match=name):
                    model.run(ids(), keep=(name, layer))


@pytest.mark.skipif(not ALL, reason="needs every architecture: make test-all")
def test_so_many_architectures_and_the_table_in_the_readme() -> None:
    surveys = [survey(model_type) for model_type in DECODERS]
    assert sum(each.streams for each in surveys) >= 140
    assert sum(each.complete_where_it_attends for each in surveys) >= 110
    assert table(surveys) in README.read_text()


def test_a_hybrid_has_attention_in_some_layers() -> None:
    model = lk.Model(build("jamba"))
    (layer,) = model.anatomy.layers_of("pattern")
    assert f"in layers {layer} only" in repr(model.sites)
    assert model.run(ids(), keep=("pattern", layer))["pattern", layer].shape == (2, 4, 12, 12)
    with pytest.raises(lk.SiteUnavailable, match=r"no softmax attention"):
        model.run(ids(), keep="pattern")


# Against transformers itself, and against arithmetic of our own

WITH_WEIGHTS = ["llama", "gpt2", "gemma2", "olmo2", "mistral", "mixtral", "phi", "gpt_oss", "deepseek_v3", "qwen3"]
WRITTEN_OUT = ["bloom", "codegen", "gpt_neo", "gpt_neox_japanese", "gptj", "megatron-bert", "mpt", "xglm"]


@pytest.mark.parametrize("model_type", WITH_WEIGHTS + WRITTEN_OUT)
def test_patterns_are_those_that_transformers_returns(model_type: str) -> None:
    twin = build(model_type)
    if model_type in WITH_WEIGHTS:
        twin.set_attn_implementation("eager")
    with torch.no_grad():
        out = twin(input_ids=ids(), output_attentions=True, use_cache=False)
    run = lk.Model(build(model_type)).run(ids(), keep="pattern")
    for layer, expected in enumerate(out.attentions):
        torch.testing.assert_close(run["pattern", layer], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("model_type", [*WRITTEN_OUT, "opt", "jamba", "llama4", "deepseek_v3"])
def test_residuals_are_those_that_transformers_returns(model_type: str) -> None:
    with torch.no_grad():
        hidden = build(model_type)(input_ids=ids(), output_hidden_states=True).hidden_states
    run = lk.Model(build(model_type)).run(ids(), keep="resid_pre")
    for layer, value in enumerate(run["resid_pre"]):
        assert torch.equal(value, hidden[layer])


@pytest.mark.parametrize("model_type", ["gptj", "bloom", "falcon", "llama", "opt"])
def test_keys_and_values_are_those_in_the_cache(model_type: str) -> None:
    with torch.no_grad():
        cache = build(model_type)(input_ids=ids(), use_cache=True).past_key_values
    run = lk.Model(build(model_type)).run(ids(), keep=["k", "v"])
    for layer in range(3):
        kept = cache.layers[layer]
        for name, value in (("k", kept.keys), ("v", kept.values)):
            assert torch.equal(run[name, layer].transpose(1, 2).reshape(value.shape), value)


def attention_of_llama(block: Any, x: Tensor) -> dict[str, Tensor]:
    """One attention of the Llama family in double precision, of the weights alone."""
    attn = block.self_attn.double()
    length, half = x.shape[1], attn.head_dim // 2
    angles = torch.arange(length).double()[:, None] * 10000.0 ** -(torch.arange(half).double() / half)
    cos, sin = angles.cos().repeat(1, 2)[:, None], angles.sin().repeat(1, 2)[:, None]

    def turned(state: Tensor) -> Tensor:
        return state * cos + torch.cat([-state[..., half:], state[..., :half]], -1) * sin

    q, k, v = (
        (x @ projection.weight.T).unflatten(-1, (-1, attn.head_dim))
        for projection in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    return finished(turned(q), turned(k), v, torch.zeros(()), attn.o_proj.weight, None)


def attention_of_gpt2(block: Any, x: Tensor) -> dict[str, Tensor]:
    attn = block.attn.double()
    q, k, v = (x @ attn.c_attn.weight + attn.c_attn.bias).unflatten(-1, (3, 4, -1)).unbind(2)
    return finished(q, k, v, torch.zeros(()), attn.c_proj.weight.T, attn.c_proj.bias)


def attention_of_bloom(block: Any, x: Tensor) -> dict[str, Tensor]:
    """Biased by distance: head h of 4 by a slope of 2 ** -(2 h + 2)."""
    attn = block.self_attention.double()
    qkv = x @ attn.query_key_value.weight.T + attn.query_key_value.bias
    q, k, v = qkv.unflatten(-1, (4, 3, -1)).unbind(3)
    slopes = 2.0 ** -(2 * torch.arange(4).double() + 2)
    bias = slopes[:, None, None] * torch.arange(x.shape[1]).double()
    return finished(q, k, v, bias, attn.dense.weight, attn.dense.bias)


def finished(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, matrix: Tensor, b: Tensor | None) -> dict[str, Tensor]:
    shared = q.shape[2] // k.shape[2]
    keys, values = k.repeat_interleave(shared, 2), v.repeat_interleave(shared, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) * q.shape[-1] ** -0.5 + bias
    later = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
    scores = scores.masked_fill(later, -torch.inf)
    pattern = scores.softmax(-1)
    z = torch.einsum("bhqk,bkhd->bqhd", pattern, values)
    out = z.flatten(2) @ matrix.T + (0 if b is None else b)
    return {"q": q, "k": k, "v": v, "scores": scores, "pattern": pattern, "z": z, "attn_out": out}


@pytest.mark.parametrize(
    ("model_type", "attend"),
    [("llama", attention_of_llama), ("gpt2", attention_of_gpt2), ("bloom", attention_of_bloom)],
)
def test_attention_is_what_arithmetic_in_double_precision_gives(
    model_type: str, attend: Callable[[Any, Tensor], dict[str, Tensor]]
) -> None:
    names = ["attn_in", *EVERYTHING[:-1]]
    model = lk.Model(build(model_type))
    run, twin = model.run(ids(), keep=names), lk.Model(build(model_type))
    for layer, block in enumerate(twin.anatomy.blocks):
        with torch.no_grad():
            expected = attend(block, run["attn_in", layer].double())
        for name, value in expected.items():
            torch.testing.assert_close(run[name, layer].double(), value, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", [*WRITTEN_OUT, "falcon", "llama"])
@pytest.mark.parametrize("site", ["q", "k", "v", "scores", "pattern", "z"])
def test_an_edit_while_generating_is_the_edit_of_the_whole_text(model_type: str, site: str) -> None:
    model = lk.Model(build(model_type))
    edit = lk.Call(site, lambda tensor: tensor * 1.5, layers=1)
    made = model.generate(ids(1), max_new_tokens=4, min_new_tokens=4, edits=edit).tokens
    whole = model.run(made, edits=edit).logits
    assert whole[0, 11:-1].argmax(-1).tolist() == made[0, 12:].tolist()


def test_streams_are_the_sites_that_count() -> None:
    assert set(STREAM) | set(EVERYTHING) <= set(NAMES)
