"""Marginals: what a lens predicts on the whole, token by token, and the Dirichlet distribution that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.lenses.dirichlet import fit_dirichlet
from lenskit.lenses.product import NATS, TILE_ROWS, Given, Product, Scores, blocks_of, log_mass

if TYPE_CHECKING:
    import pandas as pd

    from lenskit.models.anatomy import Tail
    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class Marginals:
    """The averages of a lens's predictions over a text, for every row of a reading; the model's own is the last.

    Attributes:
        names: what each row is called.
        tokens: over how many predictions.
        mean: (row, token) the average probability of each token.
        mean_log: (row, token) the average of its logarithm, in nats.
    """

    names: list[str]
    tokens: int
    mean: Tensor = field(repr=False)
    mean_log: Tensor = field(repr=False)

    @property
    def bias(self) -> Tensor:
        """(row,) KL(final || row) of the averages, in nats: how far a row is off on the whole, whatever the text says.

        Source: the bias of Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens".
        """
        final = self.mean[-1]
        ratio = final.clamp_min(1e-300).log() - self.mean.clamp_min(1e-300).log()
        return (final * ratio).sum(-1).clamp_min(0)

    def dirichlet(self, row: int = -1) -> Tensor:
        """(token,) the parameters of the Dirichlet that makes this row's predictions likeliest.

        Raises `IndexError` for a row that there is not, `ValueError` where all predictions are the same.
        """
        return fit_dirichlet(self.mean[row], self.mean_log[row])

    def top(self, model: Model, row: int = -1, k: int = 10) -> pd.DataFrame:
        """The tokens that a row predicts most on the whole, beside what the model itself does."""
        import pandas as pd

        best = self.mean[row].topk(k).indices
        return pd.DataFrame(
            {
                "token": [model.text.decode([i]) for i in best.tolist()],
                "probability": self.mean[row][best].tolist(),
                "final": self.mean[-1][best].tolist(),
            }
        )

    def tensors(self, prefix: str) -> Mapping[str, Tensor]:
        """What is saved of them: the averages and the fitted parameters of every row."""
        alpha = torch.stack([self.dirichlet(row) for row in range(len(self.names))])
        return {f"{prefix}.mean": self.mean, f"{prefix}.mean_log": self.mean_log, f"{prefix}.dirichlet": alpha}


class Summing:
    """The sums that become `Marginals`: (row, vocab) twice, in float64, whatever the length of the text."""

    def __init__(self, names: list[str], vocab: int) -> None:
        self.names, self.count = names, 0
        self.mass, self.logs = (torch.zeros(len(names), vocab, dtype=torch.float64) for _ in range(2))

    def add(self, carried: Tensor, logits: Tensor, tail: Tail) -> None:
        """Tell of states (row, pos, d_model) carried to the end, and the model's own logits (pos, vocab)."""
        rows, length, _ = carried.shape
        per_chunk = max(1, TILE_ROWS // max(1, rows))
        for start in range(0, length, per_chunk):
            chunk = slice(start, min(start + per_chunk, length))
            count = chunk.stop - start
            blocks = blocks_of(tail.head, logits.shape[1], count * rows)
            states = carried[:, chunk].transpose(0, 1).flatten(0, 1)
            self._sum(Product(tail, tail.normed(states)), blocks, slice(0, rows), count)
            self._sum(Given(logits[chunk]), blocks, slice(rows, rows + 1), count)
        self.count += length

    def _sum(self, scores: Scores, blocks: list[slice], rows: slice, count: int) -> None:
        mass = log_mass(scores, blocks)
        for block in blocks:
            tile = scores.block(block)
            tile = tile.sub_(mass.to(tile.dtype)[:, None]).view(count, rows.stop - rows.start, -1)
            self.logs[rows, block] += tile.sum(0, dtype=torch.float64).cpu() * NATS
            self.mass[rows, block] += tile.exp2_().sum(0, dtype=torch.float64).cpu()

    def result(self) -> Marginals:
        """The averages."""
        return Marginals(self.names, self.count, self.mass / self.count, self.logs / self.count)
