"""Spot: where in the module tree a site is, and how its tensor is read there and written back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lenskit.models.taps import Point, Taker


@dataclass(frozen=True)
class Spot:
    """A point, and what makes the site's tensor out of what is seen there.

    Attributes:
        factor: by which the tensor enters the residual stream (1 but for residual multipliers).
        heads: into how many heads the last axis is split; None where there are none to split.
        shared: the module's siblings read the very same tensor (as an MLP's norm and the residual stream beside it
            do), so that a change must be made in that tensor and not in its place.
        shift: a vector that the block adds besides (a bias which attention hands over), or None.
        flat: the tensor is (batch * pos, ...) there. Such a spot has to be told how many rows there are.
        unbatched: the tensor is (pos, ...) there, the same for all rows, to which the model adds it.
    """

    point: Point
    factor: float = 1.0
    heads: int | None = None
    shared: bool = False
    shift: Tensor | None = None
    flat: bool = False
    unbatched: bool = False

    @cached_property
    def plain(self) -> bool:
        """Whether the tensor is read as it is."""
        return self.factor == 1.0 and self.heads is None and self.shift is None and not (self.flat or self.unbatched)

    def read(self, tensor: Tensor, rows: int | None = None) -> Tensor:
        """The site's tensor: a view where there is no factor and no shift. `rows`: the size of the batch."""
        if self.flat:
            assert rows is not None
            tensor = tensor.unflatten(0, (rows, -1))
        if self.unbatched and tensor.dim() == 2:
            tensor = tensor[None].expand(rows or 1, -1, -1)
        if self.factor != 1.0:
            tensor = tensor * self.factor
        if self.shift is not None:
            tensor = tensor + self.shift
        return tensor if self.heads is None else tensor.unflatten(-1, (self.heads, -1))

    def written(self, tensor: Tensor, new: Tensor) -> Tensor:
        """What goes on in the place of `tensor`, when the site is to hold `new`."""
        if self.heads is not None:
            new = new.flatten(-2)
        if self.flat:
            new = new.flatten(0, 1)
        if self.factor != 1.0 or self.shift is not None:
            new = self._unscaled(tensor, new)
        if self.shared:
            return tensor.copy_(new)
        return new

    def _unscaled(self, tensor: Tensor, new: Tensor) -> Tensor:
        """What becomes `new` with factor and shift. Where nothing was changed it stays as it was, to the last bit."""
        shift = 0.0 if self.shift is None else self.shift
        made = tensor * self.factor if self.factor != 1.0 else tensor
        made = made + shift if self.shift is not None else made
        inner = (new - shift) / self.factor
        return inner if new.requires_grad else torch.where(new == made, tensor, inner)

    def taking(self, take: Taker, rows: int | None = None) -> Taker:
        """The taker of the point that calls a taker of the site."""
        if self.plain and not self.shared:
            return take

        def at_point(tensor: Tensor) -> Tensor | None:
            new = take(self.read(tensor, rows))
            return None if new is None else self.written(tensor, new)

        return at_point
