"""Kept: the activations of one site, written while the forward runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from lenskit.models.finding.spots import Spot
from lenskit.models.running.places import Choice, Moment, Places, check_layout, places
from lenskit.models.running.which import Which
from lenskit.models.sites import Site, axes_of, head_of
from lenskit.models.taps import Taker


@dataclass(frozen=True)
class Keeping:
    """How activations are kept: which positions, where, and in which dtype. By default all, and as they are.

    open_end: the text goes on in later forwards, so that a position after its end may be yet to come.
    in_place: the model's own tensors are kept where they will not change after the forward, and not copies of them.
        Whether one was written into before its end has to be asked afterwards: `Kept.settle`.
    """

    pos: Which = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    open_end: bool = False
    in_place: bool = False

    @cached_property
    def plain(self) -> bool:
        """Whether everything is kept as it is."""
        return self.pos is None and self.device is None and self.dtype is None


class Sheets:
    """Tensors of one shape, one upon the other: each is a copy of what was laid on it, or what was left there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.whole: Tensor | None = None
        self.rows: list[Tensor] = []
        self.seen = [False] * count
        self.left: dict[int, tuple[Tensor, int]] = {}

    def lay(self, row: int, tensor: Tensor) -> None:
        """Copy a tensor to its place."""
        rows = self.rows
        if not rows:
            self.whole = tensor.new_empty((self.count, *tensor.shape))
            self.rows = rows = list(self.whole.unbind(0))
        place = rows[row]
        if place.shape != tensor.shape:
            rows[row] = place = tensor.new_empty(tensor.shape)
            self.whole = None
        place.copy_(tensor.detach() if tensor.requires_grad else tensor)
        self.seen[row] = True

    def leave(self, row: int, tensor: Tensor) -> None:
        """Note a tensor, and that it is as it is now. `settle` makes it last."""
        self.left[row] = tensor, tensor._version

    def settle(self, addresses: set[int]) -> bool:
        """Keep what was left: as it is where it alone holds its numbers, and else a copy.

        addresses: of what is kept as it is, here and in other sheets: two sites may be one tensor. False where
        something was written into since it was left.
        """
        if not self.left or self.rows:
            return True
        first = next(iter(self.left.values()))[0]
        device = first.get_device()
        self.rows = rows = [_NOTHING] * self.count
        for row, (tensor, version) in self.left.items():
            if tensor._version != version:
                return False
            whole, address = tensor._base, tensor.data_ptr()
            if (
                (whole is None or whole.nbytes == tensor.nbytes)
                and tensor.is_contiguous()
                and tensor.get_device() == device
                and address not in addresses
            ):
                addresses.add(address)
                rows[row] = tensor
            else:
                rows[row] = tensor.to(first.device, copy=True, memory_format=torch.contiguous_format)
            self.seen[row] = True
        return True

    def stacked(self) -> Tensor | None:
        """All of them in one tensor, if they have one shape and all are there."""
        if self.whole is None and self.left and all(self.seen):
            first = self.rows[0]
            if all(row.shape == first.shape and row.dtype == first.dtype for row in self.rows):
                self.whole = torch.stack(self.rows)
                self.rows = list(self.whole.unbind(0))
                self.left.clear()
        return self.whole


_NOTHING = torch.empty(0)  # where the forward did not come by


