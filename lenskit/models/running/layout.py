"""Layout: tensors that are put in the place of others lie in memory as those do."""

from __future__ import annotations

import torch
from torch import Tensor


def laid_out(given: Tensor, new: Tensor) -> Tensor:
    """`new`, in memory as `given`: a kernel takes another path through other strides, and its last bits differ."""
    if new is given or new.stride() == given.stride() or new.shape != given.shape or new.requires_grad:
        return new
    if any(stride == 0 and size > 1 for stride, size in zip(given.stride(), given.shape, strict=True)):
        return new
    return torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device=given.device).copy_(new)
