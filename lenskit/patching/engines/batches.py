"""Batches: one batch of whole prompts per layer: right for any model that can be run at all.

The batch begins at the layer in which its cells begin, where the model can do that, and its changes are made in one
indexed copy for each site.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor

from lenskit.models.edits import Call
from lenskit.models.model import Model
from lenskit.models.sites import SiteUnavailable
from lenskit.models.steps import in_steps
from lenskit.patching.cells import Cell
from lenskit.patching.engines.base import Base, itemsize, width_of
from lenskit.patching.engines.ends import Ends
from lenskit.patching.engines.writes import OF_PATTERNS, Writes, writes_of


def batches_of(cells: Sequence[Cell], most: int) -> Iterator[list[int]]:
    """Which cells go together: those that begin in one layer, at most so many, the first ones first."""
    by_layer = dict[int, list[int]]()
    for number, cell in enumerate(cells):
        by_layer.setdefault(cell.layer, []).append(number)
    for numbers in by_layer.values():
        for start in range(0, len(numbers), most):
            yield numbers[start : start + most]


def bytes_of_cell(model: Model, base: Base) -> int:
    """The memory that one cell takes in a batch, roughly."""
    width, heads = width_of(model), getattr(model.anatomy.text_config, "num_attention_heads", None) or 1
    hidden = base.resid[0].shape[-1] if base.resid else width
    numbers = base.length * (8 * hidden + 3 * width + heads * base.length)
    if not base.resid or base.logits is not None:
        numbers += 2 * base.length * model.anatomy.vocab
    return numbers * itemsize(model)


def run_batch(
    model: Model, base: Base, cells: Sequence[Cell], read: Sequence[int], *, from_start: bool = False
) -> Generator[None, None, Ends]:
    """One batch, with a pause before each block; with `from_start`, no layer is left out."""
    layer, last = min(cell.layer for cell in cells), model.n_layers - 1
    edits = [
        Call(site, _put(writes), layers=at) for at, sites in writes_of(cells).items() for site, writes in sites.items()
    ]
    tokens = base.tokens.expand(len(cells), -1)
    start_at, resid = None, None
    if layer > 0 and base.resid and not from_start and _can_start(model, layer):
        start_at, resid = layer, base.resid[layer].expand(len(cells), -1, -1)
    with_tail = base.logits is None

    def compute() -> Ends:
        site = ("resid_post", last)
        if with_tail:
            run = model.run(
                tokens, edits=edits, keep=site, pos=list(read), start_at=start_at, resid=resid, stop_at=site
            )
            return Ends(run[site])
        run = model.run(tokens, edits=edits, start_at=start_at, resid=resid)
        return Ends(None, run.logits[:, list(read)].clone())

    return (yield from in_steps(compute, model.anatomy.blocks))


def _put(writes: Writes) -> Callable[[Tensor], Tensor]:
    def put(tensor: Tensor) -> Tensor:
        if writes.site in OF_PATTERNS:
            return writes.into_pattern(tensor, torch.arange(len(tensor)))
        place = torch.arange(tensor.shape[0] * tensor.shape[1]).view(tensor.shape[:2])
        tensor = tensor.contiguous()
        writes.into(tensor.view(-1, *tensor.shape[2:]), place)
        return tensor

    return put


def _can_start(model: Model, layer: int) -> bool:
    try:
        model.anatomy.check_start(layer)
    except SiteUnavailable:
        return False
    return True
