"""Recipes: which functions of a module that computes attention by itself make its scores, its pattern and its output.

Found and verified on two forwards of the same length: a product whose left operand is what a softmax gave mixes the
values; and a product makes the scores if what goes into the softmax differs, from one forward to the other, as the
product does, up to one factor (so that masks and biases by position, which are the same in both, do not matter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenskit.models.finding.probe import noise, same
from lenskit.models.finding.wrapped import eager
from lenskit.models.running.attention_math import mix, pattern_of, scores_of
from lenskit.models.running.attention_ops import Operation, Performance, listening
from lenskit.models.running.attention_written import Recipe, by_head, fused_rest, masked

NO_ATTENTION = "what mixes positions in the block is no softmax attention"


@dataclass(eq=False)
class Made:
    """One function that a module has called, and what came out."""

    kind: str
    operands: tuple[Tensor | None, ...]
    out: Tensor
    call: Operation


@dataclass(eq=False)
class WrittenOut:
    """The attention found in a module: its recipe, its output (batch, pos, head, d_head), and what is not there."""

    recipe: Recipe
    out: Tensor
    no_scores: str | None = None
    no_product: str | None = None


def written_out(model: nn.Module, modules: Iterable[nn.Module], tokens: Tensor) -> dict[nn.Module, WrittenOut | str]:
    """What was found in each of the modules, or the reason why there is nothing."""
    runs = [_watch(model, modules, ids) for ids in (tokens, tokens.flip(-1))]
    found = dict[nn.Module, WrittenOut | str]()
    for module in modules:
        first, second = (run.get(module, []) for run in runs)
        same_path = [made.kind for made in first] == [made.kind for made in second]
        found[module] = _find(module, first, second) if same_path else "it takes another path for other tokens"
    return found


def _watch(model: nn.Module, modules: Iterable[nn.Module], tokens: Tensor) -> dict[nn.Module, list[Made]]:
    seen = dict[nn.Module, list[Made]]()

    def act(performance: Performance, at: int, call: Operation) -> object:
        count = {"softmax": 1, "fused": 4}.get(call.kind, 2)
        operands = [call.operand(which) for which in range(count)]
        copies = tuple(None if each is None else each.clone() for each in operands)
        out = call()
        # A second call of the same module begins at 0 again, and is told apart by that.
        if at == 0:
            seen[performance.module] = []
        seen[performance.module].append(Made(call.kind, copies, out.clone(), call))
        return out

    with listening(modules, act), eager(model.modules()), torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    return seen


def _find(module: nn.Module, first: list[Made], second: list[Made]) -> WrittenOut | str:
    fused = [at for at, made in enumerate(first) if made.kind == "fused"]
    mixes = [(at, mix) for at, made in enumerate(first) if made.kind == "softmax" and (mix := _mix(first, at))]
    if len(fused) + len(mixes) != 1:
        return NO_ATTENTION if not fused and not mixes else "the block computes attention several times"
    if fused:
        return _find_fused(module, fused[0], first[fused[0]])
    ((softmax, mixing),) = mixes
    pattern, values = first[mixing].operands
    assert pattern is not None
    assert values is not None
    scores = _scores(first, second, softmax)
    heads = pattern.shape[-3]
    kv_heads = values.shape[-3]
    kinds = {softmax: "softmax", mixing: first[mixing].kind} | ({} if scores is None else {scores: first[scores].kind})
    out = by_head(first[mixing].out, heads).transpose(1, 2)
    reason = None if scores is not None else "no product of queries and keys gives the scores up to a factor"
    return WrittenOut(Recipe(heads, kv_heads, scores, softmax, mixing, kinds), out, no_product=reason)


def _mix(made: list[Made], softmax: int) -> int | None:
    """The product of what a softmax gave with something: the first one after it."""
    pattern = made[softmax].out
    for at in range(softmax + 1, len(made)):
        left = made[at].operands[0]
        if made[at].kind != "product" or left is None or left.dim() not in (3, 4) or left.numel() != pattern.numel():
            continue
        if torch.equal(left.reshape(-1), pattern.to(left.dtype).reshape(-1)):
            return at
    return None


def _scores(first: list[Made], second: list[Made], softmax: int) -> int | None:
    """The product that the softmax's input comes from: the last one before it of that size that proves to."""
    inputs = [made[softmax].operands[0] for made in (first, second)]
    assert inputs[0] is not None
    assert inputs[1] is not None
    # Where both forwards have the same, something other than the product was put there: a mask.
    seen = ~masked(inputs[0]) & (inputs[0] != inputs[1])
    change = torch.where(seen, inputs[0].double() - inputs[1].double(), 0)
    largest = torch.where(seen, inputs[0], 0).abs().max().double()
    for at in reversed(range(softmax)):
        made = first[at]
        if made.kind.startswith("product") and made.out.numel() == change.numel() and made.out.dim() in (3, 4):
            by = torch.where(seen, (made.out - second[at].out).reshape(change.shape), 0).double()
            factor = float((by * change).sum() / by.square().sum().clamp_min(1e-30))
            # Each score was rounded, some after a large bias was added.
            allowed = noise(made.out) * change.abs().max() + 8 * torch.finfo(made.out.dtype).eps * largest
            if factor != 0 and bool(((by * factor - change).abs() <= allowed).all()):
                return at
    return None


def _find_fused(module: nn.Module, at: int, made: Made) -> WrittenOut | str:
    query, key, value, mask = made.operands
    if query is None or key is None or value is None or query.dim() != 4:
        return NO_ATTENTION
    rest: Mapping[str, object] = fused_rest(made.call)
    ours = mix(pattern_of(scores_of(module, query, key, mask, rest)), value)
    recipe = Recipe(query.shape[1], key.shape[1], None, None, at, {at: "fused"})
    differs = None if same(ours, made.out.transpose(1, 2)) else "the softmax of the scores, times the values, is not z"
    return WrittenOut(recipe, made.out.transpose(1, 2), no_scores=differs)
