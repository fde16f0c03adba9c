"""Checked: matrices that fit a model, by source and layer; and which of them reads a site."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lenskit.lenses.jacobian_files.stored import SOURCES, Matrices, Target
from lenskit.models.identity import ModelMismatch, d_model_of
from lenskit.models.model import Model
from lenskit.models.sites import Site


def checked(model: Model, given: Mapping[str, Mapping[int, Tensor]], target: Target) -> Matrices:
    """The matrices in ascending layers, where the model is, in float32 (float64 of a model in it).

    Raises `ModelMismatch` for a layer or shape that the model does not have, `ValueError` for no matrix at all and for
    a source that is none.
    """
    d_model, last = d_model_of(model), model.n_layers - (1 if target == "final" else 2)
    found: Matrices = {}
    if unknown := [source for source in given if source not in SOURCES]:
        raise ValueError(f"{unknown[0]!r} is no source of a Jacobian lens: {', '.join(SOURCES)} are.")
    for source in (source for source in SOURCES if source in given):
        matrices = given[source]
        layers = range(last if source == "resid_post" else last + 1)
        for layer in sorted(matrices):
            matrix = matrices[layer]
            if layer not in layers:
                raise ModelMismatch(
                    f"this Jacobian lens has a matrix for {source} of layer {layer}, and in {model.name} a lens of the "
                    f"{target} residual has layers 0 to {layers.stop - 1} there."
                )
            if matrix.dim() != 2 or len(matrix) != d_model or (source != "z" and matrix.shape[1] != d_model):
                raise ModelMismatch(
                    f"this Jacobian lens has a matrix {tuple(matrix.shape)} for {source} of layer {layer}, and "
                    f"{model.name} has d_model {d_model}."
                )
            found.setdefault(source, {})[layer] = matrix.detach().to(model.device, _dtype(model))
    if not found:
        raise ValueError("a Jacobian lens needs at least one layer's matrix.")
    return found


def identity_of(model: Model) -> Tensor:
    """(d_model, d_model) what carries a residual to itself."""
    return torch.eye(d_model_of(model), dtype=_dtype(model), device=model.device)


def source_of(where: Site) -> tuple[str, int]:
    """The source and layer whose matrix reads a site: what comes before a layer is what left the one before.

    The stream between attention and MLP goes through what attention adds to it goes through.
    """
    assert where.layer is not None
    if where.name == "resid_pre":
        return "resid_post", where.layer - 1
    return ("attn_out" if where.name == "resid_mid" else where.name), where.layer


def brief(layers: list[int]) -> str:
    """`0 to 28`, or the layers one by one.

    >>> brief([0, 1, 2, 3]), brief([3, 9])
    ('0 to 3', '3, 9')
    """
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def _dtype(model: Model) -> torch.dtype:
    return model.dtype if model.dtype == torch.float64 else torch.float32
