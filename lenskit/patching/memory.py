"""Memory: what a sweep will keep, and whether there is room for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lenskit.models.sites import axes_of

if TYPE_CHECKING:
    from lenskit.models.model import Model

_MEMINFO = Path("/proc/meminfo")


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


def free_bytes(device: torch.device) -> int | None:
    """How many bytes are free on a device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    lines = (line.split() for line in _MEMINFO.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)


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
