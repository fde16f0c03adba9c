"""Attention, shown: the function through which a model's own attention lets q, k, v, scores and pattern be seen.

transformers' models look their attention function up by name at every call. While something is to be seen, a function
of ours stands under that name: it calls the model's own implementation with the very same arguments, so the numbers
stay the model's, and it computes scores and pattern only for the layers that are asked for them. The configuration is
never touched, so the model builds the same masks and takes the same branches as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

from greenlet import getcurrent
from torch import Tensor, nn

from lenskit.models.running.attention_math import Attend, attend
from lenskit.models.running.attention_ops import Operation, Performance, listening
from lenskit.models.running.attention_written import RECIPES, perform
from lenskit.models.running.doors import Taker, in_order

AttentionSide = Literal["q", "k", "v", "scores", "pattern"]
SIDES = ("q", "k", "v", "scores", "pattern")

Record = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor | None, Mapping[str, Any], Tensor], None]
Instead = Callable[
    [Attend, nn.Module, Tensor, Tensor, Tensor, Tensor | None, Mapping[str, Any]], tuple[Tensor, Tensor | None]
]
"""What stands in for an attention function: it is given that function, and what that would be called with."""

_watched: dict[nn.Module, list[tuple[object, Mapping[str, Taker]]]] = {}
_recorders: list[tuple[object, Record]] = []
_substitutes: list[tuple[object, Instead]] = []
_open = 0
_originals: dict[str, Attend | None] = {}


@contextmanager
def shown(takers: Mapping[nn.Module, Mapping[str, Taker]], owner: object = None) -> Generator[None]:
    """Call the takers of each attention module with its q, k, v, scores and pattern, in the shapes of `lk.Site`.

    q, k, v: (batch, pos, head, d_head), k and v with the key-value heads; scores, pattern: (batch, head, query, key).
    What a taker returns is what attention goes on with. Acts for forwards of the owner only, by default this greenlet.
    The takers of a module are looked up anew at each side, so that a forward that stands still within an attention can
    be given more of them.
    """
    owner = getcurrent() if owner is None else owner
    entries = [(module, (owner, sides)) for module, sides in takers.items()]
    with _in_place_of_every_implementation(), ready(takers, owner):
        try:
            for module, entry in entries:
                _watched.setdefault(module, []).append(entry)
            yield
        finally:
            for module, entry in entries:
                _watched[module] = [each for each in _watched[module] if each is not entry]
                if not _watched[module]:
                    del _watched[module]


@contextmanager
def ready(modules: Iterable[nn.Module], owner: object = None) -> Generator[None]:
    """Let those of the modules that compute attention by themselves be shown also when they run already."""
    with listening([module for module in modules if module in RECIPES], _written_out, owner):
        yield


def _written_out(performance: Performance, at: int, call: Operation) -> Any:
    takers = _takers_of(performance.module)
    return call() if takers is None else perform(performance, at, call, takers)


def _takers_of(module: nn.Module) -> Mapping[str, Taker] | None:
    here = getcurrent()
    mine = [takers for owner, takers in _watched.get(module, ()) if owner is here]
    return None if not mine else mine[0] if len(mine) == 1 else Together(mine)


@contextmanager
def recorded(record: Record) -> Generator[None]:
    """Tell of every call of an attention function in this greenlet: what it was given and what it gave."""
    entry = (getcurrent(), record)
    with _in_place_of_every_implementation():
        _recorders.append(entry)
        try:
            yield
        finally:
            _recorders.remove(entry)


@contextmanager
def substituted(function: Instead) -> Generator[None]:
    """Call `function(own, module, q, k, v, mask, kwargs)` where this greenlet's forwards call an attention function.

    q, k, v are as the attention function has them, (batch, head, pos, d_head); `own` is the model's implementation.
    """
    entry = (getcurrent(), function)
    with _in_place_of_every_implementation():
        _substitutes.append(entry)
        try:
            yield
        finally:
            _substitutes.remove(entry)


@contextmanager
def _in_place_of_every_implementation() -> Generator[None]:
    """Stand under the names of the attention functions in transformers' registry, for as long as anybody looks."""
    from transformers import AttentionInterface

    global _open
    registry: dict[str, Attend] = AttentionInterface._global_mapping
    if _open == 0:
        for name in (*registry, "eager"):
            _originals[name] = registry.get(name)
            registry[name] = _showing(_originals[name])
    _open += 1
    try:
        yield
    finally:
        _open -= 1
        if _open == 0:
            for name, own in _originals.items():
                if own is None:
                    registry.pop(name, None)
                else:
                    registry[name] = own
            _originals.clear()


@cache
def _showing(own: Attend | None) -> Attend:
    """The function that stands in for `own`; None stands for the eager attention of the model's own source file."""

    def stand_in(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        function = own or _eager_of(module)
        here = getcurrent()
        for owner, record in _recorders:
            if owner is here:
                out = function(module, query, key, value, attention_mask, **kwargs)
                record(module, query, key, value, attention_mask, kwargs, out[0])
                return out
        for owner, instead in _substitutes:
            if owner is here:
                return instead(function, module, query, key, value, attention_mask, kwargs)
        if (takers := _takers_of(module)) is not None:
            return attend(function, module, query, key, value, attention_mask, kwargs, takers)
        return function(module, query, key, value, attention_mask, **kwargs)

    return stand_in


class Together(Mapping[str, Taker]):
    """The takers of several who watch one attention, those who came first acting first."""

    def __init__(self, all_takers: list[Mapping[str, Taker]]) -> None:
        self._all = all_takers

    def __getitem__(self, side: str) -> Taker:
        takes = [takers[side] for takers in self._all if side in takers]
        if not takes:
            raise KeyError(side)

        return in_order(takes)

    def __iter__(self) -> Iterator[str]:
        return iter({side for takers in self._all for side in takers})

    def __len__(self) -> int:
        return len(list(iter(self)))


def _eager_of(module: nn.Module) -> Attend:
    """The attention that a model's own source file uses when none is chosen from the registry."""
    for kind in type(module).__mro__:
        function = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise RuntimeError(f"{type(module).__name__} has no eager attention function: set attn_implementation='sdpa'.")


def attention_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that are watched at this moment: for tests that nothing is left behind."""
    return [module for module in modules if module in _watched]
