"""Graphs summed over tokens and over prompts: values stay sums, and what was counted by hand comes out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenskit.circuits.graph import EMBED, ERROR, FEATURE, LOGIT, Graph
from lenskit.circuits.merging import merged, over_tokens
from tests.circuits.graphs import random_graph
from tests.circuits.same import assert_same

SEEDS = st.integers(0, 10**6)
NUMBERS = ("value", "activation", "bias", "rest", "size", "weights")


def what(graph: Graph, n: int) -> tuple[Any, ...]:
    """What a node is wherever it stands."""
    kind, layer, feature = int(graph.kind[n]), int(graph.layer[n]), int(graph.feature[n])
    return (kind, graph.labels[feature]) if kind == LOGIT else (kind, layer, feature)


def summed(graphs: list[Graph]) -> tuple[dict[Any, dict[str, float]], dict[Any, float]]:
    """The nodes' numbers and the edges between them, in plain loops: sums over tokens, averages over prompts."""
    nodes, edges, prompts = dict[Any, dict[str, float]](), dict[Any, float](), dict[Any, set[int]]()
    for prompt, graph in enumerate(graphs):
        for n in range(len(graph)):
            numbers = nodes.setdefault(what(graph, n), dict.fromkeys(NUMBERS, 0.0))
            prompts.setdefault(what(graph, n), set()).add(prompt)
            for name in NUMBERS:
                numbers[name] += float(getattr(graph, name)[n])
        for source, target, weight in zip(graph.source, graph.target, graph.weight, strict=True):
            pair = what(graph, source), what(graph, target)
            edges[pair] = edges.get(pair, 0.0) + float(weight)
    for key, numbers in nodes.items():
        for name in NUMBERS:
            numbers[name] /= len(graphs) if name == "weights" else len(prompts[key])
    return nodes, {pair: weight / len(prompts[pair[1]]) for pair, weight in edges.items()}


def assert_summed(made: Graph, graphs: list[Graph]) -> None:
    nodes, edges = summed(graphs)
    assert len(made) == len(nodes)
    assert len(set(map(str, made.nodes))) == len(made)
    for n in range(len(made)):
        for name in NUMBERS:
            np.testing.assert_allclose(getattr(made, name)[n], nodes[what(made, n)][name], atol=1e-12)
    found = {(what(made, s), what(made, t)): w for s, t, w in zip(made.source, made.target, made.weight, strict=True)}
    assert found.keys() == edges.keys()
    np.testing.assert_allclose([found[pair] for pair in edges], list(edges.values()), atol=1e-12)
    told = np.bincount(made.target, made.weight, len(made))
    np.testing.assert_allclose(made.bias + told + made.rest, made.value, atol=1e-9)


@given(SEEDS)
def test_over_tokens_is_the_sum_over_positions(seed: int) -> None:
    graph = random_graph(seed, nodes=70, edges=300, tokens=9, targets=2, dictionary=6)
    made = graph.over_tokens()
    assert len(made) < len(graph)
    assert_summed(made, [graph])
    assert_same(made.over_tokens(), made)  # there is nothing more to sum


def test_tokens_are_the_distinct_ones_in_their_order() -> None:
    graph = random_graph(1, tokens=9)
    made = graph.over_tokens()
    assert made.tokens == tuple(dict.fromkeys(graph.tokens))
    assert made.pieces == tuple(dict.fromkeys(graph.pieces))
    for n in made.of_kind(EMBED):
        assert made.tokens[made.pos[n]] == made.feature[n]
        assert made.name(int(n)) == made.pieces[made.pos[n]]
    assert not made.pos[made.kind != EMBED].any()
    assert len(made.of_kind(ERROR)) == len(set(graph.layer[graph.kind == ERROR]))
    assert made.provenance == {**graph.provenance, "over_tokens": True}


def test_influence_is_the_sum_where_nothing_cancels() -> None:
    """One feature at two positions, read by the logit only, beside another one and an error."""
    graph = twice()
    made = graph.over_tokens()
    assert [str(node) for node in made.nodes] == ["embed@0", "embed@1", "0.7@0", "0.8@0", "0.error@0", "logit.0@0"]
    parts = [float(graph.influence[graph.number(f"0.7@{pos}")]) for pos in (0, 2)]
    np.testing.assert_allclose(parts, [0.1, 0.3])
    assert made.influence[made.number("0.7@0")] == pytest.approx(sum(parts))
    assert made.influence[made.number("0.error@0")] == pytest.approx(0.1)
    assert made.influence[made.number("embed@0")] == pytest.approx(
        0.4
    )  # both places of the token, by way of the feature
    np.testing.assert_allclose(made.influence.sum(), graph.influence.sum())


def test_what_cancels_is_lost() -> None:
    graph = twice()
    made = replace(graph, weight=np.where(graph.source == 3, -graph.weight, graph.weight)).over_tokens()
    # 3 - 1 of the 10 that reach the logit
    assert made.influence[made.number("0.7@0")] == pytest.approx(0.2)
    assert made.replacement_score < graph.replacement_score


