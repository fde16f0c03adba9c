"""Matrices at a quarter of float32's size: each row as whole steps, and how large its step is."""

from __future__ import annotations

import torch
from torch import Tensor


def in_steps(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of (..., row, column) in 127 int8 steps to either side of 0, and its step, float32 (..., row, 1).

    No number is off by more than half its row's step, which is 1/254 of the largest number of that row.
    """
    matrix = matrix.float()
    step = matrix.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return (matrix / step).round().to(torch.int8), step
