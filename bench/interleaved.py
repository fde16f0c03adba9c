"""Ratios of times from interleaved runs: A B A B, so that both meet the machine in the same moods."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """What was measured against what, and the bound it has to keep; and the same done by hand, where that is known."""

    name: str
    ratios: list[float]
    first: float
    second: float
    bound: float
    by_hand: float | None = None

    def __str__(self) -> str:
        middle = statistics.median(self.ratios)
        mark = "ok  " if middle <= self.bound else "OVER"
        floor = "" if self.by_hand is None else f", by hand {self.by_hand:.3f}"
        return (
            f"{mark} {self.name}: {middle:.3f} (bound {self.bound}{floor}; {min(self.ratios):.3f} to "
            f"{max(self.ratios):.3f} over {len(self.ratios)} pairs; medians {self.first * 1e3:.1f} ms / "
            f"{self.second * 1e3:.1f} ms)"
        )


def ratio(
    name: str,
    a: Callable[[], object],
    b: Callable[[], object],
    *,
    bound: float,
    pairs: int,
    repeat: int = 1,
    by_hand: Callable[[], object] | None = None,
) -> Ratio:
    """The time of `a` over the time of `b`, in pairs, after one warm-up of each. `repeat` calls make one timing.

    `by_hand` does what `a` does with as little as one can write for this one model: no processor will do it faster.
    """
    calls = {"a": a, "b": b} | ({} if by_hand is None else {"by hand": by_hand})
    times = {name: list[float]() for name in calls}
    for call in calls.values():
        call()
    for pair in range(pairs):
        for which in calls if pair % 2 == 0 else reversed(calls):
            begun = time.perf_counter()
            for _ in range(repeat):
                calls[which]()
            times[which].append((time.perf_counter() - begun) / repeat)
    ratios = [x / y for x, y in zip(times["a"], times["b"], strict=True)]
    hand = [x / y for x, y in zip(times.get("by hand", ()), times["b"], strict=False)]
    floor = statistics.median(hand) if hand else None
    return Ratio(name, ratios, statistics.median(times["a"]), statistics.median(times["b"]), bound, floor)
