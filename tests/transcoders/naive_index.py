"""What an index holds, worked out from all activations of a corpus at once, with loops and in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lenskit.models.model import Model
from lenskit.transcoders.transcoder import Transcoder


@dataclass(frozen=True)
class Naive:
    """All activations, (feature, chunk, pos), 0 where a feature is not active or a token is left out."""

    ids: np.ndarray
    active: np.ndarray
    skip: int

    @classmethod
    def of(cls, model: Model, basis: Transcoder | tuple[str, int], ids: Tensor, skip: int = 1) -> Naive:
        site = basis.reads if isinstance(basis, Transcoder) else basis
        rows = []
        for chunk in ids:
            x = model.run(chunk[None], keep=site)[site][0].flatten(1)
            dense = basis.encode(x).dense() if isinstance(basis, Transcoder) else x
            dense = dense.clamp_min(0)
            dense[:skip] = 0
            rows.append(dense.T)
        return cls(ids.numpy(), torch.stack(rows, 1).numpy(), skip)

    @property
    def tokens(self) -> int:
        return self.ids.shape[0] * (self.ids.shape[1] - self.skip)

    def values(self, f: int) -> np.ndarray:
        """All of a feature's activations."""
        return self.active[f][self.active[f] > 0]

    def top(self, f: int, n: int) -> list[tuple[float, int, int]]:
        """The chunks in which it is strongest: value, chunk, position."""
        peaks = []
        for chunk, row in enumerate(self.active[f]):
            if row.max() > 0:
                peaks.append((float(row.max()), chunk, int(row.argmax())))
        return sorted(peaks, key=lambda peak: (-peak[0], peak[1]))[:n]

    def jaccard(self, f: int, g: int) -> float:
        one, other = self.active[f] > 0, self.active[g] > 0
        return float((one & other).sum() / max(1, (one | other).sum()))

    def on_token(self, f: int, token: int) -> tuple[float, int, int]:
        """Its mean on a token, at how many occurrences it is active, and how many there are."""
        total, times, there = 0.0, 0, 0
        for chunk, row in enumerate(self.ids):
            for pos in range(self.skip, len(row)):
                if row[pos] == token:
                    there += 1
                    total += float(self.active[f, chunk, pos])
                    times += self.active[f, chunk, pos] > 0
        return total / max(1, there), times, there
