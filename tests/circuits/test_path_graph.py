"""Paths as a graph: no heads, and the same edges as an attribution graph where every way was followed."""

import numpy as np
import pytest

import lenskit as lk
from lenskit.circuits.along_paths.notation import Path, Step
from lenskit.circuits.along_paths.paths import best_paths
from lenskit.circuits.attributing.asking import attribute
from tests.circuits.made_up import transcoder
from tests.circuits.test_paths import ALL, IDS, dictionaries, model_of
from tests.circuits.two_layers import BROUGHT, LAST, two_layers
from tests.models.tiny import tiny


def test_of_a_model_made_by_hand_the_graph_and_what_is_left_out_are_known() -> None:
    model, tcs = two_layers()
    paths = best_paths(model, [[1, 2]], "1.1@1", tcs, depth=3, branches=2)
    graph = paths.graph()
    assert graph.labels == ("1.1@1",)
    assert graph.name("logit.0@1") == "1.1@1"
    # Head 1.1 is no node of a graph: what it brings is an edge from the feature that it brings.
    into = {str(edge.source): edge.weight for edge in graph.into("logit.0@1")}
    assert into == pytest.approx({f"0.0@{pos}": BROUGHT[pos] / LAST for pos in (0, 1)}, rel=1e-5)
    assert graph.rest[graph.number("logit.0@1")] == pytest.approx(1 / LAST, rel=1e-5)
    # An edge is in the units of what it leads to; of feature 0 at position 1 one of two ways was followed.
    early = graph.number("0.0@1")
    assert graph.value[early] == graph.activation[early] == pytest.approx(3.5, rel=1e-5)
    assert graph.bias[early] == pytest.approx(0.5, rel=1e-5)
    left_out = {path.places: path.contribution for path in paths.errors}
    assert left_out[Path.parse("mlp1tc[1]@1 <- pruned@1").places] == pytest.approx(1 / LAST, rel=1e-5)
    by_bias = Path.parse("mlp1tc[1]@1 <- attn1[1]@1 <- mlp0tc[0]@1 <- bias@1").places
    assert left_out[by_bias] == pytest.approx(0.5 / 3.5 * BROUGHT[1] / LAST, rel=1e-5)


FEW = [("gpt2", {"n_inner": 12}), ("llama", {"intermediate_size": 12})]
"""Of neurons, ungated and gated."""


@pytest.mark.parametrize(
    ("family", "neurons"), [*[(each, {}) for each in ("gpt2", "gpt_neox", "llama", "gemma2")], *FEW]
)
def test_all_ways_together_are_the_edges_of_the_attribution_graph(family: str, neurons: dict[str, int]) -> None:
    model = lk.Model(tiny(family, layers=2, **neurons))
    tcs = [] if neurons else [transcoder(model, 0, skip=True), transcoder(model, 1)]
    ids, start = IDS[:, :3], "1.7@2"
    # Every way past heads and skips: nothing is left to be pruned.
    mine = best_paths(model, ids, start, tcs, depth=5, branches=ALL).graph()
    theirs = attribute(model, ids, tcs, features=ALL, width=ALL, whole_first=False)
    known, compared = set(map(str, theirs.nodes)), 0
    features = [(str(node), str(node)) for node in mine.nodes if node.kind == "feature"]
    for target, same in (("logit.0@2", start), *features):
        if same not in known:
            assert same == start  # it is not active
            continue
        one, other = mine.number(target), theirs.number(same)
        size = max(theirs.size[other], 0.01)
        edges = {str(edge.source): edge.weight for edge in theirs.into(same)}
        found = {str(edge.source): edge.weight for edge in mine.into(target)}
        for source in edges.keys() | found.keys():
            assert found.get(source, 0.0) == pytest.approx(edges.get(source, 0.0), abs=1e-4 * size), (target, source)
        assert mine.bias[one] == pytest.approx(theirs.bias[other], abs=1e-4 * size)
        assert mine.value[one] == pytest.approx(theirs.value[other], abs=1e-4 * size)
        assert mine.rest[one] == pytest.approx(0.0, abs=1e-4 * size)
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi"])
def test_what_paths_leave_out_completes_each_step(family: str) -> None:
    model = model_of(family)
    paths = best_paths(model, IDS, "logit", dictionaries(model), depth=3, branches=6)
    given: dict[tuple[Step, ...], dict[Step, float]] = {}
    for path in (*paths, *paths.errors):
        given.setdefault(path.steps[:-1], {})[path[-1].place] = path.contribution
    assert {path[-1].component for path in paths.errors} == {"error", "bias", "pruned"}
    for steps, parts in given.items():
        assert sum(parts.values()) == pytest.approx(steps[-1].contribution, abs=1e-5)
    # What is called pruned is what a search for everything finds besides.
    everything = best_paths(model, IDS, "logit", dictionaries(model), depth=1, branches=ALL)
    kept = {path[-1].place for path in (*paths, *paths.errors) if len(path) == 2}
    besides = sum(path.contribution for path in everything if path[-1].place not in kept)
    assert given[(paths.start,)][Step("pruned", -1, -1, 4)] == pytest.approx(besides, abs=1e-4)


@pytest.mark.parametrize("start", ["logit", "2.7@-1"])
def test_the_graph_of_some_paths_adds_up(start: str) -> None:
    model = model_of("llama")
    paths = best_paths(model, IDS, start, dictionaries(model), depth=4, branches=8)
    graph = paths.graph()
    targets = ~np.isnan(graph.value)
    sums = np.bincount(graph.target, graph.weight, len(graph)) + graph.bias + graph.rest
    np.testing.assert_allclose(sums[targets], graph.value[targets], atol=1e-9)
    # What is explained is its target, whatever it is, and stays when the graph is pruned.
    small = graph.pruned(0.9)
    assert str(graph.nodes[-1]) == str(small.nodes[-1]) == "logit.0@4"
    assert graph.value[-1] == pytest.approx(paths.start.contribution)
    assert len(small) < len(graph)
    # Fewer paths, fewer edges, and more that is pruned.
    part = paths.of_length(2)
    assert len(part.graph().weight) < len(graph.weight)
    assert {path.steps[:-1] for path in part.errors} == {(paths.start,)}
