"""Floor 0: the k largest numbers of very wide rows, exactly, in a fraction of `torch.topk`'s time."""

from __future__ import annotations

import torch
from torch import Tensor

_MEMBERS = 32
_GROUPS = 64  # `topk` of so few is nearly free, of twice as many it is not
_FEW = 16


def largest(wide: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row (row, column) and their columns, in no particular order.

    Columns are dealt out to groups: the k groups with the largest peaks hold the k largest values, so that only those
    groups are searched. Rows that are narrow, or of which much is wanted, are searched whole.

    >>> values, columns = largest(torch.tensor([[3.0, 1.0, 2.0]]), 2)
    >>> sorted(values[0].tolist()), sorted(columns[0].tolist())
    ([2.0, 3.0], [0, 2])
    """
    return largest_under(wide, group_peaks(wide, k), k)


def group_peaks(wide: Tensor, k: int) -> Tensor:
    """(row, group) the largest value of each group of columns; the row itself where it is better searched whole.

    >>> group_peaks(torch.arange(4096.0)[None], 10)[0, -3:]
    tensor([4093., 4094., 4095.])
    """
    width = wide.shape[-1]
    members = width // _GROUPS if k <= _FEW else _MEMBERS
    if members < 4 or width % members or width // members < 4 * k:
        return wide
    # Group j holds the columns j, j + groups, j + 2 * groups, ...: the maximum over them runs along whole vectors.
    return wide.view(wide.shape[0], members, -1).amax(1)


def largest_under(wide: Tensor, peaks: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `largest`, where the `group_peaks` of the rows are known already."""
    width, groups = wide.shape[-1], peaks.shape[-1]
    if groups == width:
        values, columns = wide.topk(min(k, width), sorted=False)
        return values, columns
    chosen = peaks.topk(k, sorted=False).indices
    members = wide.view(wide.shape[0], -1, groups)
    found = members.gather(2, chosen[:, None].expand(-1, members.shape[1], -1)).flatten(1)
    values, place = largest(found, k)
    return values, torch.div(place, k, rounding_mode="floor") * groups + chosen.gather(1, place % k)
