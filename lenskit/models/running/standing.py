"""Standing: a computation that can stand still in the middle, while whoever started it goes on as if it were not there.

It runs in a greenlet, so no thread ever touches the model. What torch keeps for each thread (gradients, inference
mode, autocast, function and dispatch modes; and the stance of torch.compile) is exchanged at every switch: each side
finds its own as it left it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from operator import call
from threading import get_ident, local
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


_DEVICES = ("cpu", *([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else []))  # type: ignore[union-attr]
_NO_CASTS = [_Autocast(device, False, torch.get_autocast_dtype(device)) for device in _DEVICES]
_SIGNS = (_is_any_autocast_enabled, _len_torch_function_stack, _len_torch_dispatch_stack)
"""What tells of it, beside autocast's cache and the stance: asked twice at every switch, and so not in a function."""
_STANCE = _compiling.DynamoStance()
if _compiling._stance == _STANCE:
    _STANCE = _compiling._stance
_given_up: dict[int, list[Standing]] = {}
"""By thread: what another thread has given up (the garbage collector runs where it likes), to be unwound in its own."""


class _Idle(local):
    """A thread's greenlets that have come to the end of a computation and wait for another.

    A new one costs what five switches cost: its stack is memory that the system has to give, and to take back.
    """

    def __init__(self) -> None:
        self.greenlets: list[greenlet] = []


_idle, _MOST = _Idle(), 4
_ENDED = greenlet()
"""In the place of the greenlet of what is over, which may be another's by then."""


def _work(standing: Standing | None) -> None:
    """What every greenlet does: one computation after another. One that fails or gives up ends it."""
    while standing is not None:
        standing._run()
        standing = None  # so that nothing holds it any more
        standing = getcurrent().parent.switch(None)  # pyright: ignore[reportOptionalMemberAccess] -- it has been resumed


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
        self.over = False
        """Whether it has ended, in whatever way."""
        self._begun = False
        self.greenlet = _idle.greenlets.pop() if _idle.greenlets else greenlet(_work)
        # Otherwise the computation would not see the context variables of whoever started it.
        self.greenlet.gr_context = contextvars.copy_context()
        self._compute, self.thread = compute, get_ident()
        self._grad, self._inference = is_grad_enabled(), is_inference_mode_enabled()
        self._rare: _Rare | None = None
        if any(map(call, _SIGNS)) or not is_autocast_cache_enabled() or _compiling._stance is not _STANCE:
            self._rare = _Rare.taken_off()
            self._rare.put_on()

    def resume(self, value: object = None, *, give_up: bool = False) -> Any:
        """Run until the next pause, or to the end: then `over` is true, and the value is in `result`.

        give_up: raise GreenletExit where it stands, as `unwind` does.

        Raises `RuntimeError` in another thread than the one that made it.
        """
        if get_ident() != self.thread:
            raise _another_thread()
        if _given_up:
            _unwind_given_up()
        if self.over:
            return None
        inside = self.greenlet
        inside.parent = getcurrent()
        outside, rare = None, self._rare
        if rare or any(map(call, _SIGNS)) or not is_autocast_cache_enabled() or _compiling._stance is not _STANCE:
            outside = _Rare.taken_off()
        # The guard puts back at its end what it found of gradients, inference mode and the keys of dispatch.
        guard = _InferenceMode(self._inference)
        try:
            _set_grad_enabled(self._grad)
            if rare is not None:
                rare.put_on()
            return inside.throw() if give_up else inside.switch(value if self._begun else self)
        finally:
            self._rare = None
            if any(map(call, _SIGNS)) or not is_autocast_cache_enabled() or _compiling._stance is not _STANCE:
                self._rare = _Rare.taken_off()
            self._grad, self._inference = is_grad_enabled(), is_inference_mode_enabled()
            del guard
            if outside is not None:
                outside.put_on()
            if inside.dead or self.over:
                self._ended(inside)

    def pause(self, value: object = None) -> Any:
        """Stand still, inside the computation, and give the value to whoever resumed it."""
        return self.greenlet.parent.switch(value)  # pyright: ignore[reportOptionalMemberAccess] -- it has been resumed

    def unwind(self) -> None:
        """Give up: GreenletExit is raised where it stands, so its contexts close. A second time does nothing.

        In another thread this is put off until its own thread switches again.
        """
        if self.over:
            return
        if not self._begun:
            self._compute = _nothing
        elif get_ident() == self.thread:
            self.resume(give_up=True)
        else:
            _given_up.setdefault(self.thread, []).append(self)

    def check_thread(self) -> None:
        """Raise `RuntimeError` in another thread than its own."""
        if get_ident() != self.thread:
            raise _another_thread()

    def _run(self) -> None:
        compute, self._compute, self._begun = self._compute, _nothing, True
        self.result = compute()
        self.over = True

    def _ended(self, inside: greenlet) -> None:
        self.over, self.greenlet = True, _ENDED
        if not inside.dead and len(_idle.greenlets) < _MOST:
            inside.gr_context = None
            _idle.greenlets.append(inside)


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
