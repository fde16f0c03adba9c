"""Synthetic twins of the published files of Jacobian lenses: the same matrices, as each package writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

By = Mapping[int, Tensor]


def reference(path: Path, by: By, **more: Any) -> Path:
    """The reference package's, which Neuronpedia publishes."""
    d_model = len(next(iter(by.values())))
    half = {layer: matrix.half() for layer, matrix in by.items()}
    torch.save({"J": half, "n_prompts": 7, "source_layers": list(by), "d_model": d_model, **more}, path)
    return path


def transformer_lens(path: Path, by: By, *, target_layer: int, model_name: str = "org/tiny") -> Path:
    """TransformerLens's, with its metadata."""
    metadata = {
        "model_name": model_name,
        "estimator": "jacobian_lens",
        "hook_convention": "blocks.{layer}.hook_out",
        "target_layer": target_layer,
        "skip_first_positions": 16,
        "fit_dtype": "float32",
        "corpus": "wikitext",
        "transformer_lens_fit": True,
    }
    return reference(path, by, metadata=metadata)


def sums(path: Path, by: By, **more: Any) -> Path:
    """A checkpoint of the reference package's fit: sums over eighty passages."""
    added = {layer: matrix.float() * 80 for layer, matrix in by.items()}
    torch.save({"jacobian_sum": added, "n_done": 80, "next_idx": 83, "source_layers": list(by), **more}, path)
    return path


def jspace(path: Path, by: By) -> Path:
    """jspace's, whose last layer is the identity but for a factor and its noise."""
    last = max(by) + 1
    noisy = torch.eye(len(by[0])) * 0.02 + 0.001 * torch.randn(len(by[0]), len(by[0]))
    every = {**by, last: noisy}
    corpus = {layer: torch.randn(3, len(by[0])) for layer in every}
    said = {"layer_indices": list(every), "model_id": "org/tiny", "n_proj": 16}
    torch.save({"avg_jacobians": every, "corpus_jh": corpus, **said}, path)
    return path


def numpy(path: Path, by: By) -> Path:
    """WeZZard's, of MLX."""
    arrays: dict[str, Any] = {f"J_{layer}": matrix.numpy().astype(np.float16) for layer, matrix in by.items()}
    with open(path, "wb") as file:
        np.savez(file, **arrays, n_prompts=7, d_model=len(by[0]))
    return path


def mlx(path: Path, by: By) -> Path:
    """fblissjr's, of MLX, with a file beside."""
    save_file({str(layer): matrix.contiguous() for layer, matrix in by.items()}, path)
    said = {"source_layers": list(by), "d_model": len(by[0]), "final_logit_softcapping": None, "n_prompts": 7}
    path.with_name(f"{path.stem}.sidecar.json").write_text(json.dumps(said))
    return path


FORMS: dict[str, Callable[[Path, By], Path]] = {
    "reference": reference,
    "sums": sums,
    "jspace": jspace,
    "numpy": numpy,
    "mlx": mlx,
}
