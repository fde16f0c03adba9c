"""Doors: where a tensor is met on its way into a module and out of it, at a third of the price of torch's hooks.

A door stands before a module's own `forward` for as long as anybody listens there, and is then taken away. In a model
of a hundred modules, what `register_forward_hook` makes torch do for each call is a tenth of the forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

from greenlet import getcurrent
from torch import Tensor, nn

from lenskit.models.running.layout import laid_out

Taker = Callable[[Tensor], Tensor | None]
"""What is done with the tensor at a point: look at it and return None, or return what the model shall go on with."""


def in_order(takes: list[Taker]) -> Taker:
    """Several takers at one point: each is given what the one before has made of the tensor."""
    if len(takes) == 1:
        return takes[0]

    def take(tensor: Tensor) -> Tensor | None:
        changed = None
        for each in takes:
            given = each(tensor if changed is None else changed)
            changed = changed if given is None else given
        return changed

    return take


class Listener:
    """One who listens at a door: whose forwards are meant, and what is done on the way in and on the way out."""

    __slots__ = ("comes_out", "goes_in", "owner")

    owner: object
    goes_in: Taker | None
    comes_out: Taker | None


class Door:
    """What stands in the place of a module's `forward`, as long as anybody needs it: those who came first go first.

    Attributes:
        own: the module's forward itself.
        within: what runs instead of `own`, and calls it: one who listens to what happens inside the module.
    """

    __slots__ = ("_replaces", "listeners", "module", "own", "within")

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.own: Any = module.forward
        # A forward of its own, such as accelerate gives a module.
        self._replaces = "forward" in module.__dict__
        self.listeners: list[Listener] = []
        self.within: Callable[..., Any] | None = None

    @property
    def __wrapped__(self) -> Any:
        """For whoever asks for the signature of the module's forward: it is that of its own."""
        return self.own

    @classmethod
    def of(cls, module: nn.Module) -> Door:
        """The door that stands before a module, or a new one."""
        there = module.__dict__.get("forward")
        if isinstance(there, cls):
            return there
        module.__dict__["forward"] = door = cls(module)
        return door

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        here = getcurrent()
        for each in [*self.listeners]:  # a copy: some may go while the forward stands still at one
            if each.goes_in is not None and each.owner is here:
                if args and isinstance(args[0], Tensor):  # nearly always
                    if (new := each.goes_in(args[0])) is not None:
                        args = (laid_out(args[0], new), *args[1:])
                else:
                    args, kwargs = going_in(self.module, each.goes_in, args, kwargs) or (args, kwargs)
        output = self.own(*args, **kwargs) if self.within is None else self.within(*args, **kwargs)
        for each in [*self.listeners]:
            if each.comes_out is not None and each.owner is here:
                if isinstance(output, Tensor):
                    if (new := each.comes_out(output)) is not None:
                        output = laid_out(output, new)
                elif (changed := coming_out(self.module, each.comes_out, output)) is not None:
                    output = changed
        return output

    def taken_away_if_idle(self) -> None:
        """Give the module its own forward back, if nobody is at the door any more."""
        if not self.listeners and self.within is None and self.module.__dict__.get("forward") is self:
            if self._replaces:
                self.module.__dict__["forward"] = self.own
            else:
                del self.module.__dict__["forward"]


def listener_at(
    module: nn.Module, owner: object, kept: dict[nn.Module, Door] | None = None
) -> tuple[Door, Listener] | None:
    """A new listener at the module's door; None where hooks of somebody else's make it matter who is told when.

    What a person's own hooks change on the way in comes before `forward`, and on the way out after it. A door of those
    `kept` from last time is put there again.
    """
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return None
    if kept is None or "forward" in module.__dict__:
        door = Door.of(module)
    else:
        if (door := kept.get(module)) is None or getattr(door.own, "__func__", None) is not type(module).forward:
            door = kept[module] = Door(module)
        module.__dict__["forward"] = door
    listener = Listener()
    listener.owner, listener.goes_in, listener.comes_out = owner, None, None  # an __init__ would take twice as long
    door.listeners.append(listener)
    return door, listener


def going_in(
    module: nn.Module, take: Taker, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Tell of what goes into a module, and give what shall go in instead, or None."""
    in_args = first_tensor(args)
    given = in_args if in_args is not None else _there(module, first_tensor(kwargs))
    new = take(given)
    if new is None:
        return None
    new = laid_out(given, new)
    return (args, replaced(dict(kwargs), new)) if in_args is None else (replaced(args, new), dict(kwargs))


def coming_out(module: nn.Module, take: Taker, output: object) -> Any:
    """Tell of what comes out of a module, and give what shall come out instead, or None."""
    given = output if isinstance(output, Tensor) else _there(module, first_tensor(output))
    new = take(given)
    return None if new is None else replaced(output, laid_out(given, new))


def _there(module: nn.Module, tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise TypeError(f"a {type(module).__name__} was called without a tensor where its hidden state was expected.")
    return tensor


def first_tensor(value: object) -> Tensor | None:
    """The hidden state in what a module was given or gave: the value itself, or the first tensor in it."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (dict, Mapping)):  # a `dict` nearly always, which is quicker to tell
        parts: Iterable[object] = value.values()
    elif isinstance(value, (tuple, list)):
        parts = value
    else:
        parts = _fields(value) if is_dataclass(value) else ()
    for part in parts:
        if isinstance(part, Tensor):
            return part
    return None


def _fields(value: Any) -> list[Any]:
    return [getattr(value, each.name) for each in fields(value)]


def replaced(value: Any, new: Tensor) -> Any:
    """What a module gave, with its first tensor replaced."""
    if isinstance(value, Tensor):
        return new
    old = first_tensor(value)
    if isinstance(value, Mapping):
        key = next(key for key, part in value.items() if part is old)
        value[key] = new  # type: ignore[index] -- transformers' ModelOutput, made anew in each forward
        return value
    if is_dataclass(value):
        name = next(each.name for each in fields(value) if getattr(value, each.name) is old)
        made = copy(value)  # and not `replace`, which would call __init__ with what it may not take
        object.__setattr__(made, name, new)  # also where it is frozen
        return made
    at = next(i for i, part in enumerate(value) if part is old)
    parts = [*value[:at], new, *value[at + 1 :]]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
