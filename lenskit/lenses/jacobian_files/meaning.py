"""Meaning: what a stored lens's matrices are derivatives of and by in a given model, decided by what they are.

Most files do not say. Their layers, shapes and the identity among them do; and where these leave two answers, the
person is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from lenskit.lenses.jacobian_files.stored import Stored, Target
from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import ModelMismatch, d_model_of
from lenskit.models.model import Model
from lenskit.models.sites import SiteUnavailable

T = TypeVar("T", bound=str)

_ALIKE, _UNLIKE = 0.3, 0.1
"""How much of a matrix is the identity: a residual's late ones mostly are, and a head's output projection is not."""
_EXACTLY = 1e-3


def meant(
    stored: Stored, model: Model, where: object, source: str | None = None, target: Target | None = None
) -> Stored:
    """The lens with its source and target decided, without the layers that are the identity.

    `source` and `target` are what the person says, for files that do not. Raises `ModelMismatch` where the matrices do
    not fit the model, `LoadError` where they could be two things, with what was seen.
    """
    if stored.identity is not None or not stored.matrices:
        return stored
    last, d_model = model.n_layers - 1, d_model_of(model)
    _check_shapes(stored.matrices, model, d_model, where)
    if max(stored.matrices) > last:
        raise ModelMismatch(
            f"the lens at {where} has layers {_listed(stored.matrices)}, and {model.name} has layers 0 to {last}: it "
            "is another model's."
        )
    source = _agreed("source", source, stored.source, where) or _source(stored, model, where)
    if source != "resid_post":
        target = _agreed("target", target, _target_by_number(stored, last, where), where) or "final"
        return replace(stored, matrices={}, components={source: stored.matrices}, source=source, target=target)
    stated = _agreed("target", target, _target_by_number(stored, last, where), where)
    found = stated or _target(stored.matrices, last, where)
    ends = last if found == "final" else last - 1
    matrices = {layer: matrix for layer, matrix in stored.matrices.items() if layer < ends}
    if not matrices:
        raise LoadError(f"the lens at {where} has layers {_listed(stored.matrices)} only, which are the identity.")
    return replace(stored, matrices=matrices, source=source, target=found)


def _check_shapes(matrices: Mapping[int, Tensor], model: Model, d_model: int, where: object) -> None:
    shapes = {tuple(matrix.shape) for matrix in matrices.values()}
    heads = _z_width(model)
    if len(shapes) == 1:
        out, width = next(iter(shapes))
        if out == d_model and width in (d_model, heads):
            return
    raise ModelMismatch(
        f"the lens at {where} has matrices {', '.join(map(str, sorted(shapes)))}, and {model.name} has d_model "
        f"{d_model}"
        + (f" and heads of {heads} in all" if heads else "")
        + ": it is another model's, or of several residual streams."
    )


def _source(stored: Stored, model: Model, where: object) -> str:
    """Whether the matrices are derivatives by the residual or by the heads' outputs."""
    last, matrices = model.n_layers - 1, stored.matrices
    top = max(matrices)
    if matrices[top].shape[1] != matrices[top].shape[0]:
        return "z"
    alike = _identity_share(matrices[top])
    if top < last:
        return "resid_post"
    if _is_identity(matrices[top]):
        return "resid_post"
    if alike < _UNLIKE and _z_width(model) == matrices[top].shape[1]:
        return "z"
    seems = (
        "It may be numbered by what enters each layer, or be one of the heads' outputs"
        if alike > _ALIKE
        else "It may be one of the heads' outputs"
    )
    raise LoadError(
        f"the lens at {where} has a matrix for each of {model.name}'s {last + 1} layers, and that of the last one is "
        f"not the identity ({alike:.2f} of it is), as it is in a lens of the residual. {seems}: if you know, say "
        'source="z" or source="resid_post".'
    )


def _target(matrices: Mapping[int, Tensor], last: int, where: object) -> Target:
    """Of which residual the matrices are derivatives, by where the identity is among them."""
    ones = [layer for layer, matrix in matrices.items() if _is_identity(matrix)]
    below = [layer for layer in ones if layer < last - 1]
    if below:
        raise LoadError(
            f"the lens at {where} is the identity at layer {below[0]}: its target is what leaves that layer, and a "
            f"lens here is of the final residual (layer {last}) or the penultimate one (layer {last - 1})."
        )
    if last - 1 in ones:
        return "penultimate"
    if last - 1 not in matrices and list(matrices) == list(range(last - 1)):
        raise LoadError(
            f"the lens at {where} has layers 0 to {last - 2} of a model with {last + 1}: it is one of the penultimate "
            "residual, or one of the final residual without a layer, and the file does not say which. Say "
            'target="penultimate" or target="final".'
        )
    return "final"


def _target_by_number(stored: Stored, last: int, where: object) -> Target | None:
    if stored.target_layer is None:
        return stored.target
    if stored.target_layer in (last, last - 1):
        return "final" if stored.target_layer == last else "penultimate"
    raise ModelMismatch(
        f"the lens at {where} says that its target is what leaves layer {stored.target_layer}, and in a model of "
        f"{last + 1} layers that is the final residual (layer {last}) or the penultimate one (layer {last - 1})."
    )


def _agreed(what: str, said: T | None, stated: T | None, where: object) -> T | None:
    if said is not None and stated is not None and said != stated:
        raise LoadError(f"the lens at {where} says that its {what} is {stated!r}, and not {said!r}.")
    return said if said is not None else stated


def _is_identity(matrix: Tensor) -> bool:
    if matrix.shape[0] != matrix.shape[1] or abs(float(matrix[0, 0]) - 1) > _EXACTLY:  # seldom more has to be read
        return False
    return bool((matrix.float() - torch.eye(len(matrix))).abs().max() <= _EXACTLY)


def _identity_share(matrix: Tensor) -> float:
    """The cosine between a matrix and the identity, as long vectors."""
    matrix = matrix.float()
    return abs(float(matrix.diagonal().sum() / (matrix.norm() * matrix.shape[0] ** 0.5).clamp_min(1e-30)))


def _z_width(model: Model) -> int | None:
    """How many numbers the heads of a layer give together, or None where that is not known."""
    try:
        spot = model.anatomy.spots("z", (0,))[0]
    except SiteUnavailable:
        return None
    return model.anatomy.probe.by_module[spot.point.module][0].input.shape[-1]


def _listed(layers: Sequence[int] | Mapping[int, Tensor]) -> str:
    numbers = list(layers)
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
