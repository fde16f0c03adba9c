"""Residuals: what every layer of the model reads and what leaves the last one, for fitting a lens to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lenskit.models.model import Model
from lenskit.models.sites import Site


def residuals(model: Model, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The inputs (layer, chunk, pos, d_model) of these blocks and the final residual (chunk, pos, d_model).

    The forward ends before the unembedding, which is multiplied out in blocks by whoever needs it.
    """
    last = Site("resid_post", model.n_layers - 1)
    # With both ends of every block kept, the residual stream is stored once and nothing is copied.
    every = list(layers) == list(range(model.n_layers))
    keep = ["resid_pre", "resid_post"] if every else [*(Site("resid_pre", layer) for layer in layers), last]
    run = model.run(ids, keep=keep, stop_at=last)
    final = run[last]
    if every:
        return run["resid_pre"], final
    return torch.stack([run["resid_pre", layer] for layer in layers]), final


def paired(states: Tensor, final: Tensor, ahead: int, skip_first: int) -> tuple[Tensor, Tensor]:
    """Rows (layer, row, d_model) and the final residuals (row, d_model) `ahead` positions later.

    The first positions are left out: the first token is the attention sink, whose residual is hundreds of times as
    long as any other and would be most of every sum of squares.
    """
    here, there = shifted(states.shape[2], ahead, skip_first)
    return states[:, :, here].flatten(1, 2), final[:, there].flatten(0, 1)


def shifted(length: int, ahead: int, skip_first: int) -> tuple[slice, slice]:
    """The positions that are read, and those `ahead` of them, in chunks of `length`.

    Raises `ValueError` where none is left.
    """
    begin, end = max(skip_first, -ahead), length - max(ahead, 0)
    if begin >= end:
        raise ValueError(f"chunks of {length} tokens have no position past {skip_first} with another {ahead} ahead.")
    return slice(begin, end), slice(begin + ahead, end + ahead)
