"""lenskit's own form of a Jacobian lens: one safetensors file with the model's identity and the fit in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.lenses.jacobian_files.stored import Matrices, Stored, Target
from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import Identity

FORMAT = "lenskit jacobian lens 1"
_SCALE = "_scale"


def write(
    path: Path, matrices: Matrices, target: Target, identity: Identity, about: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write the file, whole or not at all: floats as `dtype`, or int8 with a float32 for each row."""
    tensors = dict[str, Tensor]()
    for source, layers in matrices.items():
        for layer, matrix in layers.items():
            name, matrix = f"{source}.{layer}", matrix.detach().cpu()
            if dtype == torch.int8:
                tensors[name], tensors[name + _SCALE] = in_steps(matrix.float())
            else:
                tensors[name] = matrix.to(dtype).contiguous()
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} does not fit into {str(dtype).removeprefix('torch.')}: write it as float32.")
    said = {"identity": identity.as_dict(), "about": dict(about), "target": target}
    header = {"format": FORMAT} | {name: json.dumps(value) for name, value in said.items()}
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, metadata=header)


def read(path: Path, whole: bool = True) -> Stored:
    """What `write` wrote; not `whole`, int8 as it is. Raises `LoadError` for a file that is spoilt."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
        identity, about = Identity.from_dict(json.loads(header["identity"])), json.loads(header["about"])
        target: Target = json.loads(header["target"])
        matrices = _matrices(tensors, path, whole)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path} cannot be read as a Jacobian lens: {error}") from error
    components = {source: each for source, each in matrices.items() if source != "resid_post"}
    return Stored(
        form="lenskit's own",
        matrices=matrices.get("resid_post", {}),
        source="resid_post",
        target=target,
        identity=identity,
        about=about,
        components=components,
    )


def in_steps(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Each row in 127 steps to either side, and how large a step is (row, 1)."""
    scale = matrix.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return (matrix / scale).round().to(torch.int8), scale


def _matrices(tensors: dict[str, Tensor], path: Path, whole: bool) -> Matrices:
    for name in [name for name in tensors if name.endswith(_SCALE)]:
        scale, steps = tensors.pop(name), tensors.get(name.removesuffix(_SCALE))
        if steps is None or steps.dtype != torch.int8 or scale.shape != (len(steps), 1):
            raise LoadError(f"{path} has a {name} that does not fit the matrix it is for.")
        tensors[name.removesuffix(_SCALE)] = steps * scale if whole else steps
    found: Matrices = {}
    for name, matrix in tensors.items():
        source, layer = name.split(".")
        found.setdefault(source, {})[int(layer)] = matrix
    return found
