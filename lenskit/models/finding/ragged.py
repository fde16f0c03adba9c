"""Ragged: rows of different length in one batch, and on which side of them this model can do with padding."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lenskit.models.finding.probe import same
from lenskit.models.taps import Point, Taker, tapped

if TYPE_CHECKING:
    from lenskit.models.anatomy import Anatomy

Side = Literal["left", "right"]

# What configurations call the length of the pieces in which a model attends, where these are counted from the first
# column and not from the first token: padding on the left moves them.
_PIECES = ("attention_chunk_size", "index_block_size")
_TURNED = ("q", "k", "scores")


class Ragged:
    """How a padded batch is given to the model, and whether each of its rows then comes out as if it were alone."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._why_not: dict[str, str | None] = {}

    def arguments(self, mask: Tensor | None) -> dict[str, Tensor]:
        """What the model is given besides the tokens: the mask, and each token's true position, if it takes them."""
        if mask is None:
            return {}
        given = {"attention_mask": mask}
        if self._first_position is not None:
            given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp_min(0) + self._first_position
        return given

    def refusal(self, side: Side, length: int) -> str | None:
        """Why a batch cannot be padded on this side, or None where each row comes out as if alone, as measured."""
        if side not in self._why_not:
            self._why_not[side] = self._measure(side)
        family = self._anatomy.family
        if reason := self._why_not[side]:
            return f"{family} {reason}"
        config: Any = self._anatomy.text_config
        pieces = [piece for name in _PIECES if isinstance(piece := getattr(config, name, None), int)]
        if side == "left" and pieces and length > min(pieces):
            return f"{family} attends in pieces of {min(pieces)} columns, which padding on the left would move"
        return None

    @cached_property
    def _first_position(self) -> int | None:
        """The number that the model gives to the first position, or None where positions cannot be given to it."""
        model, probe = self._anatomy.model, self._anatomy.probe
        takes = inspect.signature(type(model).forward).parameters
        if "position_ids" not in takes:
            return None
        positions = torch.arange(probe.tokens.shape[1], device=probe.tokens.device)[None]
        # Models of RoBERTa's kind count from the one after the padding token.
        padding = getattr(self._anatomy.text_config, "pad_token_id", None)
        for first in (0, *([padding + 1] if isinstance(padding, int) and padding >= 0 else [])):
            if same(self._logits(probe.tokens, position_ids=positions + first), probe.logits):
                return first
        return None

    def _measure(self, side: Side) -> str | None:
        """Run a row of five tokens and one of three together, and the three alone."""
        leaks = f"does not keep padding on the {side} out of its numbers"
        tokens = self._anatomy.probe.tokens
        short = tokens[:, 1:4]
        filler = torch.zeros_like(tokens[:, :2])
        row = torch.cat([filler, short] if side == "left" else [short, filler], -1)
        mask = torch.ones(2, 5, dtype=torch.long, device=tokens.device)
        mask[1, :2] = 0 if side == "left" else 1
        mask[1, 3:] = 0 if side == "right" else 1
        try:
            padded = self._seen(torch.cat([tokens, row]), **self.arguments(mask))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # this is the finding
            return f"fails on padded rows ({type(error).__name__}: {error})"
        alone, real = self._seen(short), mask[1].bool()
        if padded[0].shape[:2] != mask.shape or len(padded) != len(alone):
            return leaks
        least = 1e-3 if alone[0].dtype in (torch.float32, torch.float64) else 0.1
        kept = all(_same_row(many[1], one[0], real, least) for many, one in zip(padded, alone, strict=True))
        return None if kept else leaks

    def _seen(self, tokens: Tensor, **more: Tensor) -> list[Tensor]:
        """The logits; and queries, keys and scores of the first layer that has them, which positions may turn."""
        seen = list[Tensor]()
        spots = [self._anatomy.layers[at[0]].spots[name] for name in _TURNED if (at := self._anatomy.layers_of(name))]
        takers: dict[Point, Taker] = {
            spot.point: spot.taking(lambda tensor: seen.append(tensor.clone())) for spot in spots
        }
        with tapped(takers):
            logits = self._logits(tokens, **more)
        return [logits, *seen]

    def _logits(self, tokens: Tensor, **more: Tensor) -> Tensor:
        with torch.no_grad(), self._anatomy.eagerly():
            return self._anatomy.model(input_ids=tokens, **more).logits


def _same_row(many: Tensor, alone: Tensor, real: Tensor, least: float) -> bool:
    """Whether the real part of one row is what it is alone."""
    # (pos, ...), or (head, query, key)
    many = many[real] if many.shape[0] == real.shape[0] else many[:, real][..., real]
    hidden = alone.isneginf()
    return same(many.masked_fill(hidden, 0), alone.masked_fill(hidden, 0), least)
