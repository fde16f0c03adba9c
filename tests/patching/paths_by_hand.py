"""Path patching written out: every head held by hand, what arrives recorded, and a second pass with it. No lenskit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.models.by_hand import by_hand

HEADS = 4


def values(hf: Any, ids: Tensor) -> dict[tuple[str, int], Tensor]:
    """Every site of a prompt."""
    found = dict[tuple[str, int], Tensor]()

    def touch(site: str, layer: int | None, x: Tensor) -> Tensor:
        found[site, -1 if layer is None else layer] = x.clone()
        return x

    with torch.no_grad():
        by_hand(hf, ids, touch)
    return found


def path_patched(
    hf: Any,
    base: Tensor,
    other: Tensor,
    sender: tuple[str, int, int],
    receivers: Sequence[tuple[str, int, int]],
    pos: Sequence[int],
    mlps: bool = True,
) -> Tensor:
    """The logits (1, pos, vocab) when the receivers read what the sender says in `other`, along direct paths only.

    A sender is ("z" | "mlp_out" | "attn_out" | "embed", layer, head); a receiver ("q" | "k" | "v", layer, query head),
    ("mlp_in", layer, -1) or ("resid_post", layer, -1).
    """
    own, new = values(hf, base), values(hf, other)
    recorded = dict[tuple[str, int], Tensor]()
    places = list(pos)

    def freezing(site: str, layer: int | None, x: Tensor) -> Tensor:
        layer = -1 if layer is None else layer
        recorded[site, layer] = x.clone()
        if site == "resid_pre" and layer == 0 and sender[0] == "embed":
            x = x.clone()
            x[:, places] = new[site, 0][:, places]
        held = site == "z" or (site == "mlp_out" and not mlps)
        if held or (site, layer) == sender[:2] or (site == "attn_out" and sender[:2] == ("attn_out", layer)):
            x = own[site, layer].clone() if held else x.clone()
            if (site, layer) == sender[:2]:
                if site == "z":
                    x[:, places, sender[2]] = new[site, layer][:, places, sender[2]]
                else:
                    x[:, places] = new[site, layer][:, places]
        return x

    def receiving(site: str, layer: int | None, x: Tensor) -> Tensor:
        layer = -1 if layer is None else layer
        for name, at, head in receivers:
            if (name, at) != (site, layer):
                continue
            x = x.clone()
            if head < 0:
                x[:, places] = recorded[site, layer][:, places]
            else:
                x[:, places, head] = recorded[site, layer][:, places, head]
        return x

    with torch.no_grad():
        by_hand(hf, base, freezing)
        return by_hand(hf, base, receiving)
