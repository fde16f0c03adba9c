"""Shown: the likeliest of some of the tokens, beside statistics that count them all."""

from __future__ import annotations

import torch
from torch import Tensor

from lenskit.largest import largest


class Shown:
    """The top k of each row among the tokens of a mask, streamed over blocks of the vocabulary.

    It looks at the same scores as the running statistics and changes none of them, so that ranks and probabilities
    stay those of the whole vocabulary.
    """

    def __init__(self, rows: int, top_k: int, mask: Tensor) -> None:
        self.mask, self.top_k = mask, top_k
        self.scores = torch.full((rows, top_k), -torch.inf, device=mask.device)
        self.ids = torch.zeros(rows, top_k, dtype=torch.int64, device=mask.device)
        self.peaks = torch.full((rows,), -torch.inf, device=mask.device)

    def add(self, tile: Tensor, start: int) -> None:
        """Take note of scores (row, block), in bits, of the tokens from `start` on; the tile stays as it is."""
        self.peaks = torch.maximum(self.peaks, tile.amax(-1).to(self.peaks.dtype))
        there = self.mask[start : start + tile.shape[-1]].nonzero()[:, 0]
        if not len(there):
            return
        scores, at = largest(tile.index_select(1, there), min(self.top_k, len(there)))
        scores = torch.cat([self.scores, scores.to(self.scores.dtype)], 1)
        ids = torch.cat([self.ids, there[at] + start], 1)
        self.scores, order = scores.topk(self.top_k, dim=1)
        self.ids = ids.gather(1, order)

    def in_place_of(self, results: dict[str, Tensor], *, keep_first: bool = False) -> dict[str, Tensor]:
        """The results with these tokens in the place of all: `top_ids` and `top_probs`, (..., k).

        `keep_first`: whatever the likeliest of all is, it stays in front.
        """
        ids, probs = results["top_ids"], results["top_probs"]
        scores = self.scores.view(probs.shape).double()
        mass = self.peaks.view(probs.shape[:-1]).double() - probs[..., 0].double().log2()
        shown, likely = self.ids.view(ids.shape).to(ids.dtype), torch.exp2(scores - mass[..., None]).to(probs.dtype)
        if keep_first:
            new = shown[..., :1] != ids[..., :1]
            shown = torch.where(new, torch.cat([ids[..., :1], shown[..., :-1]], -1), shown)
            likely = torch.where(new, torch.cat([probs[..., :1], likely[..., :-1]], -1), likely)
        return {**results, "top_ids": shown, "top_probs": likely}
