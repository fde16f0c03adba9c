"""Running statistics of many rows of logits, told to them block by block."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lenskit.largest import group_peaks, largest_under
from lenskit.lenses.product import NATS, NEVER

PART_NUMBERS = 1 << 18
"""How much of a tile goes through all passes at a time: what the next pass reads is then still near the processor."""


class Running:
    """Log-sum-exp, entropy, KL, top-k and the target's rank of (pos, layer) rows, over one pass of the vocabulary.

    Logits come in bits. In each block they are taken relative to the row's maximum there, so that nothing overflows and
    sums of large numbers do not cancel (as in flash attention, but the blocks' sums are put together only at the end,
    in float64: they are few).

    Args:
        positions, layers: the shape of the rows.
        top_k: how many tokens to keep.
        tokens: the tokens (pos,) whose log-probability is asked for, by name; -1 for none. The rank of `target`, which
            must be there, is counted too.
        known: their logits in bits (pos * layer,), where they can be had beforehand, which a rank must be counted
            against; or None if there is but one block, the whole vocabulary.
    """

    def __init__(
        self, positions: int, layers: int, top_k: int, tokens: Mapping[str, Tensor], known: Mapping[str, Tensor] | None
    ) -> None:
        self.shape, self.top_k, self.tokens = (positions, layers), top_k, tokens
        self.known = None if known is None else {name: score.view(self.shape) for name, score in known.items()}
        device = tokens["target"].device
        self.itself = torch.zeros(self.shape, dtype=torch.int64, device=device)
        self.sums: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.best: Tensor | None = None
        self.best_ids = torch.zeros(positions * layers, top_k, dtype=torch.int64, device=device)
        self.spare: Tensor | None = None

    def add(self, tile: Tensor, first: int, final: Tensor | None) -> None:
        """Tell of a tile (pos, layer, block) of logits in bits, from token `first` on. The tile is overwritten.

        `final` is (pos, block): the probabilities of the model's own prediction, or None for those rows themselves. The
        tile is left relative to the maximum of each row.
        """
        if self.known is None:
            whole = {name: ids.clamp_min(0)[:, None, None] for name, ids in self.tokens.items()}
            self.known = {name: tile.gather(2, ids.expand(-1, tile.shape[1], 1))[..., 0] for name, ids in whole.items()}
        self._leave_out_itself(tile, first)
        final = None if final is None else final.to(tile.dtype)
        sums = tile.new_zeros(5, *self.shape)
        step = max(1, PART_NUMBERS // (tile.shape[1] * tile.shape[2]))
        for start in range(0, len(tile), step):
            part = slice(start, min(start + step, len(tile)))
            self._pass(tile[part], part, first, None if final is None else final[part], sums[:, part])
        self.sums.append(sums)
        self.weights.append(
            sums.new_zeros(len(tile), dtype=torch.float64) if final is None else final.sum(-1, dtype=torch.float64)
        )

    def results(self) -> dict[str, Tensor]:
        """The statistics as (pos, layer, ...) tensors, in nats; `cross_entropy` is the final prediction's, if given."""
        assert self.known is not None
        assert self.best is not None
        peaks, mass, moment, cross, above = torch.stack(self.sums, 1).double()  # each (block, pos, layer)
        weight = torch.stack(self.weights)[..., None]
        peak = peaks.amax(0)
        down = peaks - peak
        share = torch.exp2(down)
        total = (share * mass).sum(0)
        entropy = torch.log2(total) - (share * (moment + down * mass)).sum(0) / total
        expected = (cross + down * weight).sum(0) / weight.sum(0)
        lse = peak + torch.log2(total)
        order = self.best.argsort(dim=-1, descending=True, stable=True)

        def log_prob(name: str) -> Tensor:
            assert self.known is not None
            score = self.known[name]
            found = ((score.double() - lse) * NATS).clamp_max(0).masked_fill(score <= NEVER, -torch.inf)
            return found.masked_fill(self.tokens[name][:, None] < 0, torch.nan).float()

        return {
            "top_ids": self.best_ids.gather(1, order).int().view(*self.shape, -1),
            "top_probs": torch.exp2(self.best.gather(1, order).double().view(*self.shape, -1) - lse[..., None]).float(),
            "entropy": (entropy * NATS).clamp_min(0),
            "cross_entropy": (torch.log2(total) - expected) * NATS,
            "target_rank": above.sum(0).int() - self.itself,
            **{f"{name}_log_prob": log_prob(name) for name in self.tokens},
        }

    def _pass(self, tile: Tensor, part: slice, first: int, final: Tensor | None, sums: Tensor) -> None:
        """All that is asked of some positions of a tile. `sums` are their peak, mass, moment, cross and count above.

        Nearly every line reads or writes the whole part: this is what a reading costs beside the product.
        """
        assert self.known is not None
        peaks, mass, moment, cross, above = sums
        peaks.copy_(self._take_top(tile.flatten(0, 1), part, first).view(peaks.shape))
        spare = self._spare(tile)
        torch.sum(torch.gt(tile, self.known["target"][part, :, None], out=spare), -1, out=above)
        tile.sub_(peaks[..., None])
        if final is not None:
            torch.sum(torch.mul(tile, final[:, None], out=spare), -1, out=cross)
        torch.sum(torch.exp2(tile, out=spare), -1, out=mass)
        torch.sum(spare.mul_(tile), -1, out=moment)

    def _spare(self, like: Tensor) -> Tensor:
        if self.spare is None or self.spare.numel() < like.numel():
            self.spare = like.new_empty(like.numel())
        return self.spare[: like.numel()].view(like.shape)

    def _leave_out_itself(self, tile: Tensor, first: int) -> None:
        """Where the target itself came out a rounding above its logit, it must not be counted as above it."""
        assert self.known is not None
        target, width = self.tokens["target"], tile.shape[2]
        inside = ((target >= first) & (target < first + width)).nonzero()[:, 0]
        if len(inside):
            here = tile[inside, :, target[inside] - first]
            self.itself[inside] += here > self.known["target"][inside]

    def _take_top(self, tile: Tensor, part: slice, first: int) -> Tensor:
        """Merge the largest logits of a tile (row, block) into the best so far, and return each row's largest."""
        if self.best is None:
            self.best = tile.new_full(self.best_ids.shape, -torch.inf)
        layers = self.shape[1]
        mine = slice(part.start * layers, part.stop * layers)
        best, best_ids = self.best[mine], self.best_ids[mine]
        groups = group_peaks(tile, self.top_k)
        peaks = groups.amax(-1)
        rows = (peaks > best.amin(-1)).nonzero()[:, 0]
        if not len(rows):
            return peaks
        if 2 * len(rows) > len(tile):  # to search the others too is cheaper than to copy these
            rows = slice(None)
        values, columns = largest_under(tile[rows], groups[rows], self.top_k)
        values, ids = torch.cat([best[rows], values], 1), torch.cat([best_ids[rows], columns + first], 1)
        chosen = values.topk(self.top_k, sorted=False).indices
        best[rows], best_ids[rows] = values.gather(1, chosen), ids.gather(1, chosen)
        return peaks
