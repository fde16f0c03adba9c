"""Blocks: the list of the layers that a text goes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lenskit.models.finding.placed import without_numbers
from lenskit.models.sites import SiteUnavailable
from lenskit.models.taps import watched


def find_blocks(model: nn.Module, depth: int | None, family: str) -> nn.ModuleList:
    """The module list as long as the configuration says, or else any; of several the heaviest that text goes through.

    Raises `SiteUnavailable` for a model without a list of modules.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    fitting = [blocks for blocks in lists if len(blocks) == depth] or lists
    if not fitting:
        raise SiteUnavailable(
            f"{family} has no list of blocks: lenskit found no torch.nn.ModuleList in it. "
            "It can be run, but has none of lenskit's named sites."
        )
    if len(fitting) > 1 and not without_numbers(model):
        fitting = _that_run(model, fitting) or fitting
    return max(fitting, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def _that_run(model: Any, lists: list[nn.ModuleList]) -> list[nn.ModuleList]:
    """Those in which something runs on a text: a tower for images or sound can be just as deep."""
    ran = set[nn.Module]()
    tokens = torch.zeros(1, 2, dtype=torch.long, device=model.get_input_embeddings().weight.device)
    first = [module for blocks in lists for module in blocks]
    with watched(first, lambda module, given: ran.add(module), lambda module, output: None), torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    return [blocks for blocks in lists if not ran.isdisjoint(blocks)]
