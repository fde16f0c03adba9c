"""Pursuit: a state put together from few directions with positive weights, one more at each step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lenskit.lenses.jspace.dictionary import Dictionary
from lenskit.lenses.jspace.nnls import nnls

_ROWS = 128


class Pursuit(NamedTuple):
    """What was found for some states.

    Attributes:
        ids: (row, k) the tokens in the order in which they were taken; -1 where nothing was left to take.
        weights: (row, k) of their directions of length one, at the last step; a token taken early may end with none.
        captured: (row, k) after each step, the share of the state's square that is put together.
        component: (row, d_model) what is put together at the last step.
    """

    ids: Tensor
    weights: Tensor
    captured: Tensor
    component: Tensor


def pursue(dictionary: Dictionary, x: Tensor, k: int) -> Pursuit:
    """Put each state (row, d_model) together from at most k directions: `x ~ sum of a_t v_t`, a >= 0.

    At each step the direction that what is left points along most is taken, and all weights are solved for anew.
    Source: non-negative orthogonal matching pursuit (Bruckstein et al., 2008), as in Gurnee et al. (2026).
    """
    parts = [_pursue(dictionary, rows, k) for rows in x.to(dictionary.matrix).split(_ROWS)]
    return Pursuit(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _pursue(dictionary: Dictionary, x: Tensor, k: int) -> Pursuit:
    rows, d_model = x.shape
    ids = torch.full((rows, k), -1, device=x.device)
    atoms = x.new_zeros(rows, k, d_model, dtype=torch.float64)
    weights = x.new_zeros(rows, k, dtype=torch.float64)
    captured = x.new_zeros(rows, k)
    wide = x.double()
    square, left = wide.square().sum(-1), wide
    for step in range(k):
        which, product = dictionary.nearest(left.to(x.dtype), ids[:, :step])
        ids[:, step] = torch.where(product > 1e-6 * square.sqrt(), which, -1)
        atoms[:, step] = dictionary.atoms(ids[:, step]).double()
        known = atoms[:, : step + 1]
        gram, right = known @ known.mT, (known @ wide[..., None])[..., 0]
        gram = gram + torch.diag_embed((ids[:, : step + 1] < 0).double())  # what is not there takes no weight
        weights[:, : step + 1] = nnls(gram, right, weights[:, : step + 1])
        left = wide - (weights[:, : step + 1, None] * known).sum(1)
        captured[:, step] = (1 - left.square().sum(-1) / square.clamp_min(1e-300)).to(x.dtype)
    return Pursuit(ids, weights.to(x.dtype), captured, (wide - left).to(x.dtype))
