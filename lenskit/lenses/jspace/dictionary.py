"""Dictionary: the directions of every token in one layer of a lens, multiplied block by block and never held."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.lenses.lens_directions import folded_rows, mean_row, pulled_back, unembedding
from lenskit.models.sites import Site

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens

_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class Dictionary:
    """One direction for each token, `v_t = (head[t] - shift) @ matrix`: as much memory as the matrix.

    Attributes:
        head: (vocab, d_model) the model's own unembedding.
        shift: (d_model,) what is taken off each row: the mean over the vocabulary, or zeros.
        matrix: (d_model, d_model) what the lens and the final norm's gain make of a row.
    """

    head: Tensor
    shift: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, lens: Lens, layer: int, *, folded: bool = True, centred: bool = True) -> Dictionary:
        """The directions of a lens at `resid_post` of a layer. Raises as `lens_directions` does."""
        head = unembedding(lens.model)
        wide = torch.promote_types(head.dtype, torch.float32)
        rows = torch.eye(head.shape[1], dtype=wide, device=head.device)
        rows = folded_rows(lens.model, rows) if folded else rows
        shift = mean_row(head) if centred else torch.zeros(head.shape[1])
        return cls(head, shift.to(rows), pulled_back(lens, rows, Site("resid_post", layer)))

    def turned(self, seed: int) -> Dictionary:
        """As many directions of the same spread, but of no tokens: the head's rows turned within their covariance.

        Which directions are common, and how tokens lie to each other up to that, stays as it is; so what this
        dictionary captures of a state is what any that is so large and so shaped would.
        """
        root, back = self._roots
        noise = torch.randn(root.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        turn, upper = torch.linalg.qr(noise)
        turn = turn * upper.diagonal().sign()  # every rotation as likely as the others
        return Dictionary(self.head, self.shift, (back @ turn @ root @ self.matrix.cpu().double()).to(self.matrix))

    @cached_property
    def _roots(self) -> tuple[Tensor, Tensor]:
        """The square root of the second moments of the shifted rows, and its inverse, in float64 on the CPU."""
        total = torch.zeros(self.matrix.shape, dtype=torch.float64)
        for block in self._blocks():
            rows = self._rows(block)
            total += (rows.T @ rows).cpu().double()
        values, vectors = torch.linalg.eigh(total / len(self.head))
        values = values.clamp_min(values[-1] * 1e-9)
        return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T

    @cached_property
    def norms(self) -> Tensor:
        """(vocab,) the length of each direction."""
        return torch.cat([(self._rows(block) @ self.matrix).norm(dim=-1) for block in self._blocks()])

    def atoms(self, ids: Tensor) -> Tensor:
        """(..., d_model) the directions of some tokens, of length one; zeros for the id -1."""
        rows = self.head[ids.clamp_min(0)].to(self.matrix) - self.shift
        unit = torch.nn.functional.normalize(rows @ self.matrix, dim=-1)
        return unit.masked_fill((ids < 0)[..., None], 0)

    def nearest(self, x: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
        """For each x (row, d_model), the token whose direction it points along most, and how far: its product with it.

        taken: (row, n) ids that are out of the question; -1 for none.
        """
        aim = x @ self.matrix.T
        offset = aim @ self.shift
        best, which = x.new_full((len(x),), -torch.inf), torch.full((len(x),), -1, device=x.device)
        for block in self._blocks():
            scores = torch.addmm(-offset[:, None], aim, self.head[block].to(aim).T)
            scores /= self.norms[block]
            here = (taken >= block.start) & (taken < block.stop)
            row, place = here.nonzero(as_tuple=True)
            scores[row, taken[row, place] - block.start] = -torch.inf
            peak, at = scores.nan_to_num_(nan=-torch.inf).max(-1)  # a direction of no length has no product
            better = peak > best
            best, which = torch.where(better, peak, best), torch.where(better, at + block.start, which)
        return which, best

    def _rows(self, block: slice) -> Tensor:
        return self.head[block].to(self.matrix) - self.shift

    def _blocks(self) -> list[slice]:
        vocab = len(self.head)
        return [slice(start, min(start + _BLOCK, vocab)) for start in range(0, vocab, _BLOCK)]
