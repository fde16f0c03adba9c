"""Memory: what a sweep will keep, and whether there is room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lenskit.models.memory import free_bytes
from lenskit.models.sites import axes_of

if TYPE_CHECKING:
    from lenskit.models.model import Model


def kept_bytes(model: Model, site: str, layers: int, length: int) -> int:
    """About how many bytes the activations of a site take in so many layers, for a prompt of this length: at most."""
    size = torch.empty((), dtype=model.dtype).element_size()
    config = model.anatomy.model.config.get_text_config(decoder=True)  # pyright: ignore -- a PreTrainedModel
    if axes_of(site).pos == 2:
        heads = getattr(config, "num_attention_heads", None) or 1
        return layers * heads * length * length * size
    weights = (max(weight.shape) for weight in model.anatomy.blocks.parameters() if weight.dim() > 1)
    width = config.hidden_size if site.startswith("resid") or site.endswith("_out") else max(weights, default=1)
    return layers * length * width * size


def check_memory(model: Model, needed: int, allowed: int | None, what: str) -> None:
    """Raise `MemoryError`, with the figures and the remedy, for what is more than is free, or than is allowed."""
    room = free_bytes(model.device) if allowed is None else allowed
    if room is not None and needed > room:
        raise MemoryError(
            f"{what} would take {_size(needed)}, and {'there are' if allowed is None else 'memory= allows'} "
            f"{_size(room)}. Sweep fewer layers= at a time, a shorter prompt, or fewer positions=."
        )


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
