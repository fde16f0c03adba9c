"""Ablations: edits that take out a subspace of an activation, or what a whole layer adds to the residual stream."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import Tensor

from lenskit.models.edits import At, Edit, NothingEdited, Project

How = Literal["zero", "mean", "resample"]
Over = Literal["rows", "both"]

_HOW = ("zero", "mean", "resample")


def derangement(count: int, seed: int = 0) -> Tensor:
    """(count,) a random order in which nothing stays in its place, each of them as likely as the others.

    Raises `ValueError` for fewer than two things.

    >>> bool((derangement(5) == torch.arange(5)).any())
    False
    """
    if count < 2:
        raise ValueError(f"{count} thing has no other place to go to: there must be at least two.")
    generator = torch.Generator().manual_seed(seed)
    stay = torch.arange(count)
    while True:  # of all orders, one in e is a derangement
        order = torch.randperm(count, generator=generator)
        if not bool((order == stay).any()):
            return order


def remove_subspace(h: Tensor, directions: Tensor, how: How = "zero", *, seed: int = 0) -> Tensor:
    """States without what they hold along some directions: (..., d_model), as they came.

    Args:
        h: (..., d_model).
        directions: (d_model,) or (k, d_model), of any length and not necessarily orthogonal.
        how: "zero" leaves nothing along the directions; "mean" the average over all states; "resample" what another
            of the states has there, dealt out at random by `seed`.

    Raises `ValueError` for directions of another size, and for "mean" and "resample" of a single state.
    Source: `remove_subspace` of tuned-lens; Belrose et al., "Eliciting Latent Predictions from Transformers with the
    Tuned Lens" (2023).

    >>> remove_subspace(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 0.0])).tolist()
    [[0.0, 4.0]]
    """
    basis = Project("resid_post", directions).basis.to(torch.promote_types(h.dtype, torch.float32)).to(h.device)
    if basis.shape[1] != h.shape[-1]:
        raise ValueError(f"directions of {basis.shape[1]} numbers for states of {h.shape[-1]}.")
    inside = h.to(basis.dtype) @ basis.T
    flat = inside.flatten(0, -2)
    if how != "zero" and len(flat) < 2:
        raise ValueError(f"removing by {how!r} needs at least two states to take others from.")
    new = replaced(flat, how, [0], seed).view(inside.shape)
    return (h.to(basis.dtype) + (new - inside) @ basis).to(h.dtype)


def replaced(part: Tensor, how: How, axes: list[int], seed: int) -> Tensor:
    """Zeros, the mean over the axes, or another's along them, in the place of each: in the shape of the part."""
    if how == "zero":
        return torch.zeros_like(part)
    if how == "mean":
        return part.mean(axes, keepdim=True).expand_as(part)
    front = part.movedim(axes, list(range(len(axes))))
    flat = front.flatten(0, len(axes) - 1)
    dealt = flat[derangement(len(flat), seed).to(part.device)].view(front.shape)
    return dealt.movedim(list(range(len(axes))), axes)


@dataclass(frozen=True, eq=False, repr=False)
class RemoveSubspace(Edit):
    """Take out of an activation what it holds along some directions: by zeros, by the mean, or by another's.

    directions: (d,) or (k, d), of any length and not necessarily orthogonal.
    how: "zero"; "mean"; or "resample", which deals out what others have there, by `seed`.
    over: the mean of, and the others among, the batch's rows at the same position, or all chosen places ("both").

    >>> model.run(prompts, edits=[RemoveSubspace("resid_post", basis.vectors, layers=9, how="mean")])  # doctest: +SKIP
    """

    directions: Tensor
    _: KW_ONLY
    how: How = "zero"
    over: Over = "both"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.how, self.over)
        made = Project(self.site, self.directions)  # raises for what are no directions
        object.__setattr__(self, "directions", made.directions)
        object.__setattr__(self, "_span", made)

    def new(self, part: Tensor, at: At) -> Tensor:
        span: Project = self._span  # pyright: ignore[reportAttributeAccessIssue] -- set above
        if span.directions.shape[-1] != part.shape[-1]:
            raise ValueError(
                f"{self!r}: directions of {span.directions.shape[-1]} numbers for activations of {part.shape[-1]}."
            )
        wide = torch.promote_types(part.dtype, torch.float32)
        basis = span.basis.to(wide).to(part.device)
        inside = part.to(wide) @ basis.T
        return part + (_others(self, inside, at, self.how, self.over, self.seed) - inside) @ basis


@dataclass(frozen=True, eq=False, repr=False)
class AblateLayer(Edit):
    """Take out what a whole block adds to the residual stream: by zeros, by the mean, or by another's.

    The block itself still reads what enters it (and fills the cache, when generating); what it adds is replaced. With
    "zero" the layer is as good as deleted.

    how: "zero"; "mean"; or "resample", which deals out what others add, by `seed`.
    over: the mean of, and the others among, the batch's rows at the same position ("rows"), or all places ("both").

    Source: `ablate_layer` of tuned-lens, whose modes are called batch and token.

    >>> model.run(prompts, edits=[AblateLayer(layers=9, how="resample")])  # doctest: +SKIP
    """

    site: str = "resid_post"
    _: KW_ONLY
    how: How = "zero"
    over: Over = "rows"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.how, self.over)
        if self.site != "resid_post":
            raise ValueError(f"a layer is ablated where it ends: at resid_post, not at {self.site!r}.")

    @property
    def reads(self) -> str:
        """What enters the block, which it is measured against."""
        return "resid_pre"

    def new(self, part: Tensor, at: At) -> Tensor:
        """What becomes of what the block adds."""
        return _others(self, part, at, self.how, self.over, self.seed)


def _check(how: str, over: str) -> None:
    if how not in _HOW:
        raise ValueError(f"how must be {', '.join(map(repr, _HOW))}, not {how!r}.")
    if over not in ("rows", "both"):
        raise ValueError(f"over must be 'rows' or 'both', not {over!r}.")


def _others(edit: Edit, part: Tensor, at: At, how: How, over: Over, seed: int) -> Tensor:
    """`replaced`, of a part as an edit is given it."""
    if how == "zero":
        return torch.zeros_like(part)
    if not at.gridded and over == "rows":
        raise ValueError(f"{edit!r}: the rows have different lengths. Use over='both', or choose positions.")
    axes = [0] if over == "rows" or not at.gridded else [0, at.pos_axis]
    if all(part.shape[axis] == 1 for axis in axes):
        raise NothingEdited(f"{edit!r} needs at least two {'rows' if over == 'rows' else 'places'} to take from.")
    return replaced(part, how, axes, seed)
