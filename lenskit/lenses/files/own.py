"""lenskit's own form of a tuned lens: one safetensors file with the model's identity in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.lenses.translators import AnyTranslators, FactoredTranslators, Translators
from lenskit.models.files.load_error import LoadError
from lenskit.models.files.row_steps import in_steps
from lenskit.models.identity import Identity

FORMAT = "lenskit tuned lens 1"
_SCALE = "_scale"


def write(
    path: Path, translators: AnyTranslators, identity: Identity, about: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write the file, whole or not at all: floats as `dtype`, or matrices as int8 with a float32 for each row."""
    tensors = dict[str, Tensor]()
    for field in fields(translators):
        value: Tensor | None = getattr(translators, field.name)
        if value is None:
            continue
        value = value.detach().cpu()
        if dtype == torch.int8 and value.dim() == 3:
            tensors[field.name], tensors[field.name + _SCALE] = in_steps(value)
        else:
            tensors[field.name] = value.to(torch.float32 if dtype == torch.int8 else dtype).contiguous()
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} does not fit into {str(dtype).removeprefix('torch.')}: write it as float32.")
    header = {"format": FORMAT, "identity": json.dumps(identity.as_dict()), "about": json.dumps(dict(about))}
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, metadata=header)


def read(path: Path) -> tuple[AnyTranslators, Identity, dict[str, Any]]:
    """What `write` wrote. Raises `LoadError` for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise LoadError(
                    f"{path} is no tuned lens of this version of lenskit: its header says {header.get('format')!r}, "
                    f"and not {FORMAT!r}."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
        identity, about = Identity.from_dict(json.loads(header["identity"])), json.loads(header["about"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path} cannot be read as a tuned lens: {error}") from error
    return _translators(tensors, identity, path), identity, about


def _translators(tensors: dict[str, Tensor], identity: Identity, path: Path) -> AnyTranslators:
    for name in [name for name in tensors if name.endswith(_SCALE)]:
        scale, steps = tensors.pop(name), tensors.get(name.removesuffix(_SCALE))
        if steps is None or steps.dtype != torch.int8 or scale.shape != (*steps.shape[:-1], 1):
            raise LoadError(f"{path} has a {name} that does not fit the matrices it is for.")
        tensors[name.removesuffix(_SCALE)] = steps * scale
    bias = tensors.pop("bias", None)
    found: AnyTranslators | None = None
    if tensors.keys() == {"weight"}:
        found = Translators(tensors["weight"], bias)
    elif tensors.keys() == {"left", "right"}:
        found = FactoredTranslators(tensors["left"], tensors["right"], bias)
    layers, d_model = identity.n_layers, identity.d_model
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    ends = [(shape[0], shape[1] if name != "right" else shape[-1]) for name, shape in shapes.items()]
    if found is None or any(end != (layers, d_model) for end in ends):
        raise LoadError(f"{path} has tensors {shapes}, which are no translators of {layers} layers of {d_model}.")
    return found
