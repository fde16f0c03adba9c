"""Tiny random models and a tokenizer made on the spot: no file, no network, a fraction of a second each.

Norm weights, biases and every other one-dimensional parameter are drawn at random, because a test on a model
whose norms are all ones and whose biases are all zeros would pass with the norm or the bias left out.
"""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import CONFIG_MAPPING as CONFIGS
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 128
HEADS = 4

# Words to learn a few merges from, so that some tokens are longer than a byte.
CORPUS = [
    "The capital of France is Paris.",
    "When Mary and John went to the store, John gave a drink to Mary.",
    "The keys to the cabinet are on the table. The key to the cabinets is there.",
    "the then them there these that this though through thought",
]


def _llama_like(layers: int, d_model: int, vocab: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": d_model,
        "vocab_size": vocab,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "head_dim": d_model // HEADS,
        "intermediate_size": 3 * d_model,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def _without(sizes: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in sizes.items() if name not in names}


def _gpt2(layers: int, d_model: int, vocab: int) -> dict[str, Any]:
    return {
        "n_layer": layers,
        "n_embd": d_model,
        "n_head": HEADS,
        "vocab_size": vocab,
        "n_positions": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _gemma2(layers: int, d_model: int, vocab: int) -> dict[str, Any]:
    # Small caps, so that soft-capping changes the numbers of a tiny model too.
    return _llama_like(layers, d_model, vocab) | {
        "tie_word_embeddings": True,
        "sliding_window": 8,
        "query_pre_attn_scalar": d_model // HEADS,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 2.0,
    }


def _granite(layers: int, d_model: int, vocab: int) -> dict[str, Any]:
    return _llama_like(layers, d_model, vocab) | {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.5,
    }


def _gpt_neox(layers: int, d_model: int, vocab: int) -> dict[str, Any]:
    return _without(_llama_like(layers, d_model, vocab), "num_key_value_heads", "head_dim")


def _phi(layers: int, d_model: int, vocab: int) -> dict[str, Any]:
    return _without(_llama_like(layers, d_model, vocab), "head_dim")


def _falcon(layers: int, d_model: int, vocab: int) -> dict[str, Any]:
    return _without(_llama_like(layers, d_model, vocab), "num_key_value_heads", "head_dim", "intermediate_size")


def _gptj(layers: int, d_model: int, vocab: int) -> dict[str, Any]:
    return _gpt2(layers, d_model, vocab) | {"rotary_dim": d_model // HEADS // 2, "tie_word_embeddings": False}


# What differs from a Llama of the same sizes; any other `model_type` of transformers gets the Llama's sizes.
SIZES: dict[str, Callable[[int, int, int], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "phi": _phi,
    "falcon": _falcon,
    "gptj": _gptj,
    "gemma2": _gemma2,
    "granite": _granite,
}


def tiny(
    architecture: str,
    seed: int = 0,
    layers: int = 3,
    d_model: int = 32,
    vocab: int = 131,
    **config: Any,
) -> PreTrainedModel:
    """A random causal LM of a transformers `model_type` ("llama", "gpt2", "gemma2", ...), in eval mode.

    Four heads (two key-value heads where the architecture has them), float32, context of 128. The same
    arguments give the same weights, and the global random state is left as it was. `config` overrides fields
    of the configuration.
    """
    sizes = SIZES.get(architecture, _llama_like)(layers, d_model, vocab)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIGS[architecture](**(sizes | config)), dtype=torch.float32)
        _make_every_parameter_matter(model)
    return model.eval()


def tiny_tokenizer(vocab: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of exactly `vocab` tokens: `<|end|>` (id 0), 256 bytes, merges.

    Any text can be encoded, and decoding gives it back. A model that reads it needs a vocabulary of at least
    `vocab`.
    """
    fewest = len(pre_tokenizers.ByteLevel.alphabet()) + 1
    if vocab < fewest:
        raise ValueError(f"a byte-level vocabulary needs at least {fewest} tokens, not {vocab}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab,
        show_progress=False,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if tokenizer.get_vocab_size() != vocab:
        raise ValueError(f"the corpus gives {tokenizer.get_vocab_size()} tokens at most, not {vocab}")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def _make_every_parameter_matter(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                centre = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
            else:
                # Far enough from zero that attention is not uniform and layers change the prediction.
                parameter.copy_(parameter.shape[-1] ** -0.5 * torch.randn_like(parameter))
