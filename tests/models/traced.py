"""Tiny models for the tests of traces, and their sites in the order in which a forward comes by."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.models.attention import attention_modules
from lenskit.models.running.attention_ops import listened_to
from lenskit.models.sites import LAYERED, Site, SiteUnavailable
from tests.models.tiny import tiny

# Grouped queries; learned positions; soft-caps and post-norms; parallel blocks with one norm and with two; a residual
# multiplier; norms on queries; and two that compute attention by themselves.
FAMILIES = ["llama", "gpt2", "gemma2", "gpt_neox", "phi", "granite", "qwen3", "falcon", "bloom"]


@cache
def model(family: str = "llama", seed: int = 0) -> lk.Model:
    return lk.Model(tiny(family, seed=seed))


def ids(length: int = 6, rows: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(1, 131, (rows, length), generator=torch.Generator().manual_seed(seed))


@cache
def sites(family: str) -> list[Site]:
    """Every site of the family, layer by layer, in the order of the forward."""
    anatomy, found = model(family).anatomy, []
    for name in model(family).sites.reasons:
        for layer in range(anatomy.depth) if name in LAYERED else [None]:
            try:
                found.append(anatomy.order.station(Site(name, layer)))
            except SiteUnavailable:
                continue
    return [station.site for station in sorted(found, key=lambda station: station.times[0])]


def random_like(tensor: Tensor, seed: int = 2) -> Tensor:
    made = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    return made.softmax(-1) if tensor.dim() == 4 and tensor.shape[-1] == tensor.shape[-2] else made


def hooks(module: nn.Module) -> int:
    """How many hooks are on the module and within it, of whatever kind, and forwards that stand in for its own."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_pre_hooks_with_kwargs)
        + len(m._forward_hooks_with_kwargs) + len(m._backward_hooks) + ("forward" in m.__dict__)
        for m in module.modules()
    )  # fmt: skip


def nothing_left(of: lk.Model) -> bool:
    """Whether the model, and what stands between it and transformers, is as if lenskit had never been there."""
    from transformers import AttentionInterface

    registry: dict[str, Any] = AttentionInterface._global_mapping
    ours = [name for name, function in registry.items() if "lenskit" in getattr(function, "__module__", "")]
    modules = list(of.hf_model.modules())
    return not (hooks(of.hf_model) or ours or attention_modules(modules) or listened_to())
