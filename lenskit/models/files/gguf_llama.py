"""The weights of a Llama in a GGUF file, as Hugging Face has them: dequantised, and their rows in its order.

This is what the demo model is made with. It is three times quicker than transformers' reader, which
`lenskit.load` uses for other files, and gives the same numbers bit for bit; it does plain Llamas only, and
refuses the rest.
"""

import re
from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGUFReader
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lenskit.models.files.load_error import LoadError

OUTSIDE_BLOCKS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def gguf_llama(reader: GGUFReader) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """The configuration and the float32 weights of the Llama in a GGUF file, under their Hugging Face names.

    A tied output matrix is not among the weights a second time. Raises `LoadError` if the file holds anything
    else than a plain Llama, whole.
    """
    config = _config(reader)
    weights = dict(_weights(reader, config))
    with torch.device("meta"):  # names and shapes, and no memory
        wanted = {name: parameter.shape for name, parameter in LlamaForCausalLM(config).named_parameters()}
    found = {name: weight.shape for name, weight in weights.items()}
    if wrong := sorted(name for name, _ in wanted.items() ^ found.items()):
        raise LoadError(f"The tensors of this GGUF file are not those of a plain Llama: {', '.join(wrong)}.")
    return config, weights


def _config(reader: GGUFReader) -> LlamaConfig:
    def value(name: str) -> Any:
        field = reader.get_field(name)
        if field is None:
            raise LoadError(f"This GGUF file has no {name}.")
        return field.contents()

    architecture = reader.get_field("general.architecture")
    if architecture is None or architecture.contents() != "llama":
        raise LoadError(f"Not a Llama: the architecture is {architecture and architecture.contents()!r}.")
    if scaled := [name for name in reader.fields if name.startswith("llama.rope.scaling.")]:
        raise LoadError(f"A scaled rotary embedding is not read here: {', '.join(scaled)}.")
    special = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    fields = {name: reader.get_field(f"tokenizer.ggml.{key}_token_id") for name, key in special.items()}
    # None where the file has no such token: Llama's own numbers would be taken otherwise.
    ids: dict[str, Any] = {name: field and field.contents() for name, field in fields.items()}
    return LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=value("llama.attention.head_count"),
        num_key_value_heads=value("llama.attention.head_count_kv"),
        head_dim=value("llama.rope.dimension_count"),
        max_position_embeddings=value("llama.context_length"),
        # Stored in single precision, where 1e-5 is 9.99999975e-6; written back as the decimal that was meant.
        rms_norm_eps=float(str(np.float32(value("llama.attention.layer_norm_rms_epsilon")))),
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base")},
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        dtype=torch.float32,
        architectures=[LlamaForCausalLM.__name__],
        **ids,
    )


def _weights(reader: GGUFReader, config: LlamaConfig) -> Iterator[tuple[str, Tensor]]:
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if ".attn_q." in tensor.name:
            weight = _halves(weight, config.num_attention_heads)
        elif ".attn_k." in tensor.name:
            weight = _halves(weight, config.num_key_value_heads or config.num_attention_heads)
        yield _hugging_face_name(tensor.name), torch.from_numpy(np.array(weight, order="C"))


def _hugging_face_name(name: str) -> str:
    if name in OUTSIDE_BLOCKS:
        return OUTSIDE_BLOCKS[name]
    parts = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if parts is None or parts[2] not in IN_BLOCK:
        raise LoadError(f"A plain Llama has no tensor {name!r}, but this GGUF file does.")
    return f"model.layers.{parts[1]}.{IN_BLOCK[parts[2]]}.weight"


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """From GGUF's order of rows, where 2i and 2i + 1 turn together, to that where i and i + half do."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
