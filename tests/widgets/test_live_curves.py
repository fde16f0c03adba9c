"""Live curves draw what a training has seen, not too often, and at the end in any case."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

from lenskit.widgets.live_curves import live_curves

live = import_module("lenskit.widgets.live_curves")  # whose name in the package is the function's


@dataclass
class Seen:
    step: int
    steps: int = 10

    def figure(self) -> str:
        return f"figure of step {self.step}"


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was shown under the cell, and when it was cleared."""
    shown: list[Any] = []
    monkeypatch.setattr(live, "display", shown.append)
    monkeypatch.setattr(live, "clear_output", lambda wait: shown.append(("cleared", wait)))
    return shown


def test_it_draws_at_once_and_at_the_end_and_not_more_often_than_asked(
    cell: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    draw = live_curves(every=2.0)
    for step in range(1, 11):
        draw(Seen(step))
        now += 0.9
    drawn = [each for each in cell if isinstance(each, str)]
    assert drawn == [f"figure of step {step}" for step in (1, 4, 7, 10)]
    assert cell[::2] == [("cleared", True)] * 4


def test_of_several_dictionaries_it_draws_each(cell: list[Any]) -> None:
    live_curves()([Seen(10), Seen(10)])
    assert cell == [("cleared", True), "figure of step 10", "figure of step 10"]
