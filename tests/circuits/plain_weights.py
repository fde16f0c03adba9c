"""Weights of tiny models, by hand from their modules in float64, and what features say to each other through them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lenskit.models.model import Model
from lenskit.models.sites import SiteLike
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import HEADS, tiny, tiny_tokenizer
from tests.transcoders.made_up import numbers

D, VOCAB, SIZE = 32, 300, 32 // HEADS
ARCHITECTURES = ("gpt2", "llama", "gemma2", "gpt_neox")
LAYER_NORMS = ("gpt2", "gpt_neox")


def model(architecture: str) -> Model:
    return Model(tiny(architecture, layers=3, vocab=VOCAB), tiny_tokenizer(VOCAB), name=f"tiny {architecture}")


def dictionary(
    layer: int, features: int = 24, *, reads: SiteLike | None = None, writes: Any = None, seed: int = 0, **more: Any
) -> Transcoder:
    """A random transcoder of a layer's MLP."""
    writes = writes or [("mlp_out", layer)]
    return Transcoder(
        numbers(features, D, seed=seed + layer) / D**0.5,
        numbers(features, seed=seed + layer + 1) / 4,
        numbers(len(writes), features, D, seed=seed + layer + 2),
        numbers(len(writes), D, seed=seed + layer + 3),
        TopK(6),
        reads=reads or ("mlp_in", layer),
        writes=writes,
        **more,
    )


def blocks(m: Model) -> Any:
    hf: Any = m.hf_model
    if hasattr(hf, "transformer"):
        return hf.transformer.h
    return hf.gpt_neox.layers if hasattr(hf, "gpt_neox") else hf.model.layers


def embeddings(m: Model) -> Tensor:
    """(vocab, d_model): as they stand in the residual stream."""
    weight = m.hf_model.get_input_embeddings().weight.detach().double()
    return weight * D**0.5 if "gemma2" in m.name else weight


def norm(m: Model, layer: int, name: str) -> Any:
    """The module of the norm before `attn_in` or `mlp_in`."""
    block = blocks(m)[layer]
    if "gpt2" in m.name:
        return block.ln_1 if name == "attn_in" else block.ln_2
    if name == "attn_in":
        return block.input_layernorm
    return block.pre_feedforward_layernorm if "gemma2" in m.name else block.post_attention_layernorm


def gain(m: Model, module: Any) -> Tensor:
    weight = module.weight.detach().double()
    return 1 + weight if "gemma2" in m.name else weight


def linear(m: Model, layer: int, name: str) -> Tensor:
    """(d, d): a norm as a matrix from the right, if it divides by 1."""
    taken_off = torch.eye(D, dtype=torch.float64)
    if any(name in m.name for name in LAYER_NORMS):
        taken_off = taken_off - 1 / D
    return taken_off @ torch.diag(gain(m, norm(m, layer, name)))


def head(m: Model, layer: int, number: int) -> Tensor:
    """(d, d): from what attention reads at a token to what one head writes of it, with the norm behind, as a matrix."""
    block, own = blocks(m)[layer], slice(number * SIZE, (number + 1) * SIZE)
    if "gpt2" in m.name:
        values = block.attn.c_attn.weight.double()[:, 2 * D :][:, own]
        return (values @ block.attn.c_proj.weight.double()[own]).detach()
    if "gpt_neox" in m.name:
        values = block.attention.query_key_value.weight.double().view(HEADS, 3, SIZE, D)[number, 2].T
        return (values @ block.attention.dense.weight.double()[:, own].T).detach()
    shared = slice(number // 2 * SIZE, (number // 2 + 1) * SIZE)  # two query heads share one of keys and values
    values = block.self_attn.v_proj.weight.double()[shared].T
    written = (values @ block.self_attn.o_proj.weight.double()[:, own].T).detach()
    return written * gain(m, block.post_attention_layernorm) if "gemma2" in m.name else written


def way(m: Model, reads_layer: int, through: tuple[int, int] | None) -> Tensor:
    """(d, d): from what is written to the residual stream to what an MLP reads, directly or through a head."""
    end = linear(m, reads_layer, "mlp_in")
    return end if through is None else linear(m, through[0], "attn_in") @ head(m, *through) @ end


def pairs(m: Model, a: Transcoder, b: Transcoder, through: tuple[int, int] | None) -> Tensor:
    """(feature of a, feature of b): every connection, one after another."""
    assert b.reads.layer is not None
    between, found = way(m, b.reads.layer, through), torch.zeros(a.n_features, b.n_features, dtype=torch.float64)
    for source in range(a.n_features):
        arriving = a.W_dec[0, source].double() @ between
        for target in range(b.n_features):
            found[source, target] = torch.dot(arriving, b.W_enc[target].double())
    return found
