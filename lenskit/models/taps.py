"""Taps: the only place in lenskit that registers hooks on a model, and it always takes them off."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from greenlet import getcurrent
from torch import Tensor, nn


class Point(NamedTuple):
    """Where a tensor can be seen: what goes into a module, or what comes out of it."""

    module: nn.Module
    side: Literal["input", "output"]


def first_tensor(value: object) -> Tensor | None:
    """The hidden state in what a module was given or gave: the value itself, or the first tensor in it."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)):
        return next((part for part in value if isinstance(part, Tensor)), None)
    return None


def _hidden(module: nn.Module, value: object) -> Tensor:
    tensor = first_tensor(value)
    if tensor is None:
        raise TypeError(f"a {type(module).__name__} was called without a tensor where its hidden state was expected.")
    return tensor


@contextmanager
def tapped(takers: Mapping[Point, Callable[[Tensor], None]]) -> Generator[None]:
    """Call each taker with the tensor at its point, for as long as the context lasts.

    A hook acts only for forwards of the greenlet that opened the context: while a live forward stands still, a
    user's own call of the same model passes it untouched.
    """
    owner = getcurrent()
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def on_input(take: Callable[[Tensor], None]) -> Callable[..., None]:
        # torch walks over a snapshot of the hooks: one that is taken off while another forward stands still among
        # them is still called, and then without its keywords.
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] = MappingProxyType({})) -> None:
            if getcurrent() is owner:
                take(_hidden(module, args or list(kwargs.values())))

        return hook

    def on_output(take: Callable[[Tensor], None]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            if getcurrent() is owner:
                take(output if isinstance(output, Tensor) else _hidden(module, output))

        return hook

    try:
        for (module, side), take in takers.items():
            if side == "input":
                handles.append(module.register_forward_pre_hook(on_input(take), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(on_output(take)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched(
    modules: Iterable[nn.Module],
    begin: Callable[[nn.Module, list[Any]], None],
    end: Callable[[nn.Module, object], None],
) -> Generator[None]:
    """Tell of every call of the modules: `begin` with all that was given, `end` with what came out."""
    owner = getcurrent()
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] = MappingProxyType({})) -> None:
        if getcurrent() is owner:
            begin(module, [*args, *kwargs.values()])

    def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if getcurrent() is owner:
            end(module, output)

    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()
