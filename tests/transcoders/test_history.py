"""A history says what a training has seen, as numbers, as a table and as a figure that any page can show."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenskit.transcoders.history import History, Look, Record
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.training import Report


def recorded(done: int = 6, steps: int = 10, linear: float = 0.4) -> Record:
    record = Record("mlp_in.1 -> mlp_out.1", steps, linear)
    for step in range(1, done + 1):
        record.add(Report(step, step / 10, 32.0, 0.5 / step, 1 / step))
        if step % 3 == 0:
            record.look(Look(step, step / 20, step / 7))
    return record


def history(**more: float) -> History:
    return recorded(**more).history(torch.tensor([0.0, 0.5, 0.01, 0.01]))  # pyright: ignore[reportArgumentType]


def test_it_holds_every_step_and_every_look() -> None:
    seen = history()
    assert (seen.step, seen.steps) == (6, 10)
    assert seen.explained.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert [look.step for look in seen.looks] == [3, 6]
    table = seen.to_pandas()
    assert table.step.tolist() == [1, 2, 3, 4, 5, 6]
    assert table.held_out_explained.isna().tolist() == [True, True, False, True, True, False]
    assert table.recovered[5] == pytest.approx(6 / 7)


def test_in_words_the_baseline_stands_beside_what_was_explained() -> None:
    assert str(history()) == (
        "mlp_in.1 -> mlp_out.1, step 6 of 10: explained 0.600, L0 32.0, dead 8.3%; "
        "held out 0.300 (a linear map 0.400), CE recovered 85.7%"
    )
    assert "linear map" not in str(history(linear=math.nan))
    assert str(history(done=0)) == "mlp_in.1 -> mlp_out.1, step 0 of 10"


def test_the_figure_shows_all_of_it_on_no_ground_of_its_own() -> None:
    figure: Any = history().figure()
    shown = {trace.name: trace for trace in figure.data}
    named = {"explained, of the batch", "explained, held out", "CE recovered", "a linear map, held out"}
    assert {name for name, trace in shown.items() if trace.showlegend} == named
    assert shown.keys() == named | {"L0", "dead", "features"}
    assert list(shown["CE recovered"].x) == [3, 6]
    assert list(shown["dead"].y) == pytest.approx([0.5 / step for step in range(1, 7)])
    assert sorted(shown["features"].x) == pytest.approx([-2, -2, math.log10(0.5)])  # the dead one is none of them
    assert list(shown["a linear map, held out"].y) == [0.4, 0.4]
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    begun: Any = history(done=0, linear=math.nan).figure()
    assert "a linear map, held out" not in {trace.name for trace in begun.data}


def test_from_its_state_a_record_goes_on() -> None:
    whole, again = recorded(9), Record("mlp_in.1 -> mlp_out.1", 10).resume(recorded(6).state())
    for step in range(7, 10):
        again.add(Report(step, step / 10, 32.0, 0.5 / step, 1 / step))
    again.look(Look(9, 9 / 20, 9 / 7))
    a, b = (each.history(torch.zeros(4)) for each in (whole, again))
    assert np.array_equal(a.explained, b.explained)
    assert (a.looks, a.linear) == (b.looks, b.linear)


@given(warmup=st.floats(0, 0.5), decay=st.floats(0, 0.5), steps=st.integers(1, 500))
def test_the_rate_rises_stays_and_falls(warmup: float, decay: float, steps: int) -> None:
    recipe = Recipe(8, k=2, warmup=warmup, decay=decay)
    rates = np.array([recipe.rate(step, steps) for step in range(steps)])
    assert ((rates > 0) & (rates <= 1)).all()
    top = rates.argmax()
    assert (np.diff(rates[: top + 1]) >= 0).all()
    assert (np.diff(rates[top:]) <= 1e-12).all()
    middle = rates[math.ceil(warmup * steps) : math.floor((1 - decay) * steps)]
    assert (middle == 1).all()
