"""A forward that stands still before every block, so that a live view can breathe, or change its mind."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from typing import TypeVar

import torch
from greenlet import getcurrent
from torch import nn

from lenskit.models.running.standing import Standing
from lenskit.models.taps import Point, tapped

T = TypeVar("T")

_within: ContextVar[Standing | None] = ContextVar("within", default=None)


def in_steps(compute: Callable[[], T], blocks: Iterable[nn.Module]) -> Generator[None, None, T]:
    """Run `compute()`, which calls a model with these `blocks`, and yield before each of them.

    `compute` stands still at each yield (`Standing`): no thread ever touches the model, and either side finds torch as
    it left it. Closing the generator, or an exception thrown into it, unwinds the forward and takes every hook off. The
    generator's value is what `compute` returned.

    >>> steps = in_steps(lambda: hf_model(ids), hf_model.model.layers)  # doctest: +SKIP
    >>> for _ in steps: await asyncio.sleep(0)                          # doctest: +SKIP
    """

    def pause(_: torch.Tensor) -> None:
        standing.pause()

    def run() -> T:
        _within.set(standing)
        with tapped({Point(block, "input"): pause for block in blocks}):
            return compute()

    standing = Standing(run)
    try:
        standing.resume()
        while not standing.over:
            yield
            standing.resume()
        return standing.result
    finally:
        standing.unwind()


def finish(steps: Generator[object, None, T]) -> T:
    """Take every step at once, and give the value at the end. Inside another's step, each is one of that, too."""
    outer = _within.get()
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
        if outer is not None and outer.greenlet is getcurrent():
            outer.pause()
