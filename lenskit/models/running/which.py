"""Which: how a person chooses layers, heads, positions, rows and steps."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

Which = int | slice | range | Sequence[int] | None
"""One index, several, a slice, or None for all. Negative ones count from the end."""


def as_which(name: str, given: Any) -> Which:
    """A selector in one of its plain forms. Raises `TypeError` for what is none."""
    if isinstance(given, slice):
        parts = (None if part is None else _index(name, part) for part in (given.start, given.stop, given.step))
        return slice(*parts)
    if isinstance(given, range):
        return given
    if isinstance(given, Tensor) or hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        return [_index(name, each) for each in given]
    return _index(name, given)


def _index(name: str, given: Any) -> int:
    try:
        if not isinstance(given, bool):
            return operator.index(given)
    except TypeError:
        pass
    raise TypeError(f"{name} are chosen by an index, a list of indices, a range or a slice, and not by {given!r}.")


def check_steps(steps: Which) -> None:
    """Raise for steps that are counted from the end, which nobody knows beforehand."""
    if isinstance(steps, slice):
        wrong = (steps.start or 0) < 0 or (steps.stop or 0) < 0 or (steps.step or 1) < 1
    else:
        wrong = steps is not None and any(step < 0 for step in ([steps] if isinstance(steps, int) else steps))
    if wrong:
        raise ValueError(f"steps={steps!r}: the number of steps is not known beforehand, so count from 0 upwards.")


def indices(which: Which, size: int, what: str) -> list[int]:
    """The chosen indices among `size`, each at least 0.

    Raises `IndexError` for one that does not exist, or for none, and `ValueError` for one that is chosen twice.

    >>> indices(slice(-2, None), 5, "layer")
    [3, 4]
    """
    if which is None:
        return list(range(size))
    if isinstance(which, slice):
        chosen = list(range(size))[which]
    else:
        asked = [which] if isinstance(which, int) else list(which)
        wrong = next((i for i in asked if not -size <= i < size), None)
        if wrong is not None:
            raise IndexError(f"{what} {wrong} does not exist: there are {size}, 0 to {size - 1}.")
        chosen = once([i % size for i in asked], which, what)
    if not chosen:
        raise IndexError(f"{what} {which!r} chooses nothing: there are {size}.")
    return chosen


def once(chosen: list[int], which: Which, what: str) -> list[int]:
    """The indices, if each is there once. Raises `ValueError` otherwise."""
    if len(set(chosen)) < len(chosen):
        twice = next(i for i in chosen if chosen.count(i) > 1)
        raise ValueError(f"{what} {which!r} chooses {twice} twice: choose each once.")
    return chosen


def contains(which: Which, value: int) -> bool:
    """Whether an index that counts upwards without an end (a step) is among those chosen."""
    if which is None:
        return True
    if isinstance(which, slice):
        start, stop, step = which.start or 0, which.stop, which.step or 1
        return value >= start and (stop is None or value < stop) and (value - start) % step == 0
    return value in ([which] if isinstance(which, int) else which)
