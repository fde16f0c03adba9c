"""A tiny random model of every causal language model that transformers knows: no file, no network.

    model = build("olmoe")
    logits = model(input_ids=torch.randint(3, 150, (1, 12))).logits

The sizes are in `tests.models.architecture_sizes`. Models that read images or sound are built with those parts, tiny
too, and read text alone.
"""

from dataclasses import fields
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.models.architecture_sizes import BOTH_STACKS, EXCEPTIONS, EXCLUDED, HEADS, LAYER_COUNTS, LAYERS, SMALL

__all__ = ["DECODERS", "EXCLUDED", "TYPES", "build", "tiny_config"]

TYPES: list[str] = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
DECODERS: list[str] = [name for name in TYPES if name not in EXCLUDED]

MOST_PARAMETERS = 30_000_000


def build(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A random causal LM of a transformers `model_type`, in eval mode: float32, 3 layers or a few more, 4 heads.

    The same seed gives the same weights, and the global random state is left as it was. Tokens from 3 to 149 are
    ordinary ones.
    """
    config = tiny_config(model_type)
    with torch.random.fork_rng(devices=[]):
        # On the meta device first: a size that the tables missed shows here, before it takes the machine's memory.
        with torch.device("meta"):
            parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if parameters > MOST_PARAMETERS:
            raise ValueError(f"{model_type} would have {parameters:,} parameters: a size is missing from the tables")
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _make_every_parameter_matter(model)
    return model.eval()


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The configuration that `build` uses."""
    config_class = CONFIG_MAPPING[model_type]
    return config_class(**_small_fields(config_class, EXCEPTIONS.get(model_type, {})))


def _small_fields(config_class: type[PreTrainedConfig], exceptions: dict[str, Any]) -> dict[str, Any]:
    default = config_class()
    parts = {name: part for name in default.sub_configs if (part := getattr(default, name, None)) is not None}
    values = {name: value for name, value in default.to_dict().items() if value is not None and name not in parts}
    small: dict[str, Any] = {}
    # Only declared fields: the other values are worked out from them, and would be overruled.
    for field in fields(config_class):
        stored_as = config_class.attribute_map.get(field.name, field.name)
        for name in (stored_as, field.name):
            if stored_as in values and name in SMALL:
                small[field.name] = SMALL[name]
    if "qk_rope_head_dim" in small:
        # Latent attention calls the rotated part of a head its head dimension, and has as many keys as queries.
        small |= {"head_dim": small["qk_rope_head_dim"]} if "head_dim" in small else {}
        small |= {"num_key_value_heads": HEADS} if "num_key_value_heads" in small else {}
    small |= _few_layers(values)
    small |= {name: _small_fields(type(part), exceptions.get(name, {})) for name, part in parts.items()}
    return small | {name: value for name, value in exceptions.items() if name not in parts}


def _few_layers(values: dict[str, Any]) -> dict[str, Any]:
    """Lists with an entry per layer, cut to the first layers that together show every kind of each list."""
    count_name = next((name for name in LAYER_COUNTS if name in values), None)
    if count_name is None:
        return {}
    count = values[count_name]
    lists = {
        name: value
        for name, value in values.items()
        # A list of all layers' numbers has an entry per layer too, but says nothing about them.
        if isinstance(value, list | tuple) and len(value) == count and list(value) != list(range(count))
    }
    seen: set[tuple[str, str]] = set()
    kept: list[int] = []
    for i in range(count):
        kinds = {(name, repr(value[i])) for name, value in lists.items()}
        if kinds - seen:
            kept.append(i)
            seen |= kinds
    kept += [i for i in range(count) if i not in kept][: max(0, LAYERS - len(kept))]
    cut = {name: [value[i] for i in sorted(kept)] for name, value in lists.items() if name not in SMALL}
    layers = len(kept) if lists else LAYERS
    return cut | {name: layers for name in (*LAYER_COUNTS, *BOTH_STACKS) if name in values}


def _make_every_parameter_matter(model: PreTrainedModel) -> None:
    """Draw every weight, so that a test would see a norm, a bias or a gate that is left out."""
    saved = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith(("bias", "A_log", ".D", ".scale")):
                # Around where the architecture starts it: 1 for most norms, 0 for those that add 1, decay rates apart.
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                # Far enough from zero that attention is not uniform and layers change the prediction.
                parameter.copy_(parameter.shape[-1] ** -0.5 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            # Those that training sets, such as the corrections by which routers balance their experts.
            if name in saved and name.endswith(("bias", "scalar")) and buffer.is_floating_point():
                buffer.add_(0.1 * torch.randn_like(buffer))
