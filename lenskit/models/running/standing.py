"""Standing: a computation that can stand still in the middle, while whoever started it goes on as if it were not there.

It runs in a greenlet, so no thread ever touches the model. What torch keeps for each thread (gradients, inference
mode, autocast, function and dispatch modes; and the stance of torch.compile) is exchanged at every switch: each side
finds its own as it left it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from threading import get_ident
from typing import Any, NamedTuple

import torch
import torch._dynamo.eval_frame as _compiling
from greenlet import getcurrent, greenlet
from torch._C import (
    _InferenceMode,
    _is_any_autocast_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
    _set_grad_enabled,
    is_autocast_cache_enabled,
    is_grad_enabled,
    is_inference_mode_enabled,
)
from torch.overrides import _get_current_function_mode_stack
from torch.overrides import _pop_mode as _pop_function_mode
from torch.overrides import _push_mode as _push_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode
from torch.utils._python_dispatch import _push_mode as _push_dispatch_mode


class _Autocast(NamedTuple):
    device: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: str) -> _Autocast:
        return cls(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))

    def set(self) -> None:
        torch.set_autocast_enabled(self.device, self.enabled)
        torch.set_autocast_dtype(self.device, self.dtype)


class _Rare(NamedTuple):
    """What is seldom anything: autocast, and modes that see every function or every operation, the outermost first."""

    casts: tuple[_Autocast, ...]
    cache: bool
    functions: tuple[Any, ...]
    operations: tuple[Any, ...]
    stance: Any

    @classmethod
    def taken_off(cls) -> _Rare:
        """All that is on, which is now off."""
        rare = cls(
            tuple(_Autocast.now(device) for device in _DEVICES),
            torch.is_autocast_cache_enabled(),
            tuple(_get_current_function_mode_stack()),
            tuple(_get_current_dispatch_mode_stack()),
            _compiling._stance,
        )
        for cast in _NO_CASTS:
            cast.set()
        torch.set_autocast_cache_enabled(True)
        for _ in rare.functions:
            _pop_function_mode()
        for _ in rare.operations:
            _pop_dispatch_mode()
        _compiling._stance = _STANCE
        return rare

    def put_on(self) -> None:
        for cast in self.casts:
            cast.set()
        torch.set_autocast_cache_enabled(self.cache)
        for mode in self.operations:
            _push_dispatch_mode(mode)
        for mode in self.functions:
            _push_function_mode(mode)
        _compiling._stance = self.stance


def _rare() -> _Rare | None:
    """What is seldom anything, taken off; None where there is nothing."""
    if (
        _is_any_autocast_enabled()
        or _len_torch_function_stack()
        or _len_torch_dispatch_stack()
        or not is_autocast_cache_enabled()
        or _compiling._stance is not _STANCE
    ):
        return _Rare.taken_off()
    return None


_DEVICES = ("cpu", *([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else []))  # type: ignore[union-attr]
_NO_CASTS = [_Autocast(device, False, torch.get_autocast_dtype(device)) for device in _DEVICES]
_STANCE = _compiling.DynamoStance()
if _compiling._stance == _STANCE:
    _STANCE = _compiling._stance
_given_up: dict[int, list[Standing]] = {}
"""By thread: what another thread has given up (the garbage collector runs where it likes), to be unwound in its own."""


class Standing:
    """A computation that runs in pieces.

    `resume` runs it until it pauses or ends, and gives what it paused with; `pause`, called inside it, stands still
    and gives what it is resumed with; `unwind` makes it give up, which closes its contexts. `over` and `result` tell
    how it ended. An exception of the computation comes out of `resume`. It belongs to the thread that made it.

    >>> standing = Standing(lambda: standing.pause("here") + 1)
    >>> standing.resume(), standing.resume(41), standing.result
    ('here', None, 42)
    """

    def __init__(self, compute: Callable[[], Any]) -> None:
        self.result: Any = None
        self.greenlet = greenlet(self._run)
        # Otherwise the computation would not see the context variables of whoever started it.
        self.greenlet.gr_context = contextvars.copy_context()
        self._compute, self.thread = compute, get_ident()
        self._grad, self._inference, self._rare = is_grad_enabled(), is_inference_mode_enabled(), _rare()
        if self._rare is not None:
            self._rare.put_on()

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.greenlet.dead

    def resume(self, value: object = None) -> Any:
        """Run until the next pause, or to the end: then `over` is true, and the value is in `result`.

        Raises `RuntimeError` in another thread than the one that made it.
        """
        if get_ident() != self.thread:
            raise _another_thread()
        return self._switch(self.greenlet.switch, value)

    def pause(self, value: object = None) -> Any:
        """Stand still, inside the computation, and give the value to whoever resumed it."""
        return self.greenlet.parent.switch(value)  # pyright: ignore[reportOptionalMemberAccess] -- it has been resumed

    def unwind(self) -> None:
        """Give up: GreenletExit is raised where it stands, so its contexts close. A second time does nothing.

        In another thread this is put off until its own thread switches again.
        """
        if not self.greenlet:
            self._compute = _nothing
        elif get_ident() == self.thread:
            self._switch(self.greenlet.throw)
        else:
            _given_up.setdefault(self.thread, []).append(self)

    def check_thread(self) -> None:
        """Raise `RuntimeError` in another thread than its own."""
        if get_ident() != self.thread:
            raise _another_thread()

    def _run(self, _: object = None) -> None:
        compute, self._compute = self._compute, _nothing
        self.result = compute()

    def _switch(self, switch: Callable[..., Any], *given: object) -> Any:
        if _given_up:
            _unwind_given_up()
        self.greenlet.parent = getcurrent()
        outside = _rare() if self._rare is None else _Rare.taken_off()
        # The guard puts back at its end what it found of gradients, inference mode and the keys of dispatch.
        guard = _InferenceMode(self._inference)
        try:
            _set_grad_enabled(self._grad)
            if self._rare is not None:
                self._rare.put_on()
            return switch(*given)
        finally:
            self._rare = _rare()
            self._grad, self._inference = is_grad_enabled(), is_inference_mode_enabled()
            del guard
            if outside is not None:
                outside.put_on()


def _another_thread() -> RuntimeError:
    return RuntimeError(
        "this forward was started in another thread, and only that one can go on with it: use it in the thread that "
        "called model.trace, or begin a new one here."
    )


def _unwind_given_up() -> None:
    for standing in _given_up.pop(get_ident(), ()):
        standing.unwind()


def _nothing() -> None:
    return None
