"""A forward that stands still before every block, so that a live view can breathe, or change its mind."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from lenskit.models.taps import Point, tapped

T = TypeVar("T")


def in_steps(compute: Callable[[], T], blocks: Iterable[nn.Module]) -> Generator[None, None, T]:
    """Run `compute()`, which calls a model with these `blocks`, and yield before each of them.

    `compute` runs in a greenlet of its own: no thread ever touches the model. Whether gradients are recorded is as the
    caller left it on either side of each switch. Closing the generator, or an exception thrown into it, unwinds the
    forward and takes every hook off. The generator's value is what `compute` returned.

    >>> steps = in_steps(lambda: hf_model(ids), hf_model.model.layers)  # doctest: +SKIP
    >>> for _ in steps: await asyncio.sleep(0)                          # doctest: +SKIP
    """

    def pause(_: torch.Tensor) -> None:
        assert forward.parent is not None
        forward.parent.switch()

    def run() -> T:
        with tapped({Point(block, "input"): pause for block in blocks}):
            return compute()

    forward = greenlet(run)
    inside = torch.is_grad_enabled()
    try:
        while True:
            outside = torch.is_grad_enabled()
            torch.set_grad_enabled(inside)
            forward.parent = getcurrent()
            try:
                value = forward.switch()
            finally:
                inside = torch.is_grad_enabled()
                torch.set_grad_enabled(outside)
            if forward.dead:
                return value
            yield
    finally:
        if not forward.dead:
            _unwind(forward, inside)


def finish(steps: Generator[object, None, T]) -> T:
    """Take every step at once, and give the value at the end."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def _unwind(forward: greenlet, inside: bool) -> None:
    """Raise GreenletExit inside the paused forward: its context managers close, its hooks go."""
    outside = torch.is_grad_enabled()
    torch.set_grad_enabled(inside)
    forward.parent = getcurrent()
    try:
        forward.throw()
    finally:
        torch.set_grad_enabled(outside)
