"""Views: weights to look at, that are read when they are asked for and can change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lenskit.models.weighing.factored import FactoredMatrix

_FRESH = {torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm, Tensor.__matmul__, Tensor.__rmatmul__}


class View:
    """A weight of the model that can be used like a tensor, and never written through.

    Nothing is copied until something is asked: `view[index]` copies what the index names, `view @ x` and `x @ view`
    copy nothing, and `view.tensor()`, any method of a tensor or any torch function copies the whole, each time anew
    (so it is always what the model holds now). What changes in place is refused.

    >>> model.weights.W_U[:, 42]                        # doctest: +SKIP
    >>> run["final_norm"] @ model.weights.W_U           # doctest: +SKIP
    >>> model.weights.W_E.norm(dim=-1)                  # doctest: +SKIP
    """

    def __init__(self, name: str, read: Callable[[], Tensor]) -> None:
        self.name, self._read = name, read

    def tensor(self) -> Tensor:
        """A copy of the whole, detached from the model."""
        return self._read().clone()

    @property
    def shape(self) -> torch.Size:
        """The shape of the whole."""
        return self._read().shape

    def __getitem__(self, index: Any) -> Tensor:
        return self._read()[index].clone()

    def __setitem__(self, index: object, value: object) -> None:
        raise TypeError(self._refusal())

    def __len__(self) -> int:
        return self.shape[0]

    def __matmul__(self, other: Any) -> Any:
        return self._read() @ (other._read() if isinstance(other, View) else other)

    def __rmatmul__(self, other: Any) -> Any:
        return other @ self._read()

    def __add__(self, other: Any) -> Tensor:
        return torch.add(self.tensor(), other)

    def __sub__(self, other: Any) -> Tensor:
        return torch.sub(self.tensor(), other)

    def __rsub__(self, other: Any) -> Tensor:
        return torch.sub(other, self.tensor())

    def __mul__(self, other: Any) -> Tensor:
        return torch.mul(self.tensor(), other)

    def __truediv__(self, other: Any) -> Tensor:
        return torch.div(self.tensor(), other)

    __radd__, __rmul__ = __add__, __mul__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"{self.name} has no attribute {name!r}.")
        if _in_place(name):
            raise TypeError(self._refusal())
        return getattr(self.tensor(), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.tensor().cpu().numpy().astype(dtype, copy=False)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = kwargs.get("out", args[0] if args and _in_place(getattr(func, "__name__", "")) else None)
        if isinstance(target, View):
            raise TypeError(target._refusal())

        def plain(value: Any) -> Any:
            if isinstance(value, View):
                return value._read() if func in _FRESH else value.tensor()
            return type(value)(map(plain, value)) if type(value) in (list, tuple) else value

        return func(*map(plain, args), **{key: plain(value) for key, value in kwargs.items()})

    def _refusal(self) -> str:
        return f"{self.name} can be read only: {self.name}.tensor() is a copy that you may change."

    def __repr__(self) -> str:
        whole = self._read()
        return f"{self.name}({tuple(whole.shape)}, {str(whole.dtype).removeprefix('torch.')})"


class Stacked(View):
    """A weight that every layer has, with the layers in front; one layer is read without the others.

    `W_Q[5]` and `W_Q[5, 3]` copy that layer only, `W_Q[2:5]` those layers, and `W_Q.stack()` all of them. Otherwise
    it is a `View`: torch functions and methods of a tensor stack it first.

    >>> model.weights.W_Q[5].shape, model.weights.W_Q[5, 3].shape         # doctest: +SKIP
    (torch.Size([12, 768, 64]), torch.Size([768, 64]))
    """

    def __init__(self, name: str, layers: int, read: Callable[[int], Tensor]) -> None:
        super().__init__(name, self.stack)
        self._layers, self._layer = layers, read

    def stack(self) -> Tensor:
        """All layers as one tensor, on the device of the first. Raises `ValueError` where their shapes differ."""
        return self._stacked(range(self._layers))

    tensor = stack

    def _stacked(self, layers: Sequence[int], index: tuple[Any, ...] = ()) -> Tensor:
        parts = [self._layer(layer)[index] for layer in layers]
        if not parts:
            return self._layer(0)[index][None][:0]
        if len(shapes := {tuple(part.shape) for part in parts}) > 1:
            raise ValueError(
                f"{self.name} cannot be stacked: its layers have different shapes, {sorted(shapes)}. "
                f"Ask for one at a time: {self.name}[0]."
            )
        return torch.stack([part.to(parts[0].device) for part in parts])

    @property
    def shape(self) -> torch.Size:
        """(layer, ...), as the first layer has it."""
        return torch.Size((self._layers, *self._layer(0).shape))

    def __len__(self) -> int:
        return self._layers

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._layer, range(self._layers))

    def __getitem__(self, index: Any) -> Tensor:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, int):
            return self._layer(_layer(self.name, first, self._layers))[tuple(rest)]
        if isinstance(first, slice):
            return self._stacked(range(self._layers)[first], tuple(rest))
        return self.stack()[index]

    def __repr__(self) -> str:
        one = self._layer(0)
        return f"{self.name}({(self._layers, *one.shape)}, {str(one.dtype).removeprefix('torch.')})"


class StackedFactors:
    """A `FactoredMatrix` of every head, (layer, head, d_model, d_model); one layer is read without the others.

    `QK[5]` holds that layer's heads, `QK[5, 3]` one head, and `QK.stack()` all layers.
    """

    def __init__(self, name: str, layers: int, read: Callable[[int], FactoredMatrix]) -> None:
        self.name, self._layers, self._layer = name, layers, read

    @property
    def shape(self) -> torch.Size:
        """(layer, head, d_model, d_model), as the first layer has it."""
        return torch.Size((self._layers, *self._layer(0).shape))

    def stack(self) -> FactoredMatrix:
        """All layers as one `FactoredMatrix`, on the device of the first."""
        parts = list(self)
        device = parts[0].A.device
        return FactoredMatrix(
            torch.stack([part.A.to(device) for part in parts]), torch.stack([part.B.to(device) for part in parts])
        )

    def __len__(self) -> int:
        return self._layers

    def __iter__(self) -> Iterator[FactoredMatrix]:
        return map(self._layer, range(self._layers))

    def __getitem__(self, index: Any) -> Any:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, int):
            part = self._layer(_layer(self.name, first, self._layers))
            return part[tuple(rest)] if rest else part
        return self.stack()[index]

    def __repr__(self) -> str:
        return f"{self.name}({tuple(self.shape)}, factored)"


def _layer(name: str, layer: int, layers: int) -> int:
    if not -layers <= layer < layers:
        raise IndexError(f"{name}[{layer}] does not exist: this model has layers 0 to {layers - 1}.")
    return layer % layers


def _in_place(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__iadd__", "__imul__", "data")
