"""The arithmetic of attention: scores, pattern and their mix of the values, of the arguments of an attention call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.running.doors import Taker
from lenskit.models.running.layout import laid_out

Attend = Callable[..., tuple[Tensor, Tensor | None]]


def attend(
    own: Attend,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kwargs: Mapping[str, Any],
    takers: Mapping[str, Taker],
) -> tuple[Tensor, Tensor | None]:
    """The model's own attention, with every taker called on the way."""
    if take := takers.get("q"):
        query = changed(query, take(query.transpose(1, 2)))
    if take := takers.get("k"):
        key = newest_changed(key, query.shape[2], take)
    if take := takers.get("v"):
        value = newest_changed(value, query.shape[2], take)
    out, weights = own(module, query, key, value, mask, **kwargs)
    if "scores" in takers or "pattern" in takers:
        new = _look_at_pattern(module, query, key, mask, kwargs, takers)
        if new is not None:
            rows, pattern = new
            mixed = mix(pattern, value)
            out = mixed if rows is None else laid_out(out, torch.where(rows, mixed, out))
    return out, weights


def _look_at_pattern(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    kwargs: Mapping[str, Any],
    takers: Mapping[str, Taker],
) -> tuple[Tensor | None, Tensor] | None:
    """Show scores and pattern. Where they were changed: which (batch, query, head, 1) rows, and the new pattern.

    The rows that nobody changed keep the output of the model's own kernel to the last bit. None for the rows stands
    for all of them, where gradients must flow through the pattern.
    """
    scores = scores_of(module, query, key, mask, kwargs)
    sink = kwargs.get("s_aux")
    new_scores = takers["scores"](scores) if "scores" in takers else None
    before = pattern_of(scores, sink, padded=mask is not None)
    pattern = before if new_scores is None else pattern_of(new_scores, sink)
    new_pattern = takers["pattern"](pattern) if "pattern" in takers else None
    if new_scores is None and new_pattern is None:
        return None
    after = pattern if new_pattern is None else new_pattern
    if after.requires_grad:
        return None, after
    return (after != before).any(-1).transpose(1, 2)[..., None], after


def scores_of(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: Mapping[str, Any]) -> Tensor:
    """(batch, head, query, key): scaled, soft-capped, biased and masked as the arguments of an attention call say.

    A masked place is minus infinity. Whether this is what the model's own implementation computes is for the anatomy
    to verify: `mix(pattern_of(scores), value)` must be the attention's output.
    """
    length, seen = query.shape[2], key.shape[2]
    scaling = kwargs.get("scaling")
    # In place from here on: the product is nobody else's.
    scores = grouped(query, key, transpose=True).mul_(query.shape[-1] ** -0.5 if scaling is None else scaling)
    if (cap := kwargs.get("softcap")) is not None:
        scores = torch.tanh(scores / cap) * cap
    if (bias := kwargs.get("position_bias")) is not None:
        scores = scores + bias[..., :seen]
    if mask is not None:
        mask = mask[..., :seen]
        if mask.dtype == torch.bool:
            return scores.masked_fill_(~mask, -torch.inf)
        # Some masks are made of the dtype's lowest number, some of minus infinity, and some carry a bias as well.
        return (scores + mask).masked_fill(mask <= torch.finfo(mask.dtype).min / 2, -torch.inf)
    is_causal = kwargs.get("is_causal")
    if length > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        scores = scores.masked_fill_(_later(length, seen, query.device), -torch.inf)
    return scores


_last_later: list[tuple[object, Tensor]] = []


def _later(length: int, seen: int, device: torch.device) -> Tensor:
    """(query, key): which keys come after a query. All layers of a forward ask for the same one, so it is kept."""
    wanted = (length, seen, device)
    if _last_later and _last_later[0][0] == wanted:
        return _last_later[0][1]
    later = torch.ones(length, seen, dtype=torch.bool, device=device).triu_(1)
    # What is made of fake tensors, or in inference mode, is of no use elsewhere.
    if not (torch._C._len_torch_dispatch_stack() or torch.is_inference_mode_enabled() or later.numel() > 1 << 22):
        _last_later[:] = [(wanted, later)]
    return later


def pattern_of(scores: Tensor, sink: Tensor | None = None, *, padded: bool = True) -> Tensor:
    """(batch, head, query, key): the softmax of the scores; with attention sinks, what they leave over.

    A row in which every place is masked, as in padding, is all zeros; `padded=False` says that there is none.
    """
    if sink is not None:
        column = sink.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        return torch.softmax(torch.cat([scores, column.to(scores.dtype)], -1).float(), -1)[..., :-1].to(scores.dtype)
    pattern = torch.softmax(scores, -1, dtype=torch.float32 if scores.dtype.itemsize < 4 else None).to(scores.dtype)
    return pattern.masked_fill(scores.isneginf().all(-1, keepdim=True), 0.0) if padded else pattern


def mix(pattern: Tensor, value: Tensor) -> Tensor:
    """(batch, query, head, d_head): each head's values (batch, kv_head, key, d_head), weighted by its pattern."""
    return grouped(pattern.to(value.dtype), value, transpose=False).transpose(1, 2).contiguous()


def grouped(left: Tensor, right: Tensor, *, transpose: bool) -> Tensor:
    """`left @ right`, where each group of `left`'s heads shares one head of `right`."""
    if transpose:
        right = right.transpose(2, 3)
    heads, shared = left.shape[1], right.shape[1]
    if heads == shared or shared == 1:
        return left @ right
    return (left.unflatten(1, (shared, heads // shared)) @ right[:, :, None]).flatten(1, 2)


def changed(tensor: Tensor, new: Tensor | None) -> Tensor:
    return tensor if new is None else laid_out(tensor, new.transpose(1, 2))


def newest_changed(states: Tensor, length: int, take: Taker) -> Tensor:
    """Keys or values of the positions of this forward; those before them, from a cache, stay as they are.

    What is returned is never written into the states: other layers may share them. While generating, takers write into
    what they are given, so that the cache holds what attention saw.
    """
    newest = states if states.shape[2] == length else states[:, :, -length:]
    new = take(newest.transpose(1, 2))
    if new is None:
        return states
    new = new.transpose(1, 2)
    return laid_out(states, new if states.shape[2] == length else torch.cat([states[:, :, :-length], new], 2))
