"""Non-negative least squares of many small problems at once, by active sets."""

from __future__ import annotations

import torch
from torch import Tensor

_TOLERANCE = 1e-10
_RIDGE = 1e-12


def nnls(gram: Tensor, right: Tensor, start: Tensor | None = None) -> Tensor:
    """The a >= 0 (problem, atom) that make |x - a A| least, for each problem by itself; in float64.

    Args:
        gram: (problem, atom, atom) the products of each problem's atoms, A A'.
        right: (problem, atom) the products of its atoms with what is to be put together, A x.
        start: (problem, atom) where to begin, such as the answer with one atom less and a zero for the new one.

    Source: Lawson and Hanson, "Solving Least Squares Problems" (1974), all problems abreast.

    >>> nnls(torch.eye(2)[None], torch.tensor([[3.0, -1.0]])).tolist()
    [[3.0, 0.0]]
    """
    gram, right = gram.double(), right.double()
    scale = right.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    a = torch.zeros_like(right) if start is None else start.double().clone()
    free = a > 0
    for _ in range(10 * right.shape[1]):
        pull = right - (gram @ a[..., None])[..., 0]
        pull = pull.masked_fill(free, -torch.inf)
        best, which = pull.max(-1)
        rising = best > _TOLERANCE * scale[:, 0]
        if not rising.any():
            break
        free[rising, which[rising]] = True
        a, free = _settled(gram, right, a, free, rising)
    return a


def _settled(gram: Tensor, right: Tensor, a: Tensor, free: Tensor, going: Tensor) -> tuple[Tensor, Tensor]:
    """Move to the least squares of the free atoms, giving up those that would become negative on the way."""
    going = going.clone()
    for _ in range(right.shape[1] + 1):
        aim = _unbound(gram, right, free)
        wrong = free & (aim <= 0) & going[:, None]
        there = going & ~wrong.any(-1)
        a = torch.where(there[:, None], aim, a)
        going = going & ~there
        if not going.any():
            break
        # As far as the first of them reaches zero.
        step = torch.where(wrong, a / (a - aim).clamp_min(1e-300), torch.inf)
        far, first = step.min(-1)
        moved = (a + far.clamp(0, 1)[:, None] * (aim - a)).clamp_min(0)
        a = torch.where(going[:, None], moved, a)
        leaving = torch.zeros_like(free).scatter_(1, first[:, None], going[:, None])
        free = free & ~leaving
        a = a.masked_fill(leaving, 0)
    return a, free


def _unbound(gram: Tensor, right: Tensor, free: Tensor) -> Tensor:
    """The plain least squares of each problem's free atoms; zero for the others."""
    both = free[:, :, None] & free[:, None, :]
    own = torch.where(free, _RIDGE * gram.diagonal(dim1=1, dim2=2), torch.ones_like(right))
    system = gram.masked_fill(~both, 0) + torch.diag_embed(own)
    solved = torch.linalg.solve(system, right.masked_fill(~free, 0)[..., None])[..., 0]
    return solved.masked_fill(~free, 0)
