"""Taps: the only place in lenskit that registers hooks on a model, and it always takes them off."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import fields, is_dataclass
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Literal, NamedTuple

from greenlet import getcurrent
from torch import Tensor, nn

from lenskit.models.attention import AttentionSide, shown
from lenskit.models.layout import laid_out

Taker = Callable[[Tensor], Tensor | None]
"""What is done with the tensor at a point: look at it and return None, or return what the model shall go on with."""


class Point(NamedTuple):
    """Where a tensor can be seen: what goes into a module, what comes out of it, or what happens in attention."""

    module: nn.Module
    side: Literal["input", "output"] | AttentionSide


def first_tensor(value: object) -> Tensor | None:
    """The hidden state in what a module was given or gave: the value itself, or the first tensor in it."""
    if isinstance(value, (tuple, list)):
        for part in value:
            if isinstance(part, Tensor):
                return part
        return None
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return first_tensor(list(value.values()))
    return first_tensor(_fields(value)) if is_dataclass(value) else None


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


class tapped:
    """Call each taker with the tensor at its point, for as long as the context lasts.

    A hook acts only for forwards of the greenlet that opened the context: while a live forward stands still, a
    user's own call of the same model passes it untouched.
    """

    def __init__(self, takers: Mapping[Point, Taker]) -> None:
        self._takers = takers

    def __enter__(self) -> None:
        self._hooks = hooks = Hooks()
        self._shown: AbstractContextManager[None] | None = None
        in_attention = dict[nn.Module, dict[str, Taker]]()
        try:
            for (module, side), take in self._takers.items():
                if side == "output":
                    hooks.on_output(module, take)
                elif side == "input":
                    hooks.on_input(module, take)
                else:
                    in_attention.setdefault(module, {})[side] = take
            if in_attention:
                showing = shown(in_attention)
                showing.__enter__()
                self._shown = showing
        except BaseException:
            hooks.remove()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.remove()
        if self._shown is not None:
            self._shown.__exit__(kind, error, trace)


class Hooks:
    """Hooks of one forward, and how to take them all off.

    They are put where `register_forward_hook` puts them, under a key of our own: making torch's removable handles
    costs as much as calling the hooks, and in a small model that is a tenth of the forward.
    """

    def __init__(self, owner: object = None) -> None:
        self.owner = getcurrent() if owner is None else owner
        self._key = object()
        self._where: list[dict[Any, Any]] = []

    def on_input(self, module: nn.Module, take: Taker) -> None:
        """Call `take` with the first tensor that goes into the module."""
        self._put(module._forward_pre_hooks, partial(_going_in, self.owner, take))
        self._put(module._forward_pre_hooks_with_kwargs, True)

    def on_output(self, module: nn.Module, take: Taker) -> None:
        """Call `take` with the first tensor that comes out of the module."""
        self._put(module._forward_hooks, partial(_coming_out, self.owner, take))

    def awake(self, module: nn.Module) -> None:
        """See to it that the module will look for hooks on its output even if they come while it is running."""
        self._put(module._forward_hooks, _asleep)

    def _put(self, place: dict[Any, Any], hook: object) -> None:
        place[self._key] = hook if self._key not in place else _both(place[self._key], hook)
        self._where.append(place)

    def remove(self) -> None:
        """Take them all off. A second time does nothing."""
        for place in self._where:
            place.pop(self._key, None)
        self._where.clear()


# torch walks over a snapshot of the hooks: one that is taken off while another forward stands still among them is still
# called, and then without its keywords.
def _going_in(
    owner: object,
    take: Taker,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> object:
    if getcurrent() is not owner:
        return None
    in_args = first_tensor(args)
    given = in_args if in_args is not None else _there(module, first_tensor(kwargs))
    new = take(given)
    if new is None:
        return None
    new = laid_out(given, new)
    return (args, replaced(dict(kwargs), new)) if in_args is None else (replaced(args, new), kwargs)


def _coming_out(owner: object, take: Taker, module: nn.Module, args: tuple[Any, ...], output: object) -> object:
    if getcurrent() is not owner:
        return None
    given = output if isinstance(output, Tensor) else _there(module, first_tensor(output))
    new = take(given)
    return None if new is None else replaced(output, laid_out(given, new))


def _asleep(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
    return None


def _both(first: Any, second: Any) -> Any:
    if first is True or first is _asleep:
        return second
    if second is _asleep:
        return first
    raise ValueError("two takers at one point: put them in order first.")


def _there(module: nn.Module, tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise TypeError(f"a {type(module).__name__} was called without a tensor where its hidden state was expected.")
    return tensor


@contextmanager
def skipped(modules: Mapping[nn.Module, int | None]) -> Generator[None]:
    """Let modules hand on what they are given, for this greenlet's forwards: nothing in them is computed.

    Each comes with the length of the tuple that it gives, or None where it gives a tensor by itself.
    """
    owner = getcurrent()

    def stand_in(own: Callable[..., Any], form: int | None) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if getcurrent() is not owner:
                return own(*args, **kwargs)
            given = first_tensor(args)
            hidden = given if given is not None else first_tensor(kwargs)
            return hidden if form is None else (hidden, *[None] * (form - 1))

        return forward

    before = {module: module.__dict__.get("forward") for module in modules}
    try:
        for module, form in modules.items():
            module.__dict__["forward"] = stand_in(module.forward, form)
        yield
    finally:
        for module, own in before.items():
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


@contextmanager
def watched(
    modules: Iterable[nn.Module],
    begin: Callable[[nn.Module, list[Any]], None],
    end: Callable[[nn.Module, object], None],
) -> Generator[None]:
    """Tell of every call of the modules: `begin` with all that was given, `end` with what came out."""
    owner = getcurrent()
    handles = []

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
