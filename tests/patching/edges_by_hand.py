"""Two-layer models written out with each reader of the residual stream apart, so that edges can be done by hand.

`read(receiver, stream, written)` gives what a receiver reads: `stream` (pos, d_model) is the sum of all that was
written so far, `written` what each sender wrote. Norms and matrix products are the model's own, all else stands here.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Read = Callable[[str, Tensor, Mapping[str, Tensor]], Tensor]
FAMILIES = ["gpt2", "llama", "gpt_neox"]


def plainly(receiver: str, stream: Tensor, written: Mapping[str, Tensor]) -> Tensor:
    """Everything reads all that was written."""
    return stream


def by_hand(hf: Any, ids: Tensor, read: Read = plainly) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits (pos, vocab) of one prompt (pos,), and what each sender wrote (pos, d_model)."""
    parts = {"gpt2": _GPT2, "llama": _Llama, "gpt_neox": _NeoX}[hf.config.model_type](hf)
    written = {"embed": parts.embed(ids)}
    stream = written["embed"]
    for layer, block in enumerate(parts.blocks):
        heads = _attention(parts, layer, block, stream, written, read)
        after = stream + sum(heads.values()) + parts.bias(block)
        seen = written if parts.parallel else written | heads
        out = parts.mlp(block, read(f"{layer}.mlp", stream if parts.parallel else after, seen))
        written |= heads | {f"{layer}.mlp": out}
        stream = after + out
    return parts.unembed(read("logits", stream, written)), written


def _attention(
    parts: Any, layer: int, block: Any, stream: Tensor, written: Mapping[str, Tensor], read: Read
) -> dict[str, Tensor]:
    """What each head writes, each of whose q, k and v is made of what it alone reads."""
    made = dict[str, list[Tensor]]()
    for name, count in (("q", parts.heads), ("k", parts.kv_heads), ("v", parts.kv_heads)):
        made[name] = [parts.qkv(block, read(f"{layer}.{h}.{name}", stream, written))[name][:, h] for h in range(count)]
    later = torch.ones(len(stream), len(stream), dtype=torch.bool).triu(1)
    out = dict[str, Tensor]()
    for h in range(parts.heads):
        group = h // (parts.heads // parts.kv_heads)
        scores = made["q"][h] @ made["k"][group].T * parts.d_head**-0.5
        z = scores.masked_fill(later, -torch.inf).softmax(-1) @ made["v"][group]
        out[f"{layer}.{h}"] = z @ parts.output(block)[h]
    return out


class _GPT2:
    parallel = False

    def __init__(self, hf: Any) -> None:
        self.hf, self.blocks = hf, hf.transformer.h
        self.heads = self.kv_heads = hf.config.n_head
        self.d_head = hf.config.n_embd // self.heads

    def embed(self, ids: Tensor) -> Tensor:
        return self.hf.transformer.wte(ids) + self.hf.transformer.wpe(torch.arange(len(ids)))

    def qkv(self, block: Any, x: Tensor) -> dict[str, Tensor]:
        parts = block.attn.c_attn(block.ln_1(x)[None])[0].chunk(3, -1)
        return {name: part.unflatten(-1, (self.heads, -1)) for name, part in zip("qkv", parts, strict=True)}

    def output(self, block: Any) -> Tensor:
        return block.attn.c_proj.weight.unflatten(0, (self.heads, -1))

    def bias(self, block: Any) -> Tensor:
        return block.attn.c_proj.bias

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        return block.mlp(block.ln_2(x)[None])[0]

    def unembed(self, x: Tensor) -> Tensor:
        return self.hf.lm_head(self.hf.transformer.ln_f(x))


class _Llama:
    parallel = False

    def __init__(self, hf: Any) -> None:
        self.hf, self.blocks = hf, hf.model.layers
        self.heads, self.kv_heads = hf.config.num_attention_heads, hf.config.num_key_value_heads
        self.d_head = hf.config.head_dim

    def embed(self, ids: Tensor) -> Tensor:
        return self.hf.model.embed_tokens(ids)

    def qkv(self, block: Any, x: Tensor) -> dict[str, Tensor]:
        attn, seen = block.self_attn, block.input_layernorm(x)
        q, k, v = (p(seen).unflatten(-1, (-1, self.d_head)) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
        q, k = _turned(self.hf, self.hf.model.rotary_emb, q, k)
        return {"q": q, "k": k, "v": v}

    def output(self, block: Any) -> Tensor:
        return block.self_attn.o_proj.weight.T.unflatten(0, (self.heads, -1))

    def bias(self, block: Any) -> float:
        return 0.0

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        return block.mlp(block.post_attention_layernorm(x))

    def unembed(self, x: Tensor) -> Tensor:
        return self.hf.lm_head(self.hf.model.norm(x))


class _NeoX:
    parallel = True

    def __init__(self, hf: Any) -> None:
        self.hf, self.blocks = hf, hf.gpt_neox.layers
        self.heads = self.kv_heads = hf.config.num_attention_heads
        self.d_head = hf.config.hidden_size // self.heads

    def embed(self, ids: Tensor) -> Tensor:
        return self.hf.gpt_neox.embed_in(ids)

    def qkv(self, block: Any, x: Tensor) -> dict[str, Tensor]:
        made = block.attention.query_key_value(block.input_layernorm(x)).unflatten(-1, (self.heads, -1))
        q, k, v = made.chunk(3, -1)
        q, k = _turned(self.hf, self.hf.gpt_neox.rotary_emb, q, k)
        return {"q": q, "k": k, "v": v}

    def output(self, block: Any) -> Tensor:
        return block.attention.dense.weight.T.unflatten(0, (self.heads, -1))

    def bias(self, block: Any) -> Tensor:
        return block.attention.dense.bias

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        return block.mlp(block.post_attention_layernorm(x))

    def unembed(self, x: Tensor) -> Tensor:
        return self.hf.lm_head(self.hf.gpt_neox.final_layer_norm(x))


def _turned(hf: Any, rotary: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The model's own rotary embedding, of queries and keys (pos, head, d_head)."""
    cos, sin = rotary(q, torch.arange(len(q))[None])
    apply = sys.modules[type(hf).__module__].apply_rotary_pos_emb
    q, k = apply(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos, sin)
    return q[0].transpose(0, 1), k[0].transpose(0, 1)
