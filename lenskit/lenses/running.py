"""Running statistics of many rows of logits, told to them block by block."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lenskit.lenses.product import NATS, NEVER

_GROUPS = 64
_HEADROOM = 64.0  # bits by which a later logit may exceed the reference before exp2 comes near overflow


class Running:
    """Log-sum-exp, entropy, KL, top-k and the target's rank of (pos, layer) rows, over one pass of the vocabulary.

    Logits come in bits and are taken relative to a reference near each row's maximum (as in flash attention), so that
    nothing overflows and sums of large numbers do not cancel. Sums over blocks are kept in float64.

    Args:
        positions, layers: the shape of the rows.
        top_k: how many tokens to keep.
        target: (pos,) the token whose rank and probability are asked for.
        known: the target's logits in bits where they can be had beforehand: (pos, vocab) whole rows of one layer, or
            (pos * layer,); or None if each block is the whole vocabulary.
        watched: other tokens whose log-probability is asked for, by the name of the result: (pos,), or -1 for none.
    """

    def __init__(
        self,
        positions: int,
        layers: int,
        top_k: int,
        target: Tensor,
        known: Tensor | None,
        watched: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.positions, self.layers, self.top_k = positions, layers, top_k
        rows = positions * layers
        self.target = target.repeat_interleave(layers)
        if known is not None and known.dim() == 2:
            known = known.gather(1, target[:, None])[:, 0]
        self.target_score = known
        self.device = target.device
        self.watched = {name: ids.repeat_interleave(layers) for name, ids in (watched or {}).items()}
        self.scores = {name: torch.full((rows,), torch.nan, device=self.device) for name in self.watched}
        self.reference: Tensor | None = None
        self.mass, self.moment, self.cross, self.weight = (
            torch.zeros(rows, dtype=torch.float64, device=self.device) for _ in range(4)
        )
        self.above = torch.zeros(rows, dtype=torch.int32, device=self.device)
        self.best = torch.empty(rows, 0, device=self.device)
        self.best_ids = torch.empty(rows, 0, dtype=torch.int64, device=self.device)
        self.spare: Tensor | None = None

    def add(self, tile: Tensor, first: int, final: Tensor | None) -> None:
        """Tell of a tile (pos, layer, block) of logits in bits, from token `first` on. The tile is overwritten.

        `final` is (pos, block): the probabilities of the model's own prediction, or None for those rows themselves. The
        tile is left relative to the reference.
        """
        tile = tile.flatten(0, 1)
        if self.spare is None or self.spare.shape != tile.shape:
            self.spare = torch.empty_like(tile)
        peaks = self._take_top(tile, first)
        self._count_above(tile, first)
        self._watch(tile, first)
        self._refer(peaks)
        assert self.reference is not None
        tile.sub_(self.reference[:, None])

        if final is not None:
            shaped = (self.positions, self.layers, -1)
            weighted = torch.mul(tile.view(shaped), final[:, None], out=self.spare.view(shaped))
            self.cross += weighted.sum(-1).flatten()
            self.weight += final.sum(-1, dtype=torch.float64).repeat_interleave(self.layers)
        mass = torch.exp2(tile, out=self.spare)
        self.mass += mass.sum(-1)
        self.moment += mass.mul_(tile).sum(-1)

    def results(self) -> dict[str, Tensor]:
        """The statistics as (pos, layer, ...) tensors, in nats; `cross_entropy` is the final prediction's, if given."""
        assert self.reference is not None
        assert self.target_score is not None
        lse = torch.log2(self.mass)  # relative to the reference, as all sums are
        entropy = (lse - self.moment / self.mass) * NATS
        expected = self.cross / self.weight
        order = self.best.argsort(dim=-1, descending=True, stable=True)
        best = self.best.gather(1, order)
        reference = self.reference.double()
        shape = (self.positions, self.layers)

        def log_prob(score: Tensor) -> Tensor:
            found = ((score.double() - reference - lse) * NATS).clamp_max(0)
            return found.masked_fill(score <= NEVER, -torch.inf).float().view(shape)

        return {
            "top_ids": self.best_ids.gather(1, order).int().view(*shape, -1),
            "top_probs": torch.exp2(best.double() - (reference + lse)[:, None]).float().view(*shape, -1),
            "entropy": entropy.clamp_min(0).view(shape),
            "cross_entropy": ((lse - expected) * NATS).view(shape),
            "target_log_prob": log_prob(self.target_score),
            "target_rank": self.above.view(shape),
            **{name: log_prob(score) for name, score in self.scores.items()},
        }

    def _refer(self, peaks: Tensor) -> None:
        """Choose the reference at the first block; move it where a later logit exceeds it by far."""
        if self.reference is None:
            self.reference = peaks.clone()
            return
        over = peaks > self.reference + _HEADROOM
        if not bool(over.any()):
            return
        rise = torch.where(over, peaks - self.reference, 0.0)
        shrink = torch.exp2(-rise.double())
        self.moment = (self.moment - rise * self.mass) * shrink
        self.mass *= shrink
        self.cross -= rise * self.weight
        self.reference = self.reference + rise

    def _watch(self, tile: Tensor, first: int) -> None:
        """Take down the logits of the watched tokens that are in this tile."""
        for name, ids in self.watched.items():
            inside = (ids >= first) & (ids < first + tile.shape[1])
            column = (ids - first).clamp(0, tile.shape[1] - 1)[:, None]
            self.scores[name] = torch.where(inside, tile.gather(1, column)[:, 0], self.scores[name])

    def _count_above(self, tile: Tensor, first: int) -> None:
        """Count the logits above the target's. The target itself may round differently: it is never counted."""
        assert self.spare is not None
        inside = (self.target >= first) & (self.target < first + tile.shape[1])
        column = (self.target - first).clamp(0, tile.shape[1] - 1)[:, None]
        here = tile.gather(1, column)[:, 0]
        if self.target_score is None:
            self.target_score = here.clone()
        above = torch.gt(tile, self.target_score[:, None], out=self.spare).sum(-1)
        self.above += (above - (inside & (here > self.target_score)).float()).int()

    def _take_top(self, tile: Tensor, first: int) -> Tensor:
        """Merge the tile's largest logits into the best so far, and return each row's largest."""
        peaks, groups = _group_peaks(tile)
        full = self.best.shape[1] == self.top_k
        rows = torch.nonzero(peaks > self.best.amin(-1))[:, 0] if full else None
        if rows is not None and not rows.numel():
            return peaks
        values, ids = _largest(tile, groups, self.top_k, rows)
        best, best_ids = (self.best, self.best_ids) if rows is None else (self.best[rows], self.best_ids[rows])
        values, ids = torch.cat([best, values], 1), torch.cat([best_ids, ids + first], 1)
        chosen = values.topk(min(self.top_k, values.shape[1]), sorted=False).indices
        if rows is None:
            self.best, self.best_ids = values.gather(1, chosen), ids.gather(1, chosen)
        else:
            self.best[rows], self.best_ids[rows] = values.gather(1, chosen), ids.gather(1, chosen)
        return peaks


def _group_peaks(tile: Tensor) -> tuple[Tensor, Tensor | None]:
    """Each row's largest value, and the largest of each of 64 interleaved groups where the width divides."""
    rows, width = tile.shape
    if width % _GROUPS or width < 16 * _GROUPS:
        return tile.amax(-1), None
    groups = tile.view(rows, -1, _GROUPS).amax(1)
    return groups.amax(-1), groups


def _largest(tile: Tensor, groups: Tensor | None, k: int, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """The k largest values of each row and their columns: the k groups of the largest peaks hold them all."""
    if groups is None or k > _GROUPS // 2:
        picked = tile if rows is None else tile[rows]
        values, columns = picked.topk(min(k, tile.shape[1]), sorted=False)
        return values, columns
    if rows is not None:
        tile, groups = tile[rows], groups[rows]
    chosen = groups.topk(k, sorted=False).indices
    depth = tile.shape[1] // _GROUPS
    members = tile.view(tile.shape[0], depth, _GROUPS).gather(2, chosen[:, None].expand(-1, depth, -1))
    values, place = members.flatten(1).topk(k, sorted=False)
    return values, (place // k) * _GROUPS + chosen.gather(1, place % k)
