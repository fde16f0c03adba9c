"""The work of attribution: in which order, how much is kept, and what is left of it when it is interrupted."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

import lenskit as lk
import lenskit.circuits.attributing.attribution_work as attribution_module
from lenskit.circuits.attributing.asking import attribute, attribution
from lenskit.circuits.attributing.attribution_work import Attribution
from lenskit.circuits.graph import ERROR, FEATURE, LOGIT, Graph
from lenskit.models.sites import SiteUnavailable
from tests.circuits.grown import printed
from tests.circuits.made_up import transcoder
from tests.circuits.same import assert_same
from tests.models.tiny import tiny

IDS = torch.randint(1, 131, (1, 7), generator=torch.Generator().manual_seed(3))
ALL = 10**6


@cache
def model() -> lk.Model:
    return lk.Model(tiny("gpt2"))


@cache
def given() -> tuple[lk.Transcoder, ...]:
    return (transcoder(model(), 0, kind="topk"), transcoder(model(), 2, skip=True))


def work(**options: Any) -> Attribution:
    return attribution(model(), IDS, given(), [40, 50], **options)


def graph(features: int = ALL, **options: Any) -> Graph:
    return attribute(model(), IDS, given(), [40, 50], features=features, **options)


@cache
def whole() -> Graph:
    """Every feature that reaches a target explained, and every edge kept."""
    return graph(width=ALL)


def names(made: Graph, numbers: np.ndarray | list[int]) -> list[str]:
    return [str(made.nodes[n]) for n in numbers]


def features_of(made: Graph) -> set[str]:
    return set(names(made, made.of_kind(FEATURE)))


def assert_adds_up(made: Graph) -> None:
    told = np.bincount(made.target, made.weight, len(made))
    targets = ~np.isnan(made.value)
    off = np.abs(told + made.bias + made.rest - made.value)[targets] / np.maximum(made.size, 1.0)[targets]
    assert off.max(initial=0.0) < 1e-4


# The order


def naive_rounds(count: int, a_round: int) -> list[list[str]]:
    """What is explained in each round, by one dense matrix of all rows, most of which are not known at first."""
    made = whole()
    dense = np.zeros((len(made), len(made)))
    np.add.at(dense, (made.target, made.source), np.abs(made.weight))
    shares = dense / np.maximum(dense.sum(1, keepdims=True), 1e-30)
    known, rounds = made.kind == LOGIT, list[list[str]]()
    while (left := count - sum(map(len, rounds))) > 0:
        handed_on = np.where(known[:, None], shares, 0.0)
        reached = np.linalg.solve(np.eye(len(made)) - handed_on.T, made.weights)
        reached[(made.kind != FEATURE) | known] = 0.0
        best = np.argsort(-reached)[: min(a_round, left)]
        best = best[reached[best] > 0]
        if not len(best):
            break
        rounds.append(names(made, best))
        known[best] = True
    return rounds


@pytest.mark.parametrize(("batch", "count"), [(1, 30), (5, 60), (64, 100)])
def test_those_of_the_most_influence_by_what_is_known_come_first(batch: int, count: int) -> None:
    rounds = naive_rounds(count, 4 * batch)
    assert sum(map(len, rounds)) == count
    explained = set[str]()
    for each in rounds:
        explained |= set(each)
        assert features_of(graph(len(explained), batch=batch, width=ALL)) == explained


def test_within_a_round_the_highest_layers_come_first() -> None:
    once = work(batch=4)
    for _ in once.go_on(16):
        pass
    levels = once.levels[[n for n in once.rows.targets if n < once.sources.total]]
    assert len(levels) == 16
    assert np.all(np.diff(levels) <= 0)
    assert len(set(levels.tolist())) > 1


@pytest.mark.parametrize("batch", [1, 7])
def test_how_many_there_are_in_a_batch_does_not_change_the_whole(batch: int) -> None:
    made, other = whole(), graph(width=ALL, batch=batch)
    assert made.nodes == other.nodes
    np.testing.assert_array_equal(made.source, other.source)
    np.testing.assert_array_equal(made.target, other.target)
    for name in ("weight", "value", "bias"):
        np.testing.assert_allclose(getattr(made, name), getattr(other, name), atol=1e-5)


def test_how_many_there_are_in_a_batch_hardly_changes_what_is_chosen() -> None:
    small, large = features_of(graph(60, batch=1)), features_of(graph(60, batch=15))
    assert len(small) == len(large) == 60
    assert len(small & large) > 48


# What is known on the way


def test_after_every_step_there_is_a_graph_that_adds_up() -> None:
    once = work(batch=6)
    assert not len(once.graph.weight)  # before the first, of nothing but what is put in and asked for
    assert once.graph.labels == ("40", "50")
    seen = list[tuple[int, int]]()
    for done, of in once.go_on(50):
        seen.append((done, of))
        made = once.graph
        assert len(made.of_kind(FEATURE)) == done == once.features_done
        assert_adds_up(made)
        assert 0 <= made.replacement_score <= 1
        assert 0 <= made.completeness_score <= 1
    assert seen == [(6 * n, 50) for n in range(1, 9)] + [(50, 50)]
    assert once.error < 1e-4
    rest = [np.abs(each.rest[each.kind == LOGIT]).sum() for each in (graph(0), graph(50), whole())]
    assert rest[0] > 10 * rest[2]
    assert rest[2] < 1e-4


def test_one_can_go_on_with_more() -> None:
    once = work(batch=6)
    list(once.go_on(24))
    list(once.go_on(24))  # they are there already
    assert once.features_done == 24
    list(once.go_on(48))
    assert_same(once.graph, graph(48, batch=6))


def test_progress_is_told_up_to_the_end() -> None:
    heard = list[tuple[int, int]]()
    made = graph(20, batch=8, progress=lambda done, of: heard.append((done, of)))
    assert heard == [(8, 20), (16, 20), (20, 20)]
    heard.clear()
    made = graph(batch=64, progress=lambda done, of: heard.append((done, of)))
    done = [each for each, _ in heard]
    assert done == sorted(done)
    # Some features reach no target: so it ends before all there are, and says so.
    assert heard[-1] == (len(made.of_kind(FEATURE)),) * 2
    assert heard[-1][0] < heard[0][1]


def test_no_feature_at_all_leaves_tokens_errors_and_targets() -> None:
    made = graph(0)
    assert set(made.kind.tolist()) == {0, ERROR, LOGIT}
    assert_adds_up(made)


# How much is kept


@pytest.mark.parametrize("width", [1, 9, 40])
def test_of_the_edges_from_features_the_largest_are_kept_and_rest_has_the_others(width: int) -> None:
    narrow, wide = graph(width=width), whole()
    dropped = 0
    for number in np.flatnonzero(~np.isnan(narrow.value)).tolist():
        every = wide.into(str(narrow.nodes[number]))
        kept = {str(edge.source): edge.weight for edge in narrow.into(number)}
        features = [edge for edge in every if edge.source.kind == "feature"]
        expected = {str(edge.source): edge.weight for edge in features[:width]}  # the largest come first
        expected |= {str(edge.source): edge.weight for edge in every if edge.source.kind != "feature"}
        assert kept.keys() == expected.keys()
        assert kept == pytest.approx(expected, abs=1e-5)
        others = sum(edge.weight for edge in features[width:])
        assert narrow.rest[number] == pytest.approx(others, abs=1e-4)
        assert narrow.size[number] == pytest.approx(sum(map(abs, expected.values())) + abs(others), abs=1e-3)
        dropped += len(features[width:])
    assert dropped > 100


SCRIPT = """
import pickle
import lenskit as lk
from lenskit.circuits.attributing.asking import attribution
from tests.models.tiny import tiny
model = lk.Model(tiny("gpt2", layers=4, d_model=64))
ids = torch.randint(1, 131, (1, 64), generator=torch.Generator().manual_seed(0))
work = attribution(model, ids, target=[40], width=512, whole_first=False)
print(work.sources.total, work.sources.fixed)
for features in (64, 1024):
    for _ in work.go_on(features):
        work.graph
    # A view is pickled with all that it is a view of: so this counts what is held, not only what is shown.
    print(len(work.rows.targets), len(pickle.dumps((work.rows, work.graph))), peak())
