"""Writes a tiny model to a GGUF file as llama.cpp lays it out, with nothing of lenskit's reader."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

LLAMA = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2 = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    pre: str = "gpt-2",
    architecture: str | None = None,
    quantised: GGMLQuantizationType = GGMLQuantizationType.F32,
    settings: dict[str, float | str] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    without: str | None = None,
    add_bos: bool | None = None,
    types: dict[str, TokenType] | None = None,
) -> Path:
    """The file at `path`: `settings` (over its own) and `tensors` are added, the tensor `without` is left out."""
    config = model.config
    architecture = architecture or config.model_type
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.model_type == "llama":
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_vocab_size(config.vocab_size)
    if config.model_type == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    for name, value in (settings or {}).items():
        if isinstance(value, str):
            writer.add_string(f"{architecture}.{name}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"{architecture}.{name}", value)
        else:
            writer.add_float32(f"{architecture}.{name}", value)
    _write_tokenizer(writer, tokenizer, pre, add_bos, types or {})

    for name, weight in model.state_dict().items():
        module, kind = name.rsplit(".", 1)
        if module == "lm_head" and config.tie_word_embeddings:
            continue
        gguf_name = f"{_gguf_name(module)}.{kind}"
        if gguf_name != without:
            _write_tensor(writer, gguf_name, _in_gguf_order(module, weight, config), quantised)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(module: str) -> str:
    names = LLAMA | GPT2
    if module in names:
        return names[module]
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{names[part]}"


def _in_gguf_order(module: str, weight: Tensor, config: Any) -> np.ndarray:
    """As GGUF has it: in a Llama, rows 2i and 2i + 1 of a query or key head turn together; here rows i and i + half.

    And GPT-2's matrices are input by output here, and output by input there.
    """
    array = weight.detach().numpy()
    if config.model_type == "gpt2" and ".c_" in module and array.ndim == 2:
        return np.ascontiguousarray(array.T)
    if config.model_type != "llama":
        return array
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(module.rsplit(".", 1)[-1])
    if heads is None:
        return array
    head_dim = array.shape[0] // getattr(config, heads)
    reordered = np.empty_like(array)
    for row in range(array.shape[0]):
        head, within = divmod(row, head_dim)
        half, pair = divmod(within, head_dim // 2)
        reordered[head * head_dim + 2 * pair + half] = array[row]
    return reordered


def _write_tensor(writer: GGUFWriter, name: str, array: np.ndarray, quantised: GGMLQuantizationType) -> None:
    if array.ndim == 1 or quantised == GGMLQuantizationType.F32:
        writer.add_tensor(name, array)
    else:
        writer.add_tensor(name, quants.quantize(array, quantised), raw_dtype=quantised)


def _write_tokenizer(
    writer: GGUFWriter,
    tokenizer: PreTrainedTokenizerFast,
    pre: str,
    add_bos: bool | None,
    types: dict[str, TokenType],
) -> None:
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    kinds = {"<|end|>": TokenType.CONTROL} | types
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, TokenType.NORMAL) for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    if add_bos is not None:
        writer.add_bos_token_id(0)
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
