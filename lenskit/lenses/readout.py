"""Read-out: from states to top-k and statistics, streamed over the vocabulary in tiles.

Logits of all layers and positions never exist at once. A tile, some positions x all layers x a block of the vocabulary,
is multiplied out, told to the running statistics and overwritten.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lenskit.lenses.product import BITS, TILE_ROWS, Product, blocks_of, without
from lenskit.lenses.running import Running
from lenskit.lenses.shown import Shown

if TYPE_CHECKING:
    from lenskit.models.anatomy import Tail


class Asked(NamedTuple):
    """What is asked of each position, beside the distributions themselves.

    Attributes:
        top_k: how many tokens to keep in each cell.
        target: (pos,) token ids, or None for the token that the model itself finally predicts at each position.
        versus: (pos,) token ids, a second target.
        following: (pos,) the tokens that follow in the text; -1 where none does.
        exclude: ids of tokens that are left out of every prediction.
        shown: (vocab,) the tokens that may be among the top, or None for all; everything else counts them all.
    """

    top_k: int
    target: Tensor | None = None
    versus: Tensor | None = None
    following: Tensor | None = None
    exclude: Tensor | None = None
    shown: Tensor | None = None

    def to(self, device: torch.device) -> Asked:
        """The same, where the logits are."""
        moved = (part.to(device) if isinstance(part, Tensor) else part for part in self)
        return Asked(*moved)  # pyright: ignore[reportArgumentType] -- field by field

    def at(self, positions: slice) -> Asked:
        """What is asked of some of the positions."""
        asked = {name: getattr(self, name) for name in ("target", "versus", "following")}
        return self._replace(**{name: None if ids is None else ids[positions] for name, ids in asked.items()})


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
        versus_ids, versus_log_prob: of the second target, or None where none was asked for.
        following_log_prob: (pos, layer), nats, NaN where nothing follows; or None where that was not asked for.
    """

    top_ids: np.ndarray
    top_probs: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    target_ids: np.ndarray
    target_log_prob: np.ndarray
    target_rank: np.ndarray
    versus_ids: np.ndarray | None = None
    versus_log_prob: np.ndarray | None = None
    following_log_prob: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target_ids)

    def __getitem__(self, positions: slice) -> Columns:
        own = (getattr(self, f.name) for f in fields(self))
        return Columns(*(None if array is None else array[positions] for array in own))  # pyright: ignore

    def then(self, more: Columns) -> Columns:
        """These columns, and more to the right of them. What only one of the two has is left out."""
        pairs = ((getattr(self, f.name), getattr(more, f.name)) for f in fields(self))
        both = (None if a is None or b is None else np.concatenate([a, b]) for a, b in pairs)
        return Columns(*both)  # pyright: ignore[reportArgumentType] -- field by field


def read_out(states: Tensor, logits: Tensor, tail: Tail, asked: Asked) -> Generator[float, None, Columns]:
    """Read every layer's states, and yield the share done after each tile.

    Args:
        states: (layer, pos, d_model), already transported to the final residual; all layers but the last.
        logits: (pos, vocab), the model's own: they are the last layer's row, and what KL is taken to.
        tail: the model's own path to logits.
        asked: what to read of each position.
    """
    layers, length, _ = states.shape
    asked = asked.to(logits.device)
    if asked.target is None:
        asked = asked._replace(target=_likeliest(logits, asked.exclude))
    per_chunk = max(1, TILE_ROWS // max(1, layers))
    chunks = [slice(p, min(p + per_chunk, length)) for p in range(0, length, per_chunk)]
    blocks = blocks_of(tail.head, logits.shape[1], min(per_chunk, length) * layers)
    parts: list[Columns] = []
    for n, chunk in enumerate(chunks):
        here = asked.at(chunk)
        final, last = _own(logits[chunk], here)
        rows = states[:, chunk].transpose(0, 1).flatten(0, 1)
        product = Product(tail, tail.normed(rows), asked.exclude)
        tokens = _tokens(here)
        others = Running(len(final), layers, asked.top_k, tokens, product.at(tokens, layers))
        shown = None if asked.shown is None else Shown(len(rows), asked.top_k, asked.shown)
        for b, block in enumerate(blocks if layers else ()):
            tile = product.block(block)
            if shown is not None:
                shown.add(tile, block.start)
            others.add(tile.view(len(final), layers, -1), block.start, final[:, block])
            del tile  # before there is another
            yield (n + (b + 1) / len(blocks)) / len(chunks)
        parts.append(_joined(last, others, here, shown))
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.then(part)
    return whole


def _likeliest(logits: Tensor, exclude: Tensor | None) -> Tensor:
    return (logits if exclude is None else logits.index_fill(1, exclude, -torch.inf)).argmax(-1)


def _own(logits: Tensor, asked: Asked) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's own predictions (pos, vocab) as probabilities, and their statistics."""
    bits = without(logits.float() * BITS, slice(0, logits.shape[1]), asked.exclude)
    own = Running(len(bits), 1, asked.top_k, _tokens(asked), None)
    shown = None if asked.shown is None else Shown(len(bits), asked.top_k, asked.shown)
    if shown is not None:
        shown.add(bits, 0)
    own.add(bits[:, None], 0, None)  # which leaves the bits relative to their maximum
    weights = bits.exp2_()
    said = own.results()
    return weights.div_(weights.sum(-1, keepdim=True)), (shown.in_place_of(said, keep_first=True) if shown else said)


def _tokens(asked: Asked) -> dict[str, Tensor]:
    """The tokens (pos,) of which a log-probability is asked."""
    there = {"target": asked.target, "versus": asked.versus, "following": asked.following}
    return {name: ids for name, ids in there.items() if ids is not None}


def _joined(last: dict[str, Tensor], others: Running, asked: Asked, shown: Shown | None) -> Columns:
    """The other layers' results, with the model's own prediction as the last layer."""
    rest = others.results() if others.shape[1] else {name: value[:, :0] for name, value in last.items()}
    if shown is not None and others.shape[1]:
        rest = shown.in_place_of(rest)
    both = {name: torch.cat([rest[name], last[name]], dim=1) for name in last}
    # KL(final || layer) is the cross-entropy of the two, less the final prediction's own entropy.
    both["kl"] = (both.pop("cross_entropy") - last["entropy"]).clamp_min(0)
    both["kl"][:, -1] = 0
    numpy = {
        name: (value.float() if value.is_floating_point() else value).cpu().numpy() for name, value in both.items()
    }
    assert asked.target is not None
    versus = None if asked.versus is None else asked.versus.int().cpu().numpy()
    return Columns(target_ids=asked.target.int().cpu().numpy(), versus_ids=versus, **numpy)
