"""Product: states times the unembedding, one block of the vocabulary at a time, in bits.

Everything that streams over the vocabulary runs in bits (base 2), because the factor log2(e) can be folded into the
states and exp2 is a third of the price of exp.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from lenskit.models.finding.placed import is_plain
from lenskit.models.steps import finish
from lenskit.row_products import row_products

if TYPE_CHECKING:
    from lenskit.models.anatomy import Tail

BITS = math.log2(math.e)
NATS = math.log(2)
NEVER = -1e30  # the logit of a token that is left out: finite, so that nothing times it is nothing and not NaN
TILE_ROWS = 1024
TILE_NUMBERS = 1 << 21
WIDEST = 1 << 13


class Scores(Protocol):
    """Logits of some rows that can be asked for block by block."""

    def block(self, block: slice) -> Tensor:
        """(row, block) logits in bits, free to be overwritten."""
        ...


def blocks_of(head: nn.Module, vocab: int, rows: int) -> list[slice]:
    """Blocks of the vocabulary: only a plain linear head can be asked for some of its rows."""
    if not has_rows(head):
        return [slice(0, vocab)]
    most = min(WIDEST, max(256, TILE_NUMBERS // max(1, rows) // 256 * 256))
    count = -(-vocab // most)
    width = -(-vocab // count // 256) * 256  # all about as wide as each other
    return [slice(v, min(v + width, vocab)) for v in range(0, vocab, width)]


def has_rows(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether the head is a matrix whose rows are there to be read: not quantised, and not brought by accelerate."""
    return type(head) is nn.Linear and is_plain(head.weight) and not hasattr(head, "_hf_hook")


class Product:
    """The unembedding of some rows (row, d_model), which the final norm has already seen.

    exclude: ids of tokens that are left out of every prediction.
    """

    def __init__(self, tail: Tail, rows: Tensor, exclude: Tensor | None = None) -> None:
        self.tail, self.rows, self.exclude = tail, rows, exclude
        self.linear = tail.head if has_rows(tail.head) else None
        # Scaling the states costs nothing; where rounding or a soft-cap forbids it, the tile is scaled instead.
        self.folded = self.linear is not None and tail.softcap is None and rows.dtype in (torch.float32, torch.float64)
        if self.folded:
            self.rows = rows * (BITS * tail.scale)

    def block(self, block: slice) -> Tensor:
        """(row, block) logits in bits, free to be overwritten."""
        return without(self._block(block), block, self.exclude)

    def _block(self, block: slice) -> Tensor:
        if self.linear is None:
            return self.tail.finish(self.tail.head(self.rows)).float().mul_(BITS)
        scores = row_products(self.rows, self.linear.weight[block])
        if self.linear.bias is not None:
            factor = BITS * self.tail.scale if self.folded else 1.0
            scores.add_(self.linear.bias[block], alpha=factor)
        return scores if self.folded else self.tail.finish(scores).float().mul_(BITS)

    def at(self, tokens: Mapping[str, Tensor], layers: int) -> dict[str, Tensor] | None:
        """(pos * layer,) logits in bits of one token for each position, by name, or None where blocks are whole anyway.

        Where there is no token, -1, the number means nothing.
        """
        if self.linear is None:
            return None
        return {name: self._of(ids.repeat_interleave(layers), self.linear) for name, ids in tokens.items()}

    def _of(self, ids: Tensor, linear: nn.Linear) -> Tensor:
        """(row,) the logit in bits of one token of each row."""
        scores = (self.rows * linear.weight[ids]).sum(-1)
        if linear.bias is not None:
            scores = scores + linear.bias[ids] * (BITS * self.tail.scale if self.folded else 1.0)
        scores = scores if self.folded else self.tail.finish(scores).float().mul_(BITS)
        return scores if self.exclude is None else scores.masked_fill(torch.isin(ids, self.exclude), NEVER)


class Given:
    """Logits (row, vocab) that are there already, such as the model's own."""

    def __init__(self, logits: Tensor, exclude: Tensor | None = None) -> None:
        self.logits, self.exclude = logits, exclude

    def block(self, block: slice) -> Tensor:
        """(row, block) logits in bits."""
        return without(self.logits[:, block].float() * BITS, block, self.exclude)


def without(tile: Tensor, block: slice, exclude: Tensor | None) -> Tensor:
    """The tile (row, block), in which what is left out of every prediction can never come."""
    if exclude is not None:
        here = exclude[(exclude >= block.start) & (exclude < block.stop)] - block.start
        tile[:, here] = NEVER
    return tile


def log_mass(scores: Scores, blocks: list[slice]) -> Tensor:
    """(row,) the log-sum-exp of each row in bits, in float64, over one pass of the vocabulary."""
    return finish(log_mass_in_steps(scores, blocks))


def log_mass_in_steps(scores: Scores, blocks: list[slice]) -> Generator[float, None, Tensor]:
    """The same; yields the share done after each block."""
    highest: Tensor | None = None
    mass = torch.zeros(())
    for n, block in enumerate(blocks):
        tile = scores.block(block)
        peak = tile.amax(-1)
        if highest is None:
            highest, mass = peak, torch.zeros_like(peak, dtype=torch.float64)
        rising = torch.maximum(highest, peak)
        mass = mass * torch.exp2((highest - rising).double())
        highest = rising
        mass += tile.sub_(highest[:, None]).exp2_().sum(-1)
        yield (n + 1) / len(blocks)
    assert highest is not None
    return highest.double() + torch.log2(mass)
