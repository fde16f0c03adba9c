"""Gradients: whether they come through every matrix product of a model, since some that are quantised have none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.finding.placed import entrance
from lenskit.models.finding.probe import is_linear
from lenskit.models.taps import Point, first_tensor, tapped, watched

_MOST_NODES = 100  # more than a matrix product has, in whatever way it is quantised


def where_cut(model: nn.Module, embedding: nn.Module) -> str | None:
    """The path of the first matrix product that takes what has a gradient and gives what has none, or None.

    A gradient that is cut off there raises nothing: it only lacks what would have come through.
    """
    paths = {module: path for path, module in model.named_modules() if path and is_linear(module)}
    given, cut = list[Tensor | None](), list[str]()

    def begin(module: nn.Module, args: list[Any]) -> None:
        tensor = first_tensor(args)
        # A part that the model itself runs without gradients is no finding: some choose keys or experts so.
        flows = tensor is not None and tensor.requires_grad and torch.is_grad_enabled()
        given.append(tensor if flows else None)

    def end(module: nn.Module, output: object) -> None:
        went_in, came_out = given.pop(), first_tensor(output)
        if went_in is None or came_out is None or not came_out.is_floating_point():
            return
        if _is_cut(went_in, came_out):
            cut.append(paths[module])

    def rooted(tensor: Tensor) -> Tensor:
        # So that frozen weights make no difference. A copy, since some models write into their embedding.
        return tensor.detach().requires_grad_().clone()

    tokens = torch.zeros(1, 2, dtype=torch.long, device=entrance(model, embedding))
    with torch.enable_grad(), tapped({Point(embedding, "output"): rooted}), watched(paths, begin, end):
        model(input_ids=tokens)
    return next(iter(cut), None)


def _is_cut(given: Tensor, made: Tensor) -> bool:
    """Whether a tensor has no gradient, or one that goes through a function for which torch was told of none."""
    if not made.requires_grad:
        return True
    nodes, seen = [made.grad_fn], {None, given.grad_fn}
    while nodes and len(seen) < _MOST_NODES:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("NotImplemented"):
            return True
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]
    return False
