"""Ratios of times from interleaved runs: A B A B, so that both meet the machine in the same moods."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """What was measured against what, and the bound it has to keep."""

    name: str
    ratios: list[float]
    first: float
    second: float
    bound: float

    def __str__(self) -> str:
        middle = statistics.median(self.ratios)
        mark = "ok  " if middle <= self.bound else "OVER"
        return (
            f"{mark} {self.name}: {middle:.3f} (bound {self.bound}; {min(self.ratios):.3f} to {max(self.ratios):.3f} "
            f"over {len(self.ratios)} pairs; medians {self.first * 1e3:.1f} ms / {self.second * 1e3:.1f} ms)"
        )


def ratio(
    name: str, a: Callable[[], object], b: Callable[[], object], *, bound: float, pairs: int, repeat: int = 1
) -> Ratio:
    """The time of `a` over the time of `b`, in pairs, after one warm-up of each. `repeat` calls make one timing."""
    a()
    b()
    first, second = [], []
    for pair in range(pairs):
        for which in ((a, first), (b, second)) if pair % 2 == 0 else ((b, second), (a, first)):
            call, times = which
            begun = time.perf_counter()
            for _ in range(repeat):
                call()
            times.append((time.perf_counter() - begun) / repeat)
    ratios = [x / y for x, y in zip(first, second, strict=True)]
    return Ratio(name, ratios, statistics.median(first), statistics.median(second), bound)