"""


def test_memory_grows_by_the_rows_that_are_kept_and_no_more() -> None:
    """At most 20 bytes for each part of a row that is kept, as a row and as an edge; all rows are never there at once.

    What is held is counted exactly. The most that the process ever took also has in it what the allocator keeps for
    later, tens of MB more on one machine than on another: it is only compared with all rows, whole.
    """
    total, fixed, few, held_before, peak_before, many, held_after, peak_after = printed(SCRIPT)
    kept = (many - few) * (512 + fixed)
    assert held_after - held_before < 20 * kept
    dense = (many - few) * total * 4  # the rows as they are made
    assert (peak_after - peak_before) * 2**20 < dense / 2


def test_logits_are_explained_in_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, own = list[int](), Attribution._reached
    monkeypatch.setattr(Attribution, "_reached", lambda self, made: counts.append(len(made)) or own(self, made))
    many = list(range(1, 31))
    made = attribute(model(), IDS, given(), many, features=10, batch=8)
    assert counts == [8, 8, 8, 6, 8, 2]
    assert len(made.labels) == 30
    monkeypatch.undo()
    together = attribute(model(), IDS, given(), many, features=10, batch=64)
    logits = made.kind == LOGIT
    np.testing.assert_allclose(made.value[logits], together.value[together.kind == LOGIT], atol=1e-5)


def test_a_batch_is_made_to_fit_and_what_does_not_fit_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = sum(value.numel() for value in work().replacement.put_in.values())
    monkeypatch.setattr(attribution_module, "_NUMBERS", 3 * numbers + 1)
    assert work(batch=64).batch == 3
    assert work(batch=2).batch == 2
    monkeypatch.setattr(attribution_module, "free_bytes", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"a graph of 7 tokens takes about .* GB, .* a smaller batch="):
        work()


# Interruptions


class Stop:
    """Ctrl-C at the n-th line of the work, wherever that is."""

    def __init__(self, lines: int) -> None:
        self.left = lines

    def __call__(self, frame: FrameType, event: str, arg: object) -> Stop | None:
        if not frame.f_code.co_filename.endswith(("attributing/attribution_work.py", "attributing/rows.py")):
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
        return self


@contextmanager
def stopped_after(lines: int) -> Iterator[None]:
    own = sys.gettrace()
    sys.settrace(Stop(lines))
    try:
        yield
    finally:
        sys.settrace(own)


@pytest.mark.parametrize("seed", range(6))
def test_interrupted_at_any_line_nothing_is_lost_and_it_ends_the_same(seed: int) -> None:
    draw, once, stops = random.Random(seed), work(batch=5), 0
    expected = graph(45, batch=5)  # two rounds and a part of one
    while once.features_done < 45:
        with suppress(KeyboardInterrupt), stopped_after(draw.randint(1, 500)):
            list(once.go_on(45))
            stops -= 1
        stops += 1
        assert_adds_up(once.graph)
        assert len(once.graph.of_kind(FEATURE)) == once.features_done
    assert stops > 4
    assert_same(once.graph, expected)


def test_interrupted_in_the_middle_of_a_batch_it_has_what_was_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    once, own = work(batch=5), Attribution._reached

    def reached(self: Attribution, made: torch.Tensor) -> Any:
        if self.features_done == 10:
            raise KeyboardInterrupt
        return own(self, made)

    monkeypatch.setattr(Attribution, "_reached", reached)
    with pytest.raises(KeyboardInterrupt):
        list(once.go_on(45))
    assert once.features_done == len(once.graph.of_kind(FEATURE)) == 10
    assert_adds_up(once.graph)
    monkeypatch.undo()
    list(once.go_on(45))
    assert_same(once.graph, graph(45, batch=5))
    assert all(parameter.grad is None for parameter in model().hf_model.parameters())


# What is refused, and what stands where


def test_what_is_no_number_does_not_pass_for_a_sum() -> None:
    broken = transcoder(model(), 0)
    broken.W_dec[0, :, 0] = torch.nan
    with pytest.raises(SiteUnavailable, match="does not add up to its value"):
        attribute(model(), IDS, broken)


def test_nothing_at_once_is_refused() -> None:
    for asked in ({"batch": 0}, {"width": 0}):
        with pytest.raises(ValueError, match="one at least"):
            graph(**asked)


def test_a_dictionary_that_writes_later_layers_only_keeps_its_features() -> None:
    across = transcoder(model(), 0, writes=[1, 2])
    made = attribute(model(), IDS, across, features=ALL, width=ALL)
    assert made.layers == ("transcoder",) * 3
    assert set(made.layer[made.kind == FEATURE].tolist()) == {0}
    codes = across.encode(model().run(IDS, keep="mlp_in")["mlp_in", 0])
    active = {f"0.{feature}@{pos}" for pos in range(1, 7) for feature in codes.at(0, pos)[0].tolist()}
    assert features_of(made)
    assert features_of(made) <= active
    assert set(made.layer[made.kind == ERROR].tolist()) == {0, 1, 2}
    assert_adds_up(made)
