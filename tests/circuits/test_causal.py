"""The causal check: predictions beside what the model does, and beside others that are as active."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.attributing.held_norms import norms_in
from lenskit.circuits.changing.causal import CausalCheck, causal_check
from lenskit.circuits.changing.effects import total_effect
from lenskit.circuits.changing.interventions import Change, measured
from lenskit.circuits.graph import FEATURE, Graph
from tests.circuits.made_up import transcoder
from tests.models.tiny import tiny

IDS = torch.randint(1, 131, (1, 7), generator=torch.Generator().manual_seed(3))


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama"))


@cache
def given() -> tuple[lk.Transcoder, ...]:
    return (transcoder(model(), 1, skip=True),)


@cache
def graph() -> Graph:
    return attribute(model(), IDS, given(), [40, 50], features=300)


def numbers(names: Sequence[str]) -> list[int]:
    return [graph().number(name) for name in names]


def made(predicted: Any, found: Any, control: Any, **changes: Any) -> CausalCheck:
    """A check whose effects are given, (change, label)."""
    predicted, found, control = (
        np.array(each, dtype=float).reshape(len(each), -1) for each in (predicted, found, control)
    )
    check = CausalCheck(
        names=tuple(f"0.{n}@1" for n in range(len(predicted))),
        predicted=predicted,
        measured=found,
        control_names=tuple(f"1.{n}@1" for n in range(len(control))),
        control_predicted=control,
        control_measured=control,
        labels=(" Paris", " Rome")[: predicted.shape[1]],
        attention="free",
        scale=0.0,
        provenance={},
    )
    return replace(check, **changes)


# What is changed, and what is set beside it


def test_the_most_influential_are_changed_each_by_itself() -> None:
    check = causal_check(model(), graph(), given(), 12)
    assert check.names == tuple(str(node) for node, _ in graph().top(12))
    changes: list[Change] = [{name: 0.0} for name in check.names]
    for n, change in enumerate(changes):
        np.testing.assert_allclose(check.predicted[n], total_effect(graph(), change))
    alone = measured(model(), graph(), given(), changes)
    np.testing.assert_allclose(check.measured, alone, atol=1e-5)
    controls: list[Change] = [{name: 0.0} for name in check.control_names]
    np.testing.assert_allclose(check.control_predicted, [total_effect(graph(), each) for each in controls])
    np.testing.assert_allclose(check.control_measured, measured(model(), graph(), given(), controls), atol=1e-5)
    assert (check.labels, check.attention, check.scale) == (graph().labels, "free", 0.0)
    assert check.provenance == graph().provenance


def test_controls_are_other_features_about_as_active_and_none_twice() -> None:
    check = causal_check(model(), graph(), given(), 40)
    chosen, controls = numbers(check.names), numbers(check.control_names)
    assert len(chosen) == len(controls) == len(set(controls)) == 40
    assert not set(chosen) & set(controls)
    assert set(graph().kind[controls].tolist()) == {FEATURE}
    free = graph().activation[np.setdiff1d(graph().of_kind(FEATURE), chosen)]
    nearer = [np.mean(np.abs(free - graph().activation[c]) < abs(graph().activation[o] - graph().activation[c]))
              for c, o in zip(chosen, controls, strict=True)]  # fmt: skip
    assert np.mean(nearer) < 0.2  # a random one has half of all others nearer


def test_controls_are_drawn_by_the_seed() -> None:
    first, again, other = (causal_check(model(), graph(), given(), 8, seed=seed) for seed in (0, 0, 1))
    assert first.control_names == again.control_names != other.control_names
    np.testing.assert_array_equal(first.control_measured, again.control_measured)
    assert first.names == other.names


def test_the_scale_holds_for_every_change_and_its_control() -> None:
    check = causal_check(model(), graph(), given(), 6, scale=3.0, attention="held")
    for names, predicted, found in (
        (check.names, check.predicted, check.measured),
        (check.control_names, check.control_predicted, check.control_measured),
    ):
        changes: list[Change] = [{name: 3.0} for name in names]
        np.testing.assert_allclose(predicted, [total_effect(graph(), change) for change in changes])
        np.testing.assert_allclose(found, measured(model(), graph(), given(), changes, "held"), atol=1e-5)
    assert (check.attention, check.scale) == ("held", 3.0)


def test_a_group_is_changed_together_beside_as_many_others() -> None:
    top = [node for node, _ in graph().top(5)]
    grouped = graph().grouped("five of them", top)
    check = causal_check(model(), grouped, given(), ["five of them", top[0], str(top[1])])
    assert check.names == ("five of them", str(top[0]), str(top[1]))
    changes: list[Change] = [dict.fromkeys(top, 0.0), {top[0]: 0.0}, {top[1]: 0.0}]
    np.testing.assert_allclose(check.predicted, [total_effect(grouped, each) for each in changes])
    np.testing.assert_allclose(check.measured, measured(model(), grouped, given(), changes), atol=1e-5)
    controls = [numbers(names.split(", ")) for names in check.control_names]
    assert [len(each) for each in controls] == [5, 1, 1]
    together = [n for each in controls for n in each]
    assert len(set(together)) == 7
    assert not set(together) & set(numbers([str(node) for node in top]))


def test_a_swap_gives_each_feature_its_own_factor() -> None:
    (one, _), (two, _) = graph().top(2)
    swap = {one: 0.0, str(two): 2.0}
    check = causal_check(model(), graph(), given(), [swap])
    assert check.names == (f"{one}, {two}",)
    assert check.scale is None
    np.testing.assert_allclose(check.predicted, [total_effect(graph(), swap)])
    np.testing.assert_allclose(check.measured, measured(model(), graph(), given(), [swap]), atol=1e-5)
    factors = dict(zip(check.control_names[0].split(", "), (0.0, 2.0), strict=True))
    np.testing.assert_allclose(check.control_predicted, [total_effect(graph(), factors)])


def test_what_cannot_be_changed_is_refused() -> None:
    with pytest.raises(ValueError, match="is no feature"):
        causal_check(model(), graph(), given(), ["embed@3"])
    with pytest.raises(KeyError, match="is no node of this graph"):
        causal_check(model(), graph(), given(), ["2.9999@1"])
    with pytest.raises(ValueError, match="those of a dictionary, which is not here"):
        causal_check(model(), graph(), [], [node for node, _ in graph().top(300) if node.layer == 1][:1])


# What it says


def test_correlations_are_pearsons_over_changes_and_targets() -> None:
    check = causal_check(model(), graph(), given(), 15)
    expected = np.corrcoef(check.predicted.ravel(), check.measured.ravel())[0, 1]
    assert check.correlation == pytest.approx(expected)
    control = np.corrcoef(check.control_predicted.ravel(), check.control_measured.ravel())[0, 1]
    assert check.control_correlation == pytest.approx(control)
    times = np.abs(check.measured).mean() / np.abs(check.control_measured).mean()
    assert check.times_control == pytest.approx(times)
    agree = sum((p > 0) == (m > 0) for p, m in zip(check.predicted[:, 0], check.measured[:, 0], strict=True))
    assert check.same_sign == pytest.approx(agree / 15)


@contextmanager
def straightened(m: lk.Model) -> Iterator[None]:
    """Every norm of the model divides by what it does on the prompt: only the nonlinearities are left to bend."""
    norms = norms_in(m)
    clean = m.run(IDS, keep=[f"{path}.input" for path in norms])

    def held(path: str) -> Callable[[torch.Tensor], torch.Tensor]:
        norm, scale = norms[path], norms[path].scale(clean[f"{path}.input"])
        return lambda x: norm.held(x, scale)

    with m.edit(*(lk.Splice(f"{path}.input", path, held(path)) for path in norms)):
        yield


def test_where_the_model_is_straight_what_is_predicted_is_what_happens() -> None:
    """Neurons of a ReLU go by their values exactly, until a change is so large that one falls silent or wakes up."""
    m = lk.Model(tiny("gpt_neox", hidden_act="relu").double())
    with straightened(m):
        whole = attribute(m, IDS, [], [40, 50], features=10**6)
        small = causal_check(m, whole, [], 20, scale=1 - 1e-6, attention="held")
        large = causal_check(m, whole, [], 20, attention="held")
    np.testing.assert_allclose(small.predicted, small.measured, rtol=1e-3, atol=1e-3 * np.abs(small.measured).max())
    np.testing.assert_allclose(
        small.control_predicted, small.control_measured, atol=1e-3 * np.abs(small.measured).max()
    )
    assert (small.correlation, small.same_sign) == (pytest.approx(1), 1.0)
    for check in (small, large):
        assert check.correlation > 0.95
        assert check.times_control > 2
        assert check.supported
        assert "; supported)" in repr(check)


def test_a_graph_whose_edges_are_dealt_out_anew_is_not_supported() -> None:
    m = lk.Model(tiny("opt", ffn_dim=96))
    whole = attribute(m, IDS, [], [40, 50], features=10**6)
    top = [node for node, _ in whole.top(20)]
    right = causal_check(m, whole, [], top, attention="held")
    assert right.correlation > 0.9
    assert right.supported
    for seed in range(3):
        shuffled = replace(whole, weight=np.random.default_rng(seed).permutation(whole.weight))
        wrong = causal_check(m, shuffled, [], top, attention="held")
        np.testing.assert_allclose(right.measured, wrong.measured, atol=1e-6)
        assert abs(wrong.correlation) < 0.5
        assert not wrong.supported
        assert "; not supported)" in repr(wrong)


EFFECTS = [1.0, -2.0, 3.0, -4.0, 5.0]
"""Of five changes."""


def test_supported_asks_for_all_three() -> None:
    small = [0.1] * 5
    assert made(EFFECTS, EFFECTS, small).supported
    astray = made([1.0, -1.0, 1.0, -1.0, 9.0], [9.0, -9.0, 9.0, -9.0, 1.0], small)
    assert astray.correlation < 0.5
    assert (astray.same_sign, astray.supported) == (1.0, False)  # they do not go together
    # They go together, but about a mean: most go the other way than was predicted.
    shifted = made(EFFECTS, [each + 20 for each in EFFECTS], small)
    assert shifted.correlation == pytest.approx(1)
    assert (shifted.same_sign, shifted.supported) == (3 / 5, False)
    as_large = made(EFFECTS, EFFECTS, [2.0] * 5)
    assert (as_large.times_control, as_large.supported) == (1.5, False)  # others do as much
    assert made(EFFECTS, EFFECTS, [1.5] * 5).supported


def test_without_anything_beside_it_nothing_is_supported() -> None:
    features = [node for node, _ in attribute(model(), IDS, given(), [40], features=6).top(6)]
    all_of_it = causal_check(model(), attribute(model(), IDS, given(), [40], features=6), given(), features)
    assert all_of_it.control_names == ()
    assert math.isnan(all_of_it.times_control)
    assert math.isnan(all_of_it.control_correlation)
    assert not all_of_it.supported
    assert made(EFFECTS, EFFECTS, [0.0] * 5).times_control == math.inf  # others do nothing at all


def test_fewer_than_three_effects_have_no_correlation() -> None:
    assert math.isnan(made([1.0, 2.0], [1.0, 2.0], [0.1, 0.1]).correlation)
    assert made([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]], [[0.1, 0.1]]).correlation == pytest.approx(1)
    assert math.isnan(made([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [0.1]).correlation)  # none of them differ


def test_no_change_at_all_gives_an_empty_check() -> None:
    check = causal_check(model(), graph(), given(), [])
    assert check.predicted.shape == check.measured.shape == (0, 2)
    assert len(check.to_pandas()) == 0
    assert math.isnan(check.correlation)
    assert math.isnan(check.same_sign)
    assert not check.supported
    figure: Any = check.figure()
    assert len(figure.data) == 3
    assert repr(check).startswith("CausalCheck(0 changes")


# What it shows


def test_the_table_has_a_line_for_each_change_and_target() -> None:
    check = causal_check(model(), graph(), given(), 4)
    table = check.to_pandas()
    assert list(table.columns) == ["change", "target", "predicted", "measured", "control"]
    assert len(table) == 2 * 4 * 2
    for n, name in enumerate(check.names):
        for label, target in enumerate(check.labels):
            row = table[(table.change == name) & (table.target == target) & ~table.control]
            assert row.predicted.tolist() == [check.predicted[n, label]]
            assert row.measured.tolist() == [check.measured[n, label]]
    assert set(table.change[table.control]) == set(check.control_names)


def test_the_figure_has_a_point_for_each_and_the_line_as_predicted() -> None:
    check = causal_check(model(), graph(), given(), 5)
    figure: Any = check.figure()
    others, nodes, line = figure.data
    np.testing.assert_array_equal(nodes.x, check.predicted.ravel())
    np.testing.assert_array_equal(nodes.y, check.measured.ravel())
    np.testing.assert_array_equal(others.y, check.control_measured.ravel())
    np.testing.assert_array_equal(line.x, line.y)
    assert list(nodes.text) == [name for name in check.names for _ in check.labels]
    assert "free" in figure.layout.title.text


def test_text_in_the_figure_is_text() -> None:
    check = made(EFFECTS, EFFECTS, EFFECTS, labels=("<b>bold</b>",), names=("<i>",) * 5)
    figure: Any = check.figure()
    assert figure.layout.title.text.startswith("&lt;b&gt;bold")
    assert set(figure.data[1].text) == {"&lt;i&gt;"}
    assert check.to_pandas().target[0] == "<b>bold</b>"