def twice() -> Graph:
    """Tokens a b a; the feature 0.7 at both a, each made by its own token; 0.8 and an error at b."""
    nan = np.nan
    size = np.array([nan, nan, nan, 1, 2, nan, 2, 10.0])
    weight = np.array([1.0, 2.0, 2.0, 1.0, 5.0, 1.0, 3.0])
    value = np.array([nan, nan, nan, 1, 2, nan, 2, 10.0])
    reached = ~np.isnan(size)
    return Graph(
        tokens=(5, 6, 5),
        pieces=("a", "b", "a"),
        kind=np.array([EMBED] * 3 + [FEATURE, FEATURE, ERROR, FEATURE, LOGIT]),
        layer=np.array([-1, -1, -1, 0, 0, 0, 0, 1]),
        pos=np.array([0, 1, 2, 0, 1, 1, 2, 2]),
        feature=np.array([5, 6, 5, 7, 8, -1, 7, 0]),
        value=value,
        activation=value,
        source=np.array([0, 1, 2, 3, 4, 5, 6]),
        target=np.array([3, 4, 6, 7, 7, 7, 7]),
        weight=weight,
        bias=np.where(reached, 0.0, nan),
        rest=np.where(reached, 0.0, nan),
        size=size,
        weights=np.array([0, 0, 0, 0, 0, 0, 0, 1.0]),
        labels=("c",),
        layers=("transcoder",),
        n_layers=1,
    )


# Several prompts


@given(SEEDS, st.integers(1, 3))
def test_merging_copies_of_a_graph_is_that_graph(seed: int, copies: int) -> None:
    graph = random_graph(seed, nodes=40, edges=120, tokens=5, groups={"a": (6, 8)}).over_tokens()
    made = merged([graph] * copies)
    assert made.groups == graph.groups
    assert [str(node) for node in made.nodes] == [str(node) for node in graph.nodes]
    for name in (*NUMBERS, "weight", "influence"):
        np.testing.assert_allclose(getattr(made, name), getattr(graph, name), rtol=1e-12, atol=1e-12)
    assert made.provenance["merged"] == [graph.provenance] * copies


@given(st.lists(SEEDS, min_size=1, max_size=4))
def test_each_number_is_its_average_over_the_prompts_that_have_it(seeds: list[int]) -> None:
    graphs = [
        random_graph(seed, nodes=50, edges=200, tokens=3 + n, targets=1 + n, dictionary=9)
        for n, seed in enumerate(seeds)
    ]
    made = merged(graphs)
    assert_summed(made, graphs)
    assert made.weights.sum() == pytest.approx(1)
    assert set(made.labels) == {label for graph in graphs for label in graph.labels}
    assert made.pruned().influence.max() <= 1 + 1e-12


def test_what_is_in_one_of_two_prompts_has_half_of_its_influence() -> None:
    """Two prompts with logits of their own, and a feature that only the first has."""
    one = twice()
    other = replace(one, feature=np.where(one.feature == 7, 9, one.feature), labels=("d",))
    made = merged([one, other])
    assert made.labels == ("c", "d")
    np.testing.assert_allclose(made.weights[made.kind == LOGIT], [0.5, 0.5])
    for name, share in {"0.7@0": 0.2, "0.9@0": 0.2, "0.8@0": 0.5, "embed@0": 0.4}.items():
        assert made.influence[made.number(name)] == pytest.approx(share)
    assert made.value[made.number("0.7@0")] == 3  # 1 + 2, where it is there


def test_groups_of_one_name_become_one() -> None:
    graph = twice().grouped("both", ["0.7@0", "0.7@2", "0.8@1"]).grouped("other", ["0.7@2"])
    assert {name: [str(graph.nodes[n]) for n in of] for name, of in graph.groups.items()} == {
        "both": ["0.7@0", "0.8@1"],
        "other": ["0.7@2"],
    }
    assert graph.over_tokens().groups == {"both": (2, 3)}  # a node is in the first group that it would be in
    made = merged([twice().grouped("a", ["0.7@0"]), twice().grouped("a", ["0.8@1"]).grouped("b", ["0.7@2"])])
    assert made.groups == {"a": (2, 3)}


def test_what_cannot_be_merged_is_refused_with_what_differs() -> None:
    graph = random_graph(0)
    with pytest.raises(ValueError, match="no graphs"):
        merged([])
    for changes, says in {
        "another model": ({"provenance": {"model": "other"}}, "graph 1 is of model 'other', and graph 0 of 'made up'"),
        "other layers": ({"layers": ("none",) * 6}, r"graph 1 is of layers \('none', .* and graph 0 of \('neurons', "),
        "dictionaries": (
            {"provenance": {"model": "made up", "dictionaries": ["b"]}},
            r"graph 1 is of dictionaries \['b'\], and graph 0 of None",
        ),
    }.values():
        with pytest.raises(ValueError, match=says):
            merged([graph, replace(random_graph(1), **changes)])
    with pytest.raises(ValueError, match="graph 2 is of n_layers 5, and graph 0 of 6"):
        merged([graph, graph, random_graph(0, n_layers=5)])


def test_the_graphs_may_come_one_by_one() -> None:
    made = merged(random_graph(seed) for seed in range(3))
    assert_same(made, merged([random_graph(seed) for seed in range(3)]))
    assert_same(over_tokens(made), made, but=("provenance",))
