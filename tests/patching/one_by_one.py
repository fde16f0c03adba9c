"""A sweep as one would do it by hand: one whole forward for each cell, nothing used twice, nothing left out.

The forwards are those of `tests.models.by_hand`, written out tensor by tensor, so that nothing of lenskit is in them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lenskit.models.model import Model
from tests.models.by_hand import by_hand
from tests.models.tiny import tiny

Values = dict[tuple[str, int | None], Tensor]
Number = Callable[[Tensor], float]
"""A metric: of logits (pos, vocab)."""


class Part(NamedTuple):
    """What one cell changes."""

    layers: Sequence[int]
    pos: Sequence[int]
    heads: Sequence[int] | None = None
    neurons: Sequence[int] | None = None


@cache
def model_of(family: str) -> Model:
    """A tiny random model of a family, made once."""
    return Model(tiny(family, seed=3))


@torch.no_grad()
def everything(hf: Any, ids: Sequence[int], noise: Tensor | None = None) -> tuple[Values, Tensor]:
    """All activations of a prompt, without the batch axis, and its logits (pos, vocab)."""
    seen: Values = {}

    def see(site: str, layer: int | None, x: Tensor) -> Tensor:
        x = x + noise if site == "embed" and noise is not None else x
        seen[site, layer] = x[0].clone()
        return x

    return seen, by_hand(hf, torch.tensor([list(ids)]), see)[0]


@torch.no_grad()
def patched(
    hf: Any,
    ids: Sequence[int],
    site: str,
    part: Part,
    values: Values,
    align: dict[int, int] | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Logits (pos, vocab) of the prompt with a part of a site changed to `values`."""

    def change(here: str, layer: int | None, x: Tensor) -> Tensor:
        if here == "embed" and noise is not None:
            return x + noise
        if here != site or layer not in part.layers:
            return x
        x, new = x.clone(), values[site, layer]
        for pos in part.pos:
            there = pos if align is None else align[pos]
            for head in part.heads if part.heads is not None else [slice(None)]:
                if site in ("pattern", "scores"):
                    x[0, head, pos] = new[head, there]
                elif site in ("q", "k", "v", "z"):
                    x[0, pos, head] = new[there, head]
                else:
                    chosen = slice(None) if part.neurons is None else list(part.neurons)
                    x[0, pos, chosen] = new[there, chosen]
        return x

    return by_hand(hf, torch.tensor([list(ids)]), change)[0]


def parts(over: Sequence[str], size: dict[str, int], pos: Sequence[int], window: int = 1) -> Iterator[Part]:
    """The cells of a grid in the order of its axes. `pos`: the positions that can be patched."""
    axes = {"layer": range(size["layer"]), "pos": pos, "head": range(size["head"]), "neuron": range(size["neuron"])}
    for place in product(*(axes[name] for name in over)):
        at = dict(zip(over, place, strict=True))
        first = at["layer"] - window // 2
        layers = [layer for layer in range(size["layer"]) if first <= layer < first + window]
        where = [at["pos"]] if "pos" in at else pos
        yield Part(layers, where, [at["head"]] if "head" in at else None, [at["neuron"]] if "neuron" in at else None)


def one_by_one(
    hf: Any,
    ids: Sequence[int],
    site: str,
    over: Sequence[str],
    values: Values,
    number: Number,
    *,
    pos: Sequence[int] | None = None,
    window: int = 1,
    align: dict[int, int] | None = None,
    noise: Tensor | None = None,
) -> np.ndarray:
    """The metric of every cell, one forward for each, in the shape of the grid."""
    layers = 1 + max(layer for name, layer in values if name == site and layer is not None)
    first = values[site, 0]
    heads = first.shape[0 if site in ("pattern", "scores") else 1] if site in ("q", "k", "v", "z", "pattern") else 0
    size = {"layer": layers, "head": heads, "neuron": first.shape[-1], "pos": len(ids)}
    where = list(range(len(ids)) if pos is None else pos)
    cells = list(parts(over, size, where, window))
    numbers = [number(patched(hf, ids, site, part, values, align, noise)) for part in cells]
    return np.array(numbers).reshape([len(where) if name == "pos" else size[name] for name in over])
