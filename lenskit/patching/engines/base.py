"""Base: the run of the unpatched prompt, with what every block and every attention was called with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.attention import recorded
from lenskit.models.model import Model
from lenskit.models.sites import LAST, Site, SiteUnavailable
from lenskit.models.taps import called_with


@dataclass(frozen=True, eq=False)
class Attended:
    """One call of an attention function: keys and values (pos, kv_head, d_head), and what else it was given."""

    module: nn.Module
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    kwargs: Mapping[str, Any]


@dataclass(eq=False)
class Layer:
    """What one block was called with, and the attention functions that were called within it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attention: list[Attended] = field(default_factory=list)


@dataclass(eq=False)
class Base:
    """The run of the prompt itself.

    Attributes:
        tokens: (1, pos).
        resid: for every layer what enters it, and at last what leaves the last one, (pos, d_model) each; none where
            the blocks' inputs and outputs are not the residual stream.
        logits: (pos, vocab), where the tail could not be followed.
        layers: what the blocks were called with; empty unless it was asked for.
        seconds: how long the run took.
    """

    tokens: Tensor
    resid: list[Tensor]
    logits: Tensor | None
    layers: list[Layer]
    seconds: float

    @property
    def length(self) -> int:
        """How many positions the prompt has."""
        return self.tokens.shape[1]


def run_base(model: Model, tokens: Tensor, calls: bool) -> Base:
    """Run the prompt; with `calls`, note down what blocks and attention functions are called with."""
    begun = time.perf_counter()
    last = model.n_layers - 1
    keep = ["resid_pre", ("resid_post", last)] if has_stream(model) else []
    stop_at = ("resid_post", last) if keep and has_tail(model) else None
    if not calls:
        run, layers = model.run(tokens, keep=keep, stop_at=stop_at), list[Layer]()
    else:
        layers = list[Layer]()

        def record(
            module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, more: Mapping[str, Any], _: Tensor
        ) -> None:
            attended.append((sum(map(len, seen.values())) - 1, Attended(module, _rows(k), _rows(v), mask, more)))

        attended = list[tuple[int, Attended]]()
        with called_with(model.anatomy.blocks) as seen, recorded(record):
            run = model.run(tokens, keep=keep, stop_at=stop_at)
        layers = [Layer(*seen[block][0]) for block in model.anatomy.blocks if seen[block]]
        for layer, each in attended:
            if layer >= 0:
                layers[layer].attention.append(each)
    resid = [run["resid_pre", layer][0] for layer in range(last + 1)] + [run["resid_post", last][0]] if keep else []
    logits = None if stop_at is not None else run.logits[0]
    return Base(run.tokens, resid, logits, layers, time.perf_counter() - begun)


def _rows(states: Tensor) -> Tensor:
    """(pos, kv_head, d_head) of keys or values (1, kv_head, pos, d_head), as one block of memory."""
    return states.detach()[0].transpose(0, 1).contiguous()


def has_stream(model: Model) -> bool:
    """Whether the inputs and outputs of all blocks are the residual stream."""
    return all(not {"resid_pre", "resid_post"} - found.spots.keys() for found in model.anatomy.layers)


def has_tail(model: Model) -> bool:
    """Whether the way from the last residual to the logits could be followed, and no edit that stays stands on it."""
    edited = (Site.parse(edit.writes) for edit in model.edits)
    if any(site.name in LAST or site.is_path for site in edited):
        return False
    try:
        return model.anatomy.tail is not None
    except SiteUnavailable:
        return False


def growing(short: Any, long: Any) -> Any:
    """Of what a block was called with for prompts of two lengths: which axis of each tensor is that of the positions.

    The structure is that of the arguments; None stands where nothing is to be chosen by position: where no axis grew,
    or several (a mask), or where it is the keys' (a bias of the scores).
    """
    if isinstance(short, Tensor) and isinstance(long, Tensor):
        if short.dim() != long.dim():
            return None
        grown = [axis for axis in range(long.dim()) if short.shape[axis] != long.shape[axis]]
        fits = len(grown) == 1 and (grown[0] <= 1 or not long.is_floating_point())
        return grown[0] if fits else None
    if isinstance(short, Mapping) and isinstance(long, Mapping):
        return {key: growing(short[key], long[key]) for key in long if key in short}
    if isinstance(short, tuple | list) and isinstance(long, tuple | list) and len(short) == len(long):
        return [growing(a, b) for a, b in zip(short, long, strict=True)]
    return None


def chosen(value: Any, axes: Any, pos: Tensor) -> Any:
    """What a block is called with, of the chosen positions only; and without a cache, which is for whole prompts."""
    from transformers import Cache

    if isinstance(value, Cache):
        return None
    if isinstance(value, Tensor):
        return value if axes is None else value.index_select(axes, pos.to(value.device))
    if isinstance(value, Mapping):
        axes = axes or {}
        return {key: chosen(part, axes.get(key), pos) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [chosen(part, axis, pos) for part, axis in zip(value, axes or [None] * len(value), strict=True)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def width_of(model: Model) -> int:
    """The most numbers that a block makes of one position in one place."""
    sizes = (max(weight.shape) for weight in model.anatomy.blocks.parameters() if weight.dim() > 1)
    return max(sizes, default=1)


def itemsize(model: Model) -> int:
    """Bytes of one number of an activation."""
    return torch.empty((), dtype=model.dtype).element_size()
