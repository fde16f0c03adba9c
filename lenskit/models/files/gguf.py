"""A `.gguf` file as a Hugging Face model and tokenizer, or a refusal.

transformers reads the weights. It does so quietly: a tensor or a setting it has no place for (Llama 3's
`rope_freqs`, a scaled rotary embedding) is left out, and the model then computes something else. So what it
made is held against the file here: each setting of the file must be found in the configuration, and each
number in the weights.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedModel

from lenskit.models.files.gguf_tokenizer import gguf_tokenizer
from lenskit.models.files.load_error import LoadError

# Those whose files come out exactly, as the tests show on files written from a known model. Others are not safe: a
# file of Gemma 2, say, does not tell how its attention is scaled, and transformers takes one scale for every size.
ARCHITECTURES = ("gpt2", "llama", "qwen2", "qwen3")

REMEDY = "Load this model from the hub or from a folder of safetensors instead."

# What the settings in a GGUF file are called in the configurations of transformers.
SETTINGS: dict[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon",),
    "rope.dimension_count": ("head_dim",),
    "rope.freq_base": ("rope_theta",),
}


def load_gguf(
    path: Path, tokenizer: Any | None, dtype: torch.dtype | str, options: dict[str, Any]
) -> tuple[PreTrainedModel, Any]:
    """The model in a GGUF file, dequantised, and its tokenizer (the one given, or else the one in the file).

    `options` go to transformers' `from_pretrained`. Raises `LoadError` where the file is not a model that is read
    exactly: an architecture, a setting, a tensor or a tokenizer that is not known.
    """
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError) as error:  # IndexError: the file ends too early
        raise LoadError(f"{path} is not a whole GGUF file: {error}.") from error
    field = reader.get_field("general.architecture")
    architecture = field.contents() if field is not None else None
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise LoadError(f"{path.name} is of the architecture {architecture!r}; {known} are read exactly. {REMEDY}")
    if tokenizer is None:
        tokenizer = gguf_tokenizer(reader)
    # `dequantize`: otherwise it may leave packed layers in the model, and fetch a kernel for them from the
    # hub.
    options = {"quantization_config": GgufConfig(dequantize=True), **options}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=dtype,
            output_loading_info=True,
            local_files_only=True,
            **options,
        )
    except (ValueError, KeyError, RuntimeError, ImportError) as error:
        raise LoadError(f"transformers cannot read {path.name}: {error}. {REMEDY}") from error
    model, report = loaded
    wrong = [*_wrong_weights(reader, model, report["missing_keys"]), *_wrong_settings(reader, model.config)]
    if wrong:
        raise LoadError(f"{path.name} was not read exactly, so it is refused. {'; '.join(wrong)}. {REMEDY}")
    return model, tokenizer


def _wrong_weights(reader: GGUFReader, model: PreTrainedModel, missing: set[str]) -> Iterator[str]:
    if missing:
        yield f"weights not in the file: {', '.join(sorted(missing))}"
    there = sum(tensor.n_elements for tensor in reader.tensors)
    used = sum(parameter.numel() for parameter in model.parameters())
    if there != used:
        outside = [tensor.name for tensor in reader.tensors if not tensor.name.startswith("blk.")]
        yield f"the file has {there:,} numbers, the model {used:,} (outside the blocks: {', '.join(outside)})"


def _wrong_settings(reader: GGUFReader, config: Any) -> Iterator[str]:
    prefix = f"{reader.fields['general.architecture'].contents()}."
    for name, field in reader.fields.items():
        if not name.startswith(prefix):
            continue
        setting, value = name.removeprefix(prefix), field.contents()
        if setting == "rope.scaling.type" and value == "none":
            continue
        if setting not in SETTINGS:
            yield f"{name} = {value!r} is not known here"
        elif not _same(made := _setting(config, SETTINGS[setting]), value):
            yield f"{name} = {value!r} became {made!r}"


def _setting(config: Any, names: tuple[str, ...]) -> Any:
    rope = getattr(config, "rope_parameters", None) or {}
    found = [getattr(config, name, None) or rope.get(name) for name in names]
    known = next((value for value in found if value is not None), None)
    if known is None and "head_dim" in names:
        return config.hidden_size // config.num_attention_heads
    if known is None and "n_inner" in names:  # GPT-2's configuration: None stands for four times the width
        return 4 * config.hidden_size
    return known


def _same(made: Any, value: Any) -> bool:
    if isinstance(value, float) and isinstance(made, int | float):
        return abs(made - value) <= 1e-6 * abs(value)  # the file keeps single precision
    return made == value
