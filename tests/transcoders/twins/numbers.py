"""Random numbers for the twins, all different from each other."""

import torch
from torch import Tensor

D, N = 12, 40


class Draw:
    """A stream of tensors."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator) / (shape[0] ** 0.5 if len(shape) > 1 else 1)
