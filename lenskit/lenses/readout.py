"""Read-out: from states to top-k and statistics, streamed over the vocabulary in tiles.

Logits of all layers and positions never exist at once. A tile, some positions x all layers x a block of the vocabulary,
is multiplied out, told to the running statistics and overwritten. Everything runs in bits (base 2), because the factor
log2(e) can be folded into the states and exp2 is a third of the price of exp.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from lenskit.lenses.running import Running
from lenskit.models.finding.placed import is_plain

if TYPE_CHECKING:
    from lenskit.models.anatomy import Tail

BITS = math.log2(math.e)
TILE_ROWS = 1024
TILE_NUMBERS = 3 << 19
WIDEST = 1 << 13


@dataclass(frozen=True)
class Columns:
    """What was read at some positions. The position comes first, so that a longer prompt appends.

    Attributes:
        top_ids, top_probs: (pos, layer, k), the likeliest token first.
        entropy: (pos, layer), nats.
        kl: (pos, layer), nats; from the model's final prediction to the layer's, KL(final || layer).
        target_ids: (pos,).
        target_log_prob: (pos, layer), nats.
        target_rank: (pos, layer), how many tokens are likelier than the target.
    """

    top_ids: np.ndarray
    top_probs: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    target_ids: np.ndarray
    target_log_prob: np.ndarray
    target_rank: np.ndarray

    def __len__(self) -> int:
        return len(self.target_ids)

    def __getitem__(self, positions: slice) -> Columns:
        return Columns(*(getattr(self, f.name)[positions] for f in fields(self)))

    def then(self, more: Columns) -> Columns:
        """These columns, and more to the right of them."""
        return Columns(*(np.concatenate([getattr(self, f.name), getattr(more, f.name)]) for f in fields(self)))


def read_out(
    states: Tensor, logits: Tensor, tail: Tail, top_k: int, target: Tensor | None
) -> Generator[float, None, Columns]:
    """Read every layer's states, and yield the share done after each tile.

    Args:
        states: (layer, pos, d_model), already transported to the final residual; all layers but the last.
        logits: (pos, vocab), the model's own: they are the last layer's row, and what KL is taken to.
        tail: the model's own path to logits.
        top_k: how many tokens to keep in each cell.
        target: (pos,) token ids, or None for the token that the model itself finally predicts at each position.
    """
    layers, length, _ = states.shape
    target_ids = logits.argmax(-1) if target is None else target.to(logits.device)
    per_chunk = max(1, TILE_ROWS // max(1, layers))
    chunks = [slice(p, min(p + per_chunk, length)) for p in range(0, length, per_chunk)]
    blocks = _blocks(tail.head, logits.shape[1], min(per_chunk, length) * layers)
    parts: list[Columns] = []
    for n, chunk in enumerate(chunks):
        final, last = _own(logits[chunk], top_k, target_ids[chunk])
        rows = states[:, chunk].transpose(0, 1).flatten(0, 1)
        product = _Product(tail, tail.normed(rows))
        others = Running(len(final), layers, top_k, target_ids[chunk], product.at(target_ids[chunk], layers))
        for b, block in enumerate(blocks if layers else ()):
            others.add(product.block(block).view(len(final), layers, -1), block.start, final[:, block])
            yield (n + (b + 1) / len(blocks)) / len(chunks)
        parts.append(_joined(last, others, target_ids[chunk]))
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.then(part)
    return whole


def _own(logits: Tensor, top_k: int, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's own predictions (pos, vocab) as probabilities, and their statistics."""
    bits = logits.float() * BITS
    own = Running(len(bits), 1, top_k, target, bits)
    own.add(bits[:, None], 0, None)  # which leaves the bits relative to their maximum
    weights = bits.exp2_()
    return weights.div_(weights.sum(-1, keepdim=True)), own.results()


def _blocks(head: nn.Module, vocab: int, rows: int) -> list[slice]:
    """Blocks of the vocabulary: only a plain linear head can be asked for some of its rows."""
    if not _has_rows(head):
        return [slice(0, vocab)]
    width = min(WIDEST, max(256, TILE_NUMBERS // max(1, rows) // 256 * 256))
    return [slice(v, min(v + width, vocab)) for v in range(0, vocab, width)]


def _has_rows(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether the head is a matrix whose rows are there to be read: not quantised, and not brought by accelerate."""
    return type(head) is nn.Linear and is_plain(head.weight) and not hasattr(head, "_hf_hook")


class _Product:
    """The unembedding of some rows, block by block into one reused buffer, in bits."""

    def __init__(self, tail: Tail, rows: Tensor) -> None:
        self.tail, self.rows = tail, rows
        self.linear = tail.head if _has_rows(tail.head) else None
        # Scaling the states costs nothing; where rounding or a soft-cap forbids it, the tile is scaled instead.
        self.folded = self.linear is not None and tail.softcap is None and rows.dtype in (torch.float32, torch.float64)
        if self.folded:
            self.rows = rows * (BITS * tail.scale)
        self.buffer: Tensor | None = None

    def block(self, block: slice) -> Tensor:
        """(row, block) logits in bits. Valid until the next call."""
        if self.linear is None:
            return self.tail.finish(self.tail.head(self.rows)).float().mul_(BITS)
        weight = self.linear.weight[block]
        if self.buffer is None or self.buffer.shape[1] != weight.shape[0]:
            self.buffer = self.rows.new_empty(self.rows.shape[0], weight.shape[0])
        scores = torch.mm(self.rows, weight.T, out=self.buffer)
        if self.linear.bias is not None:
            factor = BITS * self.tail.scale if self.folded else 1.0
            scores.add_(self.linear.bias[block], alpha=factor)
        return scores if self.folded else self.tail.finish(scores).float().mul_(BITS)

    def at(self, ids: Tensor, layers: int) -> Tensor | None:
        """(pos * layer,) logits in bits of one token for each position, or None where blocks are whole anyway."""
        if self.linear is None:
            return None
        chosen = ids.repeat_interleave(layers)
        scores = (self.rows * self.linear.weight[chosen]).sum(-1)
        if self.linear.bias is not None:
            scores = scores + self.linear.bias[chosen] * (BITS * self.tail.scale if self.folded else 1.0)
        return scores if self.folded else self.tail.finish(scores).float().mul_(BITS)


def _joined(last: dict[str, Tensor], others: Running, target_ids: Tensor) -> Columns:
    """The other layers' results, with the model's own prediction as the last layer."""
    rest = others.results() if others.layers else {name: value[:, :0] for name, value in last.items()}
    both = {name: torch.cat([rest[name], last[name]], dim=1) for name in last}
    # KL(final || layer) is the cross-entropy of the two, less the final prediction's own entropy.
    both["kl"] = (both.pop("cross_entropy") - last["entropy"]).clamp_min(0)
    both["kl"][:, -1] = 0
    numpy = {
        name: (value.float() if value.is_floating_point() else value).cpu().numpy() for name, value in both.items()
    }
    return Columns(target_ids=target_ids.int().cpu().numpy(), **numpy)
