"""Live curves: the history of a training, drawn anew under its cell while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from IPython.display import clear_output, display


class Drawable(Protocol):
    """A history: how many steps are done, how many there will be, and a figure of what was seen."""

    @property
    def step(self) -> int: ...

    @property
    def steps(self) -> int: ...

    def figure(self) -> Any: ...


def live_curves(every: float = 2.0) -> Callable[[Drawable | Sequence[Drawable]], None]:
    """What to give a training as `on_step`: its curves under the cell, first at once and last when all is done.

    every: seconds from one drawing to the next, so that drawing does not hold up what is drawn.

    >>> lk.Transcoder.train(model, texts, ..., on_step=lk.widgets.live_curves())  # doctest: +SKIP
    >>> lk.TunedLens.train(model, texts, on_step=lk.widgets.live_curves())        # doctest: +SKIP
    """
    drawn = float("-inf")

    def draw(given: Drawable | Sequence[Drawable]) -> None:
        nonlocal drawn
        histories = list(given) if isinstance(given, Sequence) else [given]
        last = histories[0].step == histories[0].steps
        if time.monotonic() - drawn < every and not last:
            return
        figures = [each.figure() for each in histories]
        clear_output(wait=True)  # JupyterLab draws no plotly figure anew in its place
        for figure in figures:
            display(figure)
        drawn = time.monotonic()

    return draw
