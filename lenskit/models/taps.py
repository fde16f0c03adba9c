"""Taps: the only place in lenskit that registers hooks on a model, and it always takes them off."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Literal, NamedTuple

from greenlet import getcurrent
from torch import nn

from lenskit.models.attention import AttentionSide, shown
from lenskit.models.running.doors import (
    Door,
    Listener,
    Taker,
    coming_out,
    first_tensor,
    going_in,
    listener_at,
)


class Point(NamedTuple):
    """Where a tensor can be seen: what goes into a module, what comes out of it, or what happens in attention."""

    module: nn.Module
    side: Literal["input", "output"] | AttentionSide


class tapped:
    """Call each taker with the tensor at its point, for as long as the context lasts.

    A hook acts only for forwards of the greenlet that opened the context: while a live forward stands still, a
    user's own call of the same model passes it untouched. `doors` keeps the doors for the next time.
    """

    def __init__(self, takers: Mapping[Point, Taker], doors: dict[nn.Module, Door] | None = None) -> None:
        self._takers, self._doors = takers, doors

    def __enter__(self) -> None:
        self._hooks = hooks = Hooks(doors=self._doors)
        self._shown: AbstractContextManager[None] | None = None
        in_attention: dict[nn.Module, dict[str, Taker]] = {}
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
    """Where one forward is listened to, and how to leave all of these places.

    Listeners stand at doors; where a person's own hooks are, among them, under a key of our own (making torch's
    removable handles costs as much as calling the hooks).
    """

    def __init__(self, owner: object = None, doors: dict[nn.Module, Door] | None = None) -> None:
        self.owner = getcurrent() if owner is None else owner
        self._key, self._doors = object(), doors
        self._listeners: dict[nn.Module, tuple[Door, Listener]] = {}
        self._places: list[dict[Any, Any]] = []

    def on_input(self, module: nn.Module, take: Taker) -> None:
        """Call `take` with the first tensor that goes into the module."""
        there = self._listeners.get(module) or listener_at(module, self.owner, self._doors)
        if there is not None:
            self._listeners[module], listener = there, there[1]
            listener.goes_in = take if listener.goes_in is None else _only_one(listener.goes_in, take)
        else:
            self._put(module._forward_pre_hooks, partial(_before, self.owner, take))
            self._put(module._forward_pre_hooks_with_kwargs, True)

    def on_output(self, module: nn.Module, take: Taker) -> None:
        """Call `take` with the first tensor that comes out of the module."""
        there = self._listeners.get(module) or listener_at(module, self.owner, self._doors)
        if there is not None:
            self._listeners[module], listener = there, there[1]
            listener.comes_out = take if listener.comes_out is None else _only_one(listener.comes_out, take)
        else:
            self._put(module._forward_hooks, partial(_after, self.owner, take))

    def awake(self, module: nn.Module) -> None:
        """See to it that what comes out of the module can be heard even if that is asked while it is running."""
        there = self._listeners.get(module) or listener_at(module, self.owner, self._doors)
        if there is not None:
            self._listeners[module] = there
        else:
            self._put(module._forward_hooks, _asleep)

    def _put(self, place: dict[Any, Any], hook: object) -> None:
        there = place.get(self._key)
        if there in (None, True, _asleep):
            place[self._key] = hook
        elif hook is not _asleep:
            _only_one(there, hook)
        self._places.append(place)

    def remove(self) -> None:
        """Leave them all. A second time does nothing."""
        for door, listener in self._listeners.values():
            if listener in door.listeners:
                door.listeners.remove(listener)
            if not door.listeners:
                door.taken_away_if_idle()
        for place in self._places:
            place.pop(self._key, None)
        self._listeners.clear()
        self._places.clear()


# torch walks over a snapshot of the hooks: one that is taken off while another forward stands still among them is still
# called, and then without its keywords.
def _before(
    owner: object,
    take: Taker,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> object:
    return going_in(module, take, args, kwargs) if getcurrent() is owner else None


def _after(owner: object, take: Taker, module: nn.Module, args: tuple[Any, ...], output: object) -> object:
    return coming_out(module, take, output) if getcurrent() is owner else None


def _asleep(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
    return None


def _only_one(there: Any, new: Any) -> Any:
    if there is not None:
        raise ValueError("two takers at one point: put them in order first.")
    return new


class _InPlace:
    """What stands in the place of a module's forward, each for the forwards of one greenlet, the newest outermost."""

    def __init__(self, door: Door) -> None:
        self.inner: Callable[..., Any] = door.within or door.own
        self.entries: list[tuple[object, Callable[..., Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        here, forward = getcurrent(), self.inner
        for owner, stand_in in self.entries:
            if owner is here:
                forward = partial(stand_in, forward)
        return forward(*args, **kwargs)


@contextmanager
def _in_place(stand_ins: Mapping[nn.Module, Callable[..., Any]]) -> Generator[None]:
    """Call `stand_in(own, *args, **kwargs)` in the place of each module's forward, in this greenlet's forwards."""
    owner, stood = getcurrent(), list[tuple[Door, _InPlace, tuple[object, Callable[..., Any]]]]()
    try:
        for module, stand_in in stand_ins.items():
            door, entry = Door.of(module), (owner, stand_in)
            there = door.within if isinstance(door.within, _InPlace) else _InPlace(door)
            door.within = there
            there.entries.append(entry)
            stood.append((door, there, entry))
        yield
    finally:
        for door, there, entry in stood:
            there.entries = [each for each in there.entries if each is not entry]
            if not there.entries:
                door.within = None if there.inner == door.own else there.inner
                door.taken_away_if_idle()


@contextmanager
def skipped(modules: Mapping[nn.Module, int | None]) -> Generator[None]:
    """Let modules hand on what they are given, for this greenlet's forwards: nothing in them is computed.

    Each comes with the length of the tuple that it gives, or None where it gives a tensor by itself.
    """

    def hand_on(form: int | None, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = first_tensor(args)
        hidden = given if given is not None else first_tensor(kwargs)
        return hidden if form is None else (hidden, *[None] * (form - 1))

    with _in_place({module: partial(hand_on, form) for module, form in modules.items()}):
        yield


Calls = dict[nn.Module, list[tuple[tuple[Any, ...], dict[str, Any]]]]
"""By module, each call's arguments and keywords."""


@contextmanager
def called_with(modules: Iterable[nn.Module]) -> Generator[Calls]:
    """Gather what each of the modules is called with in this greenlet's forwards, after all hooks and not copied."""
    calls: Calls = {module: [] for module in modules}

    def note(module: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls[module].append((args, kwargs))
        return own(*args, **kwargs)

    with _in_place({module: partial(note, module) for module in calls}):
        yield calls


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
