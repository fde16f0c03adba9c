"""Saving: a lens in one of the two forms that are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from lenskit.lenses.jacobian_files import own, reference
from lenskit.lenses.jacobian_files.stored import Matrices, Target
from lenskit.models.identity import Identity

FileFormat = Literal["lenskit", "reference"]


def save(
    path: Path,
    form: FileFormat,
    matrices: Matrices,
    target: Target,
    identity: Identity,
    about: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> None:
    """Write matrices by source and layer. Raises `ValueError` for what the form does not hold."""
    if form == "lenskit":
        if path.suffix != ".safetensors":
            raise ValueError(f"lenskit's own format is one file: call it {path.name}.safetensors.")
        own.write(path, matrices, target, identity, about, dtype or torch.float32)
        return
    if form != "reference":
        raise ValueError(f"format is 'lenskit' or 'reference', not {form!r}.")
    if len(matrices) > 1:
        raise ValueError(f"the reference format holds one source, and this lens has {', '.join(matrices)}.")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"the reference format holds floats only, not {str(dtype).removeprefix('torch.')}.")
    [(source, layers)] = matrices.items()
    reference.write(path, layers, source, target, identity, about, dtype or torch.float16)