class Kept:
    """The activations of one site: one tensor for all layers, where they have one shape.

    Raises `IndexError` and `ValueError` for positions that do not exist, or of which one row has more than another.
    """

    def __init__(self, name: str, layers: list[int], depth: int, moment: Moment, how: Keeping) -> None:
        self.name, self.layers, self.depth, self.how, self.moment = name, layers, depth, how, moment
        self._sheets, self._first = Sheets(self.count), 0
        self._places: Places | None = None
        if how.pos is not None:
            self._places = places(moment, Choice(pos=how.pos), None, how.device or "cpu", how.open_end)
            if self._places is None and not how.open_end:
                raise IndexError(f"pos={how.pos!r} chooses no position of this prompt.")
            if self._places is not None and not self._places.gridded:
                raise ValueError(
                    f"pos={how.pos!r} chooses more positions of one prompt than of another: choose those that all have."
                )

    @property
    def count(self) -> int:
        """How many tensors: one for each layer, or one."""
        return max(1, len(self.layers))

    def continues(self, other: Kept) -> None:
        """Share the tensors of a site that is this one's of the layer before, as `resid_pre` is of `resid_post`."""
        self._sheets = other._sheets = Sheets(self.count + 1)
        self._first = 1

    def leaving(self, row: int, spot: Spot) -> Taker:
        """As `taker`, but the tensor itself is kept, until `settle`."""
        leave = partial(self._sheets.leave, row + self._first)
        return leave if spot.plain else lambda tensor: leave(spot.read(tensor, self.moment.rows))

    def taker(self, row: int, spot: Spot | None = None) -> Taker:
        """What a tap calls with the tensor of the layer stored in `row`: it copies, so what is kept cannot change.

        With a spot, it is the tensor at the spot's point.
        """
        lay = partial(self._sheets.lay, row + self._first)
        if self.how.plain and (spot is None or spot.plain):
            return lay

        def take(tensor: Tensor) -> None:
            part = self.part(tensor if spot is None else spot.read(tensor, self.moment.rows))
            if part is not None:
                lay(part)

        return take

    def part(self, tensor: Tensor) -> Tensor | None:
        """The chosen positions, where and in the dtype in which they are kept; None if none is in this forward."""
        if self.how.plain:
            return tensor
        if self.how.pos is not None:
            if self._places is None:
                return None
            axes = axes_of(self.name)
            check_layout(tensor, axes, self.moment, f"pos={self.how.pos!r}", self.name)
            tensor = self._places.take(tensor, axes)
        return tensor.to(self.how.device or tensor.device, self.how.dtype or tensor.dtype)

    def reached(self, row: int) -> bool:
        """Whether the forward came by."""
        return self._sheets.seen[row + self._first]

    def settle(self, addresses: set[int]) -> bool:
        """Make what was left last, as `Sheets.settle` does."""
        return self._sheets.settle(addresses)

    def unreached(self) -> list[Site]:
        """The sites that the forward did not come by."""
        if all(self._sheets.seen):
            return []
        layers: list[int] | list[None] = self.layers or [None]
        return [Site(self.name, layer) for row, layer in enumerate(layers) if not self.reached(row)]

    def read(self, site: Site) -> Tensor:
        """The stack, one layer of it, or one head."""
        if not self.layers:
            return head_of(self._row(0), site)
        if site.layer is None:
            if len(self.layers) < self.depth:
                raise KeyError(
                    f"{self.name!r} was kept in layers {self.layers} only: ask for ({self.name!r}, layer), "
                    f"or run again with keep={self.name!r}."
                )
            return self._stack()
        layer = site.layer % self.depth if -self.depth <= site.layer < self.depth else site.layer
        if layer not in self.layers:
            raise KeyError(f"{str(site)!r} was not kept: {self.name!r} was kept in layers {self.layers}.")
        row = self._row(self.layers.index(layer))
        return row if site.head is None else head_of(row, site)

    def _row(self, row: int) -> Tensor:
        sheets, at = self._sheets, row + self._first
        if not sheets.seen[at]:
            raise self._not_reached(row)
        return sheets.rows[at]

    def _not_reached(self, row: int) -> KeyError:
        return KeyError(f"{str(self._site(row))!r} was not reached in this run.")

    def _site(self, row: int) -> Site:
        return Site(self.name, self.layers[row] if self.layers else None)

    def tensor(self, row: int) -> Tensor:
        """What is stored in a row."""
        return self._sheets.rows[row + self._first]

    def _stack(self) -> Tensor:
        missing = [site.layer for site in self.unreached()]
        if missing:
            raise KeyError(f"{self.name!r} was not reached in layers {missing}: ask for ({self.name!r}, layer).")
        if (whole := self._sheets.stacked()) is not None:
            return whole[self._first : self._first + self.count]
        shapes = {tuple(self.tensor(row).shape) for row in range(self.count)}
        if len(shapes) > 1:
            raise KeyError(
                f"{self.name!r} has another shape in some layers ({', '.join(map(str, sorted(shapes)))}), so they "
                f"cannot be stacked: ask for ({self.name!r}, layer)."
            )
        return torch.stack([self.tensor(row) for row in range(self.count)])
