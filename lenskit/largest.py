"""Floor 0: the k largest numbers of very wide rows, exactly, in a fraction of `torch.topk`'s time."""

from __future__ import annotations

import torch
from torch import Tensor

_GROUPS = 32


def largest(wide: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row (row, column) and their columns, in no particular order.

    Columns are dealt out to groups: the k groups with the largest peaks hold the k largest values, so that only those
    groups are searched. Rows that are narrow, or of which much is wanted, are searched whole.

    >>> values, columns = largest(torch.tensor([[3.0, 1.0, 2.0]]), 2)
    >>> sorted(values[0].tolist()), sorted(columns[0].tolist())
    ([2.0, 3.0], [0, 2])
    """
    width = wide.shape[-1]
    groups = width // _GROUPS
    if width % _GROUPS or groups < 4 * k:
        values, columns = wide.topk(min(k, width), sorted=False)
        return values, columns
    # Group j holds the columns j, j + groups, j + 2 * groups, ...: the maximum over them runs along whole vectors.
    members = wide.view(wide.shape[0], _GROUPS, groups)
    chosen = members.amax(1).topk(k, sorted=False).indices
    found = members.gather(2, chosen[:, None].expand(-1, _GROUPS, -1)).flatten(1)
    values, place = found.topk(k, sorted=False)
    return values, torch.div(place, k, rounding_mode="floor") * groups + chosen.gather(1, place % k)
