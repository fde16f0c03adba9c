"""Composition scores: how much of what one head writes another head reads (Elhage et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from lenskit.models.weighing.factored import FactoredMatrix
from lenskit.models.weighing.views import StackedFactors


def composition_scores(writers: StackedFactors, readers: StackedFactors, *, transposed: bool) -> Tensor:
    """`|W R| / (|W| |R|)` in Frobenius norms for each pair of heads, (layer, head, layer, head): writer, then reader.

    With `transposed`, R is the reader's transpose. A reader that is not in a later layer than the writer gets zero.
    With `W = A B` and `R = C D`, `|A B C D|` is that of a small matrix: QR takes the orthonormal parts of `A` and `D`
    away, so that no product is larger than (heads x d_head) squared. One layer of readers is in memory at a time.
    """
    left = [_left(writer) for writer in writers]
    device, count = left[0].device, len(left)
    scores = torch.zeros(count, len(left[0]), count, len(left[0]), device=device)
    for layer in range(1, count):
        reader = readers[layer]
        right = _left(reader if transposed else reader.T).to(device)
        for before in range(layer):
            # (writer head, inner, d_model) and (reader head, inner, d_model): their products, a small block per pair.
            blocks = torch.einsum("hid,gjd->higj", left[before].to(device), right)
            scores[before, :, layer] = blocks.square().sum((1, 3)).sqrt()
    return scores


def _left(matrix: FactoredMatrix) -> Tensor:
    """`R B / |A B|`, (head, inner, columns), where `A = Q R`: the product without its orthonormal part, of norm one."""
    # In float64 where there is one, as FactoredMatrix does; the blocks themselves are plain sums, and float32 will do.
    wide = torch.float32 if matrix.A.device.type == "mps" else torch.float64
    product = torch.linalg.qr(matrix.A.to(wide), "r").R @ matrix.B.to(wide)
    return (product / torch.linalg.matrix_norm(product, keepdim=True).clamp_min(1e-30)).float()
