"""The reference package's form, written: a torch file with `J`, `n_prompts`, `source_layers` and `d_model`.

TransformerLens reads it too, and its words are under `metadata`; what only lenskit knows is there under `lenskit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.lenses.jacobian_files.reading import LENSKIT
from lenskit.lenses.jacobian_files.stored import Target
from lenskit.models.identity import Identity


def write(
    path: Path,
    matrices: Mapping[int, Tensor],
    source: str,
    target: Target,
    identity: Identity,
    about: Mapping[str, Any],
    dtype: torch.dtype,
) -> None:
    """Write the file, whole or not at all. Raises `ValueError` for numbers that do not fit the dtype."""
    stored = {layer: matrix.detach().to("cpu", dtype).clone() for layer, matrix in matrices.items()}
    for layer, matrix in stored.items():
        if not bool(matrix.isfinite().all()):
            raise ValueError(
                f"layer {layer} does not fit into {str(dtype).removeprefix('torch.')}: write it as float32."
            )
    fit = about.get("fit", {})
    passages = int(fit.get("passages") or 0)
    metadata = {
        "estimator": "jacobian_lens",
        "hook_convention": "blocks.{layer}.hook_out" if source == "resid_post" else f"blocks.{{layer}}.{source}",
        "target_layer": identity.n_layers - (1 if target == "final" else 2),
        "n_prompts": passages,
        "skip_first_positions": fit.get("skip_first"),
        "max_seq_len": fit.get("chunk"),
        "fit_dtype": fit.get("dtype"),
        "corpus": fit.get("corpus"),
        LENSKIT: {"identity": identity.as_dict(), "about": dict(about), "source": source, "target": target},
    }
    payload = {
        "J": stored,
        "n_prompts": passages,
        "source_layers": list(stored),
        "d_model": identity.d_model,
        "metadata": metadata,
    }
    with whole_file(path) as unfinished:
        torch.save(payload, unfinished)
