"""Attention without an interface: the functions by which a module computes it itself, one after another.

Older models write their attention out: a product, a softmax, a product; or one call of PyTorch's fused function. While
such a module runs, and only if somebody looks, every function it calls passes by here. Which of these calls makes the
scores, which is the softmax and which mixes the values was found on the probe (recipes.py), and is known by its place
in the sequence. All other calls go through untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from greenlet import getcurrent
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lenskit.models.running.doors import Door

KINDS: dict[Any, str] = {
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), "softmax"),
    **dict.fromkeys((torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm), "product"),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), "product with addend"),
    F.scaled_dot_product_attention: "fused",
}
# Where the operands stand among the arguments, and how they are called.
_OPERANDS: dict[str, tuple[tuple[int, tuple[str, ...]], ...]] = {
    "softmax": ((0, ("input",)),),
    "product": ((0, ("input", "self")), (1, ("other", "mat2"))),
    "product with addend": ((1, ("batch1",)), (2, ("batch2",))),
    "fused": ((0, ("query",)), (1, ("key",)), (2, ("value",)), (3, ("attn_mask",))),
}


@dataclass
class Operation:
    """One call of a function: its kind, and the arguments with which it is made."""

    kind: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def operand(self, which: int) -> Tensor | None:
        """One of the tensors it works on: input; left and right; or query, key, value and mask."""
        index, names = _OPERANDS[self.kind][which]
        if index < len(self.args):
            return self.args[index]
        return next((self.kwargs[name] for name in names if name in self.kwargs), None)

    def replace(self, which: int, new: Tensor) -> None:
        """Let it work on another tensor."""
        index, names = _OPERANDS[self.kind][which]
        if index < len(self.args):
            self.args = (*self.args[:index], new, *self.args[index + 1 :])
        else:
            self.kwargs = self.kwargs | {next(name for name in names if name in self.kwargs): new}

    def __call__(self) -> Any:
        return self.func(*self.args, **self.kwargs)


@dataclass(eq=False)
class Performance:
    """One call of an attention module: who called it, with what, and how many functions it has called until now."""

    module: nn.Module
    owner: object
    given: tuple[Any, ...]
    count: int = 0
    state: dict[str, Any] = field(default_factory=dict)


Act = Callable[[Performance, int, Operation], Any]
"""What is done with a call, the n-th of its module: it makes the call, and gives what the module shall go on with."""


class _Watching(TorchFunctionMode):
    """Hands every call of a watched function to an act. While an act runs, torch has put the mode aside."""

    def __init__(self, performance: Performance, act: Act) -> None:
        super().__init__()
        self.performance, self.act = performance, act

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = KINDS.get(func)
        if kind is None or getcurrent() is not self.performance.owner:
            return func(*args, **(kwargs or {}))
        at = self.performance.count
        self.performance.count = at + 1
        return self.act(self.performance, at, Operation(kind, func, args, kwargs or {}))


_listeners: dict[nn.Module, list[tuple[object, Act]]] = {}
_running: list[tuple[nn.Module, object]] = []


@contextmanager
def listening(modules: Iterable[nn.Module], act: Act, owner: object = None) -> Generator[None]:
    """Hand the functions that these modules call to `act`, in forwards of the owner, by default this greenlet.

    Of several who listen to a module in one greenlet, it is the first one's act that is called.
    """
    entry, modules = (getcurrent() if owner is None else owner, act), list(modules)
    heard = list[nn.Module]()
    try:
        for module in modules:
            if module not in _listeners:
                door = Door.of(module)
                door.within = _stand_in(module, door.own)
            _listeners.setdefault(module, []).append(entry)
            heard.append(module)
        yield
    finally:
        for module in heard:
            _listeners[module].remove(entry)
            if not _listeners[module]:
                _leave(module)


def _leave(module: nn.Module) -> None:
    del _listeners[module]
    door = Door.of(module)
    door.within = None
    door.taken_away_if_idle()


def _stand_in(module: nn.Module, own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        here = getcurrent()
        act = next((act for owner, act in _listeners.get(module, ()) if owner is here), None)
        if act is None or (module, here) in _running:
            return own(*args, **kwargs)
        _running.append((module, here))
        try:
            with _Watching(Performance(module, here, (*args, *kwargs.values())), act):
                return own(*args, **kwargs)
        finally:
            _running.remove((module, here))

    return forward


def listened_to() -> list[nn.Module]:
    """The modules that are listened to at this moment: for tests that nothing is left behind."""
    return list(_listeners)
