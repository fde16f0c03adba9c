"""Five architectures computed by hand, tensor by tensor, so that what lenskit reads and writes can be compared.

Only matrix products, norms and rotary embeddings are the model's own; the order of things, the attention and the sums
are written out here. `touch(site, layer, tensor)` is called at every site, in the shapes of `lk.Site`, and what it
returns is what the forward goes on with.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Touch = Callable[[str, int | None, Tensor], Tensor]
FAMILIES = ["llama", "gpt2", "gemma2", "gpt_neox", "granite"]


def by_hand(hf: Any, ids: Tensor, touch: Touch = lambda site, layer, x: x) -> Tensor:
    """The logits (batch, pos, vocab) of unpadded prompts."""
    kind = hf.config.model_type
    if kind == "gpt2":
        return _gpt2(hf, ids, touch)
    if kind == "gpt_neox":
        return _gpt_neox(hf, ids, touch)
    return _llama_like(hf, ids, touch)


def _llama_like(hf: Any, ids: Tensor, touch: Touch) -> Tensor:
    config, model, gemma = hf.config, hf.model, hf.config.model_type == "gemma2"
    times = getattr(config, "residual_multiplier", 1.0)
    x = touch("embed", None, model.embed_tokens(ids)) * getattr(config, "embedding_multiplier", 1.0)
    turn = _rotary(hf, model.rotary_emb, x)
    for layer, block in enumerate(model.layers):
        attn, mlp = block.self_attn, block.mlp
        x = touch("resid_pre", layer, x)
        read = touch("attn_in", layer, block.input_layernorm(x))
        q, k, v = (_split(proj(read), attn.head_dim) for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
        q, k = turn(q, k)
        out = attn.o_proj(
            _attention(layer, q, k, v, attn.scaling, touch, getattr(attn, "attn_logit_softcapping", None))
        )
        out = block.post_attention_layernorm(out) if gemma else out
        x = touch("resid_mid", layer, x + touch("attn_out", layer, out * times))
        read = touch("mlp_in", layer, (block.pre_feedforward_layernorm if gemma else block.post_attention_layernorm)(x))
        active = mlp.act_fn(touch("mlp_pre", layer, mlp.gate_proj(read)))
        out = mlp.down_proj(touch("mlp_post", layer, active * mlp.up_proj(read)))
        out = block.post_feedforward_layernorm(out) if gemma else out
        x = touch("resid_post", layer, x + touch("mlp_out", layer, out * times))
    logits = hf.lm_head(touch("final_norm", None, model.norm(x))) / getattr(config, "logits_scaling", 1.0)
    if gemma:
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return touch("logits", None, logits)


def _gpt2(hf: Any, ids: Tensor, touch: Touch) -> Tensor:
    model = hf.transformer
    positions = model.wpe(torch.arange(ids.shape[1])).expand(len(ids), -1, -1)
    x = touch("embed", None, model.wte(ids)) + touch("pos_embed", None, positions)
    for layer, block in enumerate(model.h):
        attn, mlp = block.attn, block.mlp
        x = touch("resid_pre", layer, x)
        read = touch("attn_in", layer, block.ln_1(x))
        q, k, v = (_split(part, attn.head_dim) for part in attn.c_attn(read).chunk(3, -1))
        out = attn.c_proj(_attention(layer, q, k, v, attn.head_dim**-0.5, touch))
        x = touch("resid_mid", layer, x + touch("attn_out", layer, out))
        read = touch("mlp_in", layer, block.ln_2(x))
        out = mlp.c_proj(touch("mlp_post", layer, mlp.act(touch("mlp_pre", layer, mlp.c_fc(read)))))
        x = touch("resid_post", layer, x + touch("mlp_out", layer, out))
    return touch("logits", None, hf.lm_head(touch("final_norm", None, model.ln_f(x))))


def _gpt_neox(hf: Any, ids: Tensor, touch: Touch) -> Tensor:
    model = hf.gpt_neox
    x = touch("embed", None, model.embed_in(ids))
    turn = _rotary(hf, model.rotary_emb, x)
    for layer, block in enumerate(model.layers):
        attn, mlp = block.attention, block.mlp
        x = touch("resid_pre", layer, x)
        heads = _split(attn.query_key_value(touch("attn_in", layer, block.input_layernorm(x))), 3 * attn.head_size)
        q, k, v = heads.chunk(3, -1)
        q, k = turn(q, k)
        attn_out = touch("attn_out", layer, attn.dense(_attention(layer, q, k, v, attn.scaling, touch)))
        read = touch("mlp_in", layer, block.post_attention_layernorm(x))
        active = touch("mlp_post", layer, mlp.act(touch("mlp_pre", layer, mlp.dense_h_to_4h(read))))
        x = touch("resid_post", layer, x + attn_out + touch("mlp_out", layer, mlp.dense_4h_to_h(active)))
    return touch("logits", None, hf.lm_head(touch("final_norm", None, model.final_layer_norm(x))))


def _split(x: Tensor, d_head: int) -> Tensor:
    """(batch, pos, head, d_head)."""
    return x.reshape(*x.shape[:2], -1, d_head)


def _rotary(hf: Any, rotary: Any, x: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The model's own rotary embedding, of queries and keys (batch, pos, head, d_head)."""
    cos, sin = rotary(x, torch.arange(x.shape[1])[None])
    apply = sys.modules[type(hf).__module__].apply_rotary_pos_emb

    def turn(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q, k = apply(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
        return q.transpose(1, 2), k.transpose(1, 2)

    return turn


def _attention(
    layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, touch: Touch, softcap: float | None = None
) -> Tensor:
    """What the output projection reads, (batch, pos, head * d_head)."""
    q, k, v = touch("q", layer, q), touch("k", layer, k), touch("v", layer, v)
    group = q.shape[2] // k.shape[2]
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k.repeat_interleave(group, 2)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    scores = touch("scores", layer, scores.masked_fill(later, -torch.inf))
    pattern = touch("pattern", layer, scores.softmax(-1))
    z = torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(group, 2))
    return touch("z", layer, z).flatten(-2)
