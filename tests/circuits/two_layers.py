"""A model of two layers made by hand, in which every path and what it gives is known."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lenskit as lk
from lenskit.transcoders.activations import ReLU


def two_layers(bias: float = 0.0) -> tuple[lk.Model, list[lk.Transcoder]]:
    """Two layers, four dimensions, all heads looking everywhere alike.

    Token 1 is twice dimension 0, and token 2 twice dimension 1. Head 0 of layer 0 brings dimension 0, doubled, to
    dimension 2; feature 0 of layer 0 reads dimensions 1 and 2 and writes dimension 3; head 1 of layer 1 brings
    dimension 3, tripled, to dimension 0; feature 1 of layer 1 reads dimensions 0 and 2, and has a bias. All else is
    zero. The dictionaries are the MLPs themselves, which are a ReLU between two matrices.
    """
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=4,
        intermediate_size=2,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        hidden_act="relu",
        mlp_bias=True,
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf: Any = LlamaForCausalLM(config).eval()
    # What is where is found by value, so before there are so many zeros.
    model = lk.Model(hf)
    assert model.weights.found.parts.layers
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        hf.model.embed_tokens.weight[1, 0] = hf.model.embed_tokens.weight[2, 1] = 2
        first, second = hf.model.layers
        first.self_attn.v_proj.weight[0, 0], first.self_attn.o_proj.weight[2, 0] = 1, 2
        second.self_attn.v_proj.weight[2, 3], second.self_attn.o_proj.weight[0, 2] = 1, 3
        for layer in (first, second):
            layer.mlp.up_proj.bias.fill_(1)
        first.mlp.gate_proj.weight[0] = torch.tensor([0, 0.5**0.5, 2**0.5, 0])
        first.mlp.gate_proj.bias[0], first.mlp.down_proj.weight[3, 0] = 0.5, 1
        second.mlp.gate_proj.weight[1] = torch.tensor([1, 0, 0.5, 0])
        second.mlp.gate_proj.bias[1], second.mlp.down_proj.weight[1, 1] = bias, 1
    made = [
        lk.Transcoder(
            block.mlp.gate_proj.weight.detach(),
            block.mlp.gate_proj.bias.detach(),
            block.mlp.down_proj.weight.detach().T,
            None,
            ReLU(),
            reads=("mlp_in", layer),
            writes=("mlp_out", layer),
        )
        for layer, block in enumerate(hf.model.layers)
    ]
    return model, made


# At position 1 the stream after attention is (0, 2, 2, 0), and what is divided by sqrt(2); so feature 0 is 1 + 2 + 0.5.
# Then it is (0, 2, 2, 3.5), and what is divided by sqrt(20.25 / 4). At position 0 it is (2, 0, 4, 0) and sqrt(5).
EARLY = {1: 3.5, 0: 2**0.5 * 4 / 5**0.5 + 0.5}
"""What feature 0 of layer 0 writes, by position."""
DIVIDED = {1: 2.25, 0: ((4 + 16 + EARLY[0] ** 2) / 4) ** 0.5}
"""What the norm before layer 1 divides by."""
BROUGHT = {pos: 3 * 0.5 * EARLY[pos] / DIVIDED[pos] for pos in (0, 1)}
"""What head 1 of layer 1 brings from each position to position 1."""
LAST = ((sum(BROUGHT.values()) ** 2 + 2**2 + 2**2 + 3.5**2) / 4) ** 0.5
"""What the norm before the MLP of layer 1 divides by at position 1."""
VALUE = (sum(BROUGHT.values()) + 0.5 * 2) / LAST
"""Feature 1 of layer 1 at position 1, but for its bias."""
