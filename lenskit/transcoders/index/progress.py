"""Progress: how far the making of an index is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a stage stands. `FeatureIndex.build` gives one to `on_progress` after every batch.

    Attributes:
        stage: "reading" the corpus, counted in tokens, or "finishing", in hundredths.
        done, of: how much is done, of how much.
        seconds_left: how long the stage will still take at this rate; None where nothing tells the rate yet.
    """

    stage: str
    done: int
    of: int
    seconds_left: float | None

    @property
    def share(self) -> float:
        """How much of the stage is done, from 0 to 1."""
        return self.done / self.of

    def __str__(self) -> str:
        unit = "tokens" if self.stage == "reading" else "%"
        left = "" if self.seconds_left is None else f", {clock(self.seconds_left)} left"
        return f"{self.stage}: {self.done:,} of {self.of:,} {unit}{left}"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Stage:
    """A stage under way: tells of each step it takes.

    begun: how much was done when this attempt began, which says nothing of its rate.
    """

    def __init__(self, name: str, of: int, begun: int, tell: Callable[[Progress], object]) -> None:
        self.name, self.of, self.begun, self.tell = name, of, begun, tell
        self._since = time.monotonic()

    def reached(self, done: int) -> None:
        """Say how much is done by now."""
        mine, passed = done - self.begun, time.monotonic() - self._since
        left = passed / mine * (self.of - done) if mine > 0 else None
        self.tell(Progress(self.name, done, self.of, left))


@contextmanager
def telling(on_progress: Callable[[Progress], object] | None) -> Generator[Callable[[Progress], object]]:
    """Whom to tell: `on_progress`, or without one a bar in the terminal, where there is one."""
    if on_progress is not None:
        yield on_progress
        return
    from tqdm.auto import tqdm

    bars = dict[str, tqdm]()

    def draw(progress: Progress) -> None:
        if progress.stage not in bars:
            unit = "token" if progress.stage == "reading" else "%"
            bars[progress.stage] = tqdm(
                total=progress.of, initial=progress.done, desc=progress.stage, unit=unit, disable=None
            )
        bars[progress.stage].update(progress.done - bars[progress.stage].n)

    try:
        yield draw
    finally:
        for bar in bars.values():
            bar.close()
