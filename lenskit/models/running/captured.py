"""Captured: the live activations of a run with gradients, and the gradients of a loss at each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.models.finding.spots import Spot
from lenskit.models.running.kept import Kept
from lenskit.models.taps import Taker

if TYPE_CHECKING:
    from lenskit.models.run import Run


class Captured(Kept):
    """The activations of one site while a loss is made of them: they are part of the graph of gradients.

    What is captured is the model's own tensor at the site's point, so that the model goes on with the same numbers, to
    the last bit, even where the site's tensor is that one multiplied (a residual multiplier).
    """

    def start(self) -> None:
        """Nothing is captured yet."""
        self._raw = dict[int, Tensor]()
        self._live = dict[int, Tensor]()
        self._spots = dict[int, Spot]()

    def capturing(self, row: int, spot: Spot) -> Taker:
        """What a tap calls at the point itself: the model goes on with a copy, so that none changes what was seen."""

        def take(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                raise TypeError(f"{str(self._site(row))!r} holds whole numbers, which have no gradient.")
            # Where nothing before needs a gradient (frozen weights), the graph begins here.
            raw = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
            live = self.part(spot.read(raw, self.moment.rows))
            assert live is not None
            self._raw[row], self._live[row], self._spots[row] = raw, live, spot
            return tensor.copy_(raw) if spot.shared else raw.clone()

        return take

    def reached(self, row: int) -> bool:
        return row in self._live

    def tensor(self, row: int) -> Tensor:
        return self._live[row]

    def _row(self, row: int) -> Tensor:
        if row not in self._live:
            raise self._not_reached(row)
        return self._live[row]

    def settled(self) -> Kept:
        """What is kept of it: copies that are part of no graph."""
        return self._stored(
            {row: self._spots[row].read(raw.detach(), self.moment.rows) for row, raw in self._raw.items()}
        )

    def gradients(self, of: Mapping[Tensor, Tensor | None]) -> Kept:
        """The gradients at the site, from those at the tensors captured; zero where the loss does not depend on it."""
        found = dict[int, Tensor]()
        for row, raw in self._raw.items():
            spot, grad = self._spots[row], of[raw]
            grad = torch.zeros_like(raw) if grad is None else grad / spot.factor
            found[row] = replace(spot, factor=1.0, shift=None).read(grad, self.moment.rows)
        return self._stored(found)

    def _stored(self, tensors: Mapping[int, Tensor]) -> Kept:
        store = Kept(self.name, self.layers, self.depth, self.moment, self.how)
        for row, tensor in tensors.items():
            store.taker(row)(tensor)
        return store


def differentiated(
    run: Run, loss_of: Callable[[Run], Tensor], captured: Mapping[str, Captured]
) -> tuple[dict[str, Kept], dict[str, Kept]]:
    """What the sites of a run held, and the gradients of the loss there; no parameter's own `.grad` is touched.

    Raises `TypeError` where the loss is no scalar tensor, and `ValueError` where it depends on nothing captured.
    """
    with torch.enable_grad():
        loss = loss_of(run)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"grads must give a scalar tensor of the run, and gave {what}.")
    raws = [raw for each in captured.values() for raw in each._raw.values()]
    found = torch.autograd.grad(loss, raws, allow_unused=True) if loss.requires_grad and raws else ()
    if all(grad is None for grad in found):
        raise ValueError("the loss does not depend on any kept activation, so it has no gradient: keep= says where.")
    of = dict(zip(raws, found, strict=True))
    return (
        {name: each.settled() for name, each in captured.items() if name != "logits"},
        {name: each.gradients(of) for name, each in captured.items()},
    )
