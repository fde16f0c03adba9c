"""Written out: q, k, v, scores and pattern of an attention that its model computes by itself, function by function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lenskit.models.running.attention_math import Taker, attend
from lenskit.models.running.attention_ops import Operation, Performance
from lenskit.models.running.layout import laid_out


@dataclass(frozen=True)
class Recipe:
    """Which of the functions that an attention module calls, counted from 0, is what.

    Attributes:
        heads, kv_heads: how many there are, for tensors in which they and the batch are one axis.
        scores: the product of queries and keys; None where it could not be verified.
        softmax: the softmax of the scores; None where attention is one fused call.
        mix: the product of pattern and values, or the fused call.
        kinds: the kinds of these three calls, as the probe saw them.
    """

    heads: int
    kv_heads: int
    scores: int | None
    softmax: int | None
    mix: int
    kinds: Mapping[int, str]


RECIPES: WeakKeyDictionary[nn.Module, Recipe] = WeakKeyDictionary()
"""The attention modules that compute it by themselves, as far as an anatomy has found them."""


def perform(performance: Performance, at: int, call: Operation, takers: Mapping[str, Taker]) -> Any:
    """Make one call of an attention module, with those takers called whose tensors it has."""
    recipe = RECIPES[performance.module]
    if at not in recipe.kinds:
        return call()
    if recipe.kinds[at] != call.kind:
        raise RuntimeError(
            f"{type(performance.module).__name__} takes another path here than when it was examined: its function "
            f"number {at} is a {call.kind}, not a {recipe.kinds[at]}. Its q, k, v, scores and pattern cannot be seen."
        )
    if call.kind == "fused":
        return _fused(performance, call, takers)
    if at == recipe.scores:
        _changed(performance, call, takers, "q", 0, recipe.heads, transposed=False)
        _changed(performance, call, takers, "k", 1, recipe.kv_heads, transposed=True)
    elif at == recipe.softmax:
        _change_scores(call, takers, recipe.heads)
    elif at == recipe.mix:
        _changed(performance, call, takers, "v", 1, recipe.kv_heads, transposed=False)
        _change_pattern(call, takers, recipe.heads)
    return call()


def by_head(tensor: Tensor, heads: int) -> Tensor:
    """(batch, head, rows, columns), where batch and heads may be one axis: a view."""
    return tensor if tensor.dim() == 4 else tensor.unflatten(0, (-1, heads))


def masked(scores: Tensor) -> Tensor:
    """Which places are masked: by minus infinity, or by the dtype's lowest number, which may have been scaled since."""
    return scores <= torch.finfo(scores.dtype).min / 64


def _changed(
    performance: Performance,
    call: Operation,
    takers: Mapping[str, Taker],
    side: str,
    which: int,
    heads: int,
    *,
    transposed: bool,
) -> None:
    """Show queries, keys or values, and let the call work on what was made of them."""
    operand = call.operand(which)
    assert operand is not None
    states = by_head(operand.transpose(-1, -2) if transposed else operand, heads)
    if side == "q":
        performance.state["length"] = states.shape[2]
    take = takers.get(side)
    if take is None:
        return
    length = performance.state.get("length", states.shape[2])
    cached = [] if side == "q" else _in_cache(performance, states)
    new = take(states[:, :, -length:].transpose(1, 2))
    if new is None:
        return
    whole = new.transpose(1, 2)
    if states.shape[2] > length:
        whole = torch.cat([states[:, :, :-length], whole], 2)
    for layer, name in cached if not whole.requires_grad else ():
        setattr(layer, name, whole.to(states.dtype).clone())
    whole = whole if operand.dim() == 4 else whole.flatten(0, 1)
    call.replace(which, laid_out(operand, whole.transpose(-1, -2) if transposed else whole))


def _in_cache(performance: Performance, states: Tensor) -> list[tuple[Any, str]]:
    """Where the cache has these keys or values: what is changed has to be so in the forwards of the next tokens too."""
    layers = [layer for given in performance.given for layer in getattr(given, "layers", None) or ()]
    found = list[tuple[Any, str]]()
    for layer in layers:
        for name in ("keys", "values"):
            kept = getattr(layer, name, None)
            if isinstance(kept, Tensor) and kept.shape == states.shape and torch.equal(kept, states):
                found.append((layer, name))
    return found


def _change_scores(call: Operation, takers: Mapping[str, Taker], heads: int) -> None:
    given = call.operand(0)
    if given is None or (take := takers.get("scores")) is None:
        return
    hidden = masked(given)
    new = take(by_head(given.masked_fill(hidden, -torch.inf), heads))
    if new is not None:
        new = new.reshape(given.shape)
        # What is masked stays as the model has it: a row of which all is masked is then no row of NaN.
        call.replace(0, torch.where(hidden & new.isneginf(), given, new))


def _change_pattern(call: Operation, takers: Mapping[str, Taker], heads: int) -> None:
    given = call.operand(0)
    if given is None or (take := takers.get("pattern")) is None:
        return
    new = take(by_head(given, heads))
    if new is not None:
        call.replace(0, laid_out(given, new.reshape(given.shape)))


def _fused(performance: Performance, call: Operation, takers: Mapping[str, Taker]) -> Tensor:
    query, key, value, mask = (call.operand(which) for which in range(4))
    assert query is not None
    assert key is not None
    assert value is not None

    def own(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, None]:
        for which, tensor in enumerate((query, key, value)):
            call.replace(which, tensor)
        return call().transpose(1, 2), None

    def with_rest(module: nn.Module, *given: Any, **_: Any) -> tuple[Tensor, None]:
        return own(module, *given)

    out, _ = attend(with_rest, performance.module, query, key, value, mask, fused_rest(call), takers)
    return out.transpose(1, 2)


def fused_rest(call: Operation) -> dict[str, Any]:
    """What the fused function is told besides its tensors, in the words of transformers' attention functions."""
    causal = call.args[5] if len(call.args) > 5 else call.kwargs.get("is_causal", False)
    return {"scaling": call.kwargs.get("scale"), "is_causal": bool(causal)}
