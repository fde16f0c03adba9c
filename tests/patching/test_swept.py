"""A sweep's value: frozen arrays that know what they are, and can be ranked, tabled, drawn, saved and compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lenskit.patching.swept import Axis, Sweep

TOKENS = ("·<b>Mary", "·gave", "↵")


def made(**more: Any) -> Sweep:
    """Two layers x three positions: base -1, target 3, so that a value of 1 is half the way."""
    values = np.array([[-1.0, 3.0, 1.0], [-1.0, -3.0, np.nan]])
    given: dict[str, Any] = {
        "site": "resid_pre",
        "axes": (Axis("layer", (0, 5), ("0", "5")), Axis("pos", (3, 4, 6), TOKENS)),
        "values": values,
        "exact": np.array([[True, True, True], [True, False, False]]),
        "clean": 3.0,
        "corrupt": -1.0,
        "metric": "logit_diff(' a', ' b')",
        "direction": "denoise",
        "engine": "packed rows",
        "provenance": {"model": "a <i>model</i>"},
    }
    return Sweep(**(given | more))


def test_values_are_shares_of_the_way_from_the_patched_prompt_to_the_other() -> None:
    np.testing.assert_array_equal(made().normalised, [[0, 1, 0.5], [0, -0.5, np.nan]])
    np.testing.assert_array_equal(made().effect, [[0, 4, 2], [0, -2, np.nan]])
    noise = made(direction="noise")
    np.testing.assert_array_equal(noise.normalised, [[1, 0, 0.5], [1, 1.5, np.nan]])
    assert noise.base == 3.0
    assert made().base == -1.0


def test_nothing_is_a_share_where_there_is_no_way_to_go() -> None:
    ablation = made(corrupt=None, direction="noise")
    assert not ablation.has_share
    assert ablation.base == 3.0
    with pytest.raises(ValueError, match="no corrupt prompt to measure by"):
        _ = ablation.normalised
    with pytest.raises(ValueError, match="the same on both prompts"):
        _ = made(clean=-1.0).normalised
    assert "normalised" not in ablation.to_pandas()


def test_the_arrays_cannot_be_written() -> None:
    sweep = made()
    for array in (sweep.values, sweep.exact, sweep.effect, sweep.normalised):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    source = np.zeros((2, 3))
    kept = made(values=source)
    source[0, 0] = 9
    assert kept.values[0, 0] == 0
    with pytest.raises(ValueError, match=r"values of shape \(3, 2\) for axes of \(2, 3\)"):
        made(values=np.zeros((3, 2)))


def test_the_best_cells_say_where_they_are() -> None:
    first, second, *_ = made().best(2)
    assert first.where == {"layer": 0, "pos": 4, "token": "·gave"}
    assert (first.value, first.effect) == (3.0, 4.0)
    assert second.where["pos"] == 6
    assert len(made().best(50)) == 5


def test_its_line_is_the_same_each_time_and_says_what_matters() -> None:
    assert repr(made()) == (
        "Sweep(denoise resid_pre, logit_diff(' a', ' b'): 2 layers x 3 positions of a <i>model</i>, 67% exact; "
        "clean 3.00, corrupt -1.00, most at layer 0, pos 4, token ·gave: 3.00)"
    )


def test_one_line_of_the_table_for_each_cell() -> None:
    table = made().to_pandas()
    assert list(table.columns) == ["layer", "pos", "token", "value", "effect", "normalised", "exact"]
    assert len(table) == 6
    row = table.iloc[4]
    assert (row["layer"], row["pos"], row["token"], row["value"], row["exact"]) == (5, 4, "·gave", -3.0, False)


def test_the_correlation_is_pearsons_over_the_cells_that_both_have() -> None:
    a, b = made(values=np.arange(6).reshape(2, 3)), made(values=[[1, 5, 2], [8, np.nan, 3]])
    both = [0, 1, 2, 3, 5], [1, 5, 2, 8, 3]
    assert a.correlation(b) == pytest.approx(np.corrcoef(*both)[0, 1])
    assert a.correlation(a) == pytest.approx(1)
    assert a.correlation(made(values=-a.values)) == pytest.approx(-1)
    other = made(axes=(Axis("layer", (0, 1), ("0", "1")), a.axes[1]))
    with pytest.raises(ValueError, match="not over the same cells"):
        a.correlation(other)
    with pytest.raises(ValueError, match="only 1 cells are in both"):
        a.correlation(made(values=[[1, np.nan, np.nan], [np.nan] * 3]))


def test_the_mean_over_pairs() -> None:
    pairs = Axis("pair", (0, 1), ("0", "1"))
    values = np.stack([made().values, 3 * made().values])
    sweep = made(axes=(pairs, *made().axes), values=values, exact=np.ones((2, 2, 3)), clean=[3, 9], corrupt=[-1, -3])
    np.testing.assert_array_equal(sweep.normalised[1], made().normalised)
    assert sweep.mean().clean == 6
    assert sweep.mean().over == ("layer", "pos")
    np.testing.assert_array_equal(sweep.mean().values, 2 * made().values)
    assert made().mean().over == ("layer", "pos")
    figure: Any = sweep.figure()
    np.testing.assert_array_equal(np.array(figure.data[0].z), made().normalised)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    for sweep in (made(), made(corrupt=None, direction="noise", engine=None, why=None)):
        path = sweep.save(tmp_path / "sweep.json")
        read = Sweep.load(path)
        np.testing.assert_array_equal(read.values, sweep.values)
        np.testing.assert_array_equal(read.exact, sweep.exact)
        for name in ("site", "axes", "clean", "corrupt", "metric", "direction", "engine", "why", "provenance"):
            assert getattr(read, name) == getattr(sweep, name), name
        assert repr(read) == repr(sweep)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["sweep.json", "sweep.safetensors"]


def test_a_file_that_is_none_or_not_whole_is_refused(tmp_path: Path) -> None:
    path = made().save(tmp_path / "sweep.json")
    good = json.loads(path.read_text())
    for change, says in [
        ({"format": "other"}, "holds no sweep"),
        ({"version": 2}, "of version 2"),
        ({"more": 1}, "and nothing else"),
        ({"axes": [["layer", [0], ["0"]]]}, "does not hold together"),
        ({"arrays": "0" * 64}, "SHA-256 differs"),
    ]:
        path.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=says):
            Sweep.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="holds no JSON"):
        Sweep.load(path)
    path.write_text(json.dumps(good))
    (tmp_path / "sweep.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="needs its arrays"):
        Sweep.load(path)
    with pytest.raises(ValueError, match=r"say sweep\.npz\.json"):
        made().save(tmp_path / "sweep.npz")


def test_the_table_shows_tokens_as_text_and_numbers_by_their_sign() -> None:
    html = made()._repr_html_()
    assert "<b>" not in html
    assert "·&lt;b&gt;Mary" in html
    assert "<i>" not in html
    assert "−.50" in html
    assert "1.00" in html
    assert "(−.50)" in html  # an estimate
    assert html.index(">5<") < html.index(">0<")  # the last layer on top


def test_the_figure_draws_exact_cells_filled_and_estimates_as_discs() -> None:
    figure: Any = made().figure()
    cells, numbers, discs = figure.data
    assert np.isnan(np.array(cells.z, dtype=float)[1, 1])
    assert np.array(cells.z)[0, 1] == 1.0
    assert list(numbers.text) == ["1.00", ".50"]
    assert (discs.x, discs.y) == ((1,), (1,))
    assert discs.marker.color == (-0.5,)
    assert "estimate" in discs.customdata[0]
    assert "−.50" in discs.customdata[0]
    assert figure.layout.coloraxis.cmin == -1 == -figure.layout.coloraxis.cmax
    assert figure.layout.xaxis.ticktext[0] == "·&lt;b&gt;Mary"
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.font.color == "#797c82"


def test_of_many_rows_the_strongest_are_drawn() -> None:
    heads = Axis("head", tuple(range(40)), tuple(map(str, range(40))))
    axes = (Axis("layer", (0, 1), ("0", "1")), heads, Axis("pos", (0,), ("a",)))
    values = np.zeros((2, 40, 1))
    values[1, 7], values[0, 3] = 2.0, -3.0
    sweep = made(axes=axes, values=values - 1, exact=np.ones(values.shape))
    figure: Any = sweep.figure()
    assert np.array(figure.data[0].z).shape == (48, 1)
    assert "the 48 strongest of 80" in figure.layout.yaxis.title.text
    assert {"1.7", "0.3"} <= set(figure.layout.yaxis.ticktext)
    assert "the strongest 48 of 80 rows" in sweep._repr_html_()
