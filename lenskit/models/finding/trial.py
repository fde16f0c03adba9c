"""Trial: a forward in which the middle of every block is changed, to see whether the change arrives at its end.

What the MLP's norm reads is changed in place, because the residual stream beside it is to be the same tensor. In some
models it is a copy, in another dtype: there a change would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.finding.heads import Found
from lenskit.models.finding.probe import share
from lenskit.models.running.doors import in_order
from lenskit.models.taps import Point, Taker, tapped

_LOST = "what the MLP reads is a copy of the residual stream, in which a change would be lost"
_SITES = ("resid_mid", "mlp_out", "resid_post")


def try_middles(model: nn.Module, tokens: Tensor, layers: Sequence[Found]) -> None:
    """Take `resid_mid` off the sites of the layers in which the MLP is not added to what is written there."""
    tried = [layer for layer, found in enumerate(layers) if all(name in found.spots for name in _SITES)]
    if not tried:
        return
    seen = dict[tuple[str, int], Tensor]()

    def take(name: str, layer: int, tensor: Tensor) -> Tensor | None:
        made = tensor.roll(1, -1) if name == "resid_mid" else tensor
        seen[name, layer] = made.clone()
        return made if name == "resid_mid" else None

    points = dict[Point, list[Taker]]()
    for layer in tried:
        for name in _SITES:
            spot = layers[layer].spots[name]
            points.setdefault(spot.point, []).append(spot.taking(partial(take, name, layer), len(tokens)))
    run: Any = model
    with tapped({point: in_order(takes) for point, takes in points.items()}), torch.no_grad():
        run(input_ids=tokens, use_cache=False)
    for layer in tried:
        middle, added, post = (seen.get((name, layer)) for name in _SITES)
        if middle is None or added is None or post is None:
            continue
        if share(middle, post, added, torch.zeros_like(added)) != (1.0, 1.0):
            del layers[layer].spots["resid_mid"]
            layers[layer].missing["resid_mid"] = _LOST
