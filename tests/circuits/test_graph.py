"""A graph is a frozen value that holds together, can be asked for its nodes and edges, and makes other graphs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenskit.circuits.graph import EDGE_ARRAYS, EMBED, ERROR, FEATURE, LOGIT, NODE_ARRAYS, Graph
from lenskit.circuits.nodes import Node
from tests.circuits.graphs import random_graph
from tests.circuits.test_pruning import chain

SEEDS = st.integers(0, 10**6)


def test_every_value_adds_up_in_a_made_up_graph() -> None:
    for seed in range(5):
        graph = random_graph(seed, nodes=90, edges=400)
        told = np.bincount(graph.target, graph.weight, len(graph))
        np.testing.assert_allclose(graph.bias + told + graph.rest, graph.value)
        assert (len(graph), len(graph.weight)) == (90, 400)


# Nodes


def test_nodes_are_found_by_name_by_number_and_by_themselves() -> None:
    graph = chain()
    assert [str(node) for node in graph.nodes] == ["embed@0", "0.7@0", "1.error@0", "logit.0@0"]
    for number, node in enumerate(graph.nodes):
        assert graph.number(node) == graph.number(str(node)) == graph.number(number) == number
    # a name says neither an embedding's token nor a logit's layer
    assert graph.number(Node("embed", -1, 0)) == 0
    assert [graph.name(node) for node in graph.nodes] == ["The", "0.7@0", "1.error@0", " capital"]


@pytest.mark.parametrize("node", ["0.8@0", "0.7@1", "embed@1", "logit.1@0", 4, -1])
def test_a_node_that_is_not_there_is_a_key_error(node: Any) -> None:
    with pytest.raises(KeyError, match="this graph"):
        chain().number(node)


@pytest.mark.parametrize("name", ["", "x", "1.2", "20.155@-1", "logit@3", "embed.3@1", "1.error.2@0"])
def test_what_is_no_name_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="is no node"):
        chain().number(name)


@given(st.sampled_from(["embed", "feature", "error", "logit"]), *[st.integers(0, 10**6)] * 3)
def test_a_nodes_name_parses_back(kind: Any, layer: int, pos: int, feature: int) -> None:
    node = {
        "embed": Node("embed", -1, pos),
        "feature": Node("feature", layer, pos, feature),
        "error": Node("error", layer, pos),
        "logit": Node("logit", -1, pos, feature),
    }[kind]
    assert Node.parse(str(node)) == node
    assert Node.parse(node) is node


def test_top_are_the_most_influential_ones() -> None:
    graph = random_graph(4)
    features = [(str(node), score) for node, score in graph.top(5)]
    every = sorted(
        ((str(node), float(graph.influence[n])) for n, node in enumerate(graph.nodes) if node.kind == "feature"),
        key=lambda each: -each[1],
    )
    assert features == every[:5]
    assert {node.kind for node, _ in graph.top(3, ERROR)} == {"error"}
    assert len(graph.top(100, LOGIT)) == 2


# Edges


def test_edges_into_and_out_of_a_node_come_largest_first() -> None:
    graph = chain()
    assert [(str(e.source), str(e.target), e.weight) for e in graph.into("logit.0@0")] == [
        ("0.7@0", "logit.0@0", 5.0),
        ("1.error@0", "logit.0@0", -4.0),
    ]
    assert [e.weight for e in graph.out_of("embed@0")] == [3.0]
    assert graph.into("embed@0") == graph.out_of("logit.0@0") == []


@given(SEEDS)
def test_each_edge_is_found_from_both_of_its_ends(seed: int) -> None:
    graph = random_graph(seed, nodes=30, edges=80, tokens=4)
    every = sorted(zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True))
    for asked in (graph.into, graph.out_of):
        edges = [edge for n in range(len(graph)) for edge in asked(n)]
        assert sorted((graph.number(e.source), graph.number(e.target), e.weight) for e in edges) == every


def test_edges_may_be_given_in_any_order() -> None:
    graph = random_graph(5)
    order = np.random.default_rng(0).permutation(len(graph.weight))
    other = replace(graph, **{name: getattr(graph, name)[order] for name in EDGE_ARRAYS})
    assert np.all(np.diff(other.target) >= 0)
    assert other.into("logit.0@7") == graph.into("logit.0@7")
    np.testing.assert_allclose(other.influence, graph.influence)


# Other graphs


@given(SEEDS)
def test_keeping_some_of_it_keeps_each_value_a_sum(seed: int) -> None:
    rng, graph = np.random.default_rng(seed), random_graph(seed, nodes=40, edges=150, tokens=4)
    graph = graph.grouped("some", rng.choice(40, 9, replace=False).tolist())
    nodes, edges = rng.random(len(graph)) < 0.7, rng.random(len(graph.weight)) < 0.8
    part = graph.keeping(nodes, edges)
    told = np.bincount(part.target, part.weight, len(part))
    np.testing.assert_allclose(part.bias + told + part.rest, part.value, atol=1e-9)
    kept = [graph.nodes[n] for n in np.flatnonzero(nodes)]
    assert list(part.nodes) == kept
    between = edges & nodes[graph.source] & nodes[graph.target]
    assert len(part.weight) == between.sum()
    named = {graph.nodes[n] for n in graph.groups["some"]} & set(kept)
    assert {part.nodes[n] for n in part.groups.get("some", ())} == named


def test_keeping_all_changes_nothing() -> None:
    graph = random_graph(6, groups={"a": (1, 2)})
    same = graph.keeping(np.ones(len(graph), dtype=bool))
    for name in NODE_ARRAYS | EDGE_ARRAYS:
        np.testing.assert_array_equal(getattr(same, name), getattr(graph, name), name)
    assert same.groups == graph.groups


def test_a_node_is_in_one_group_at_most() -> None:
    graph = chain()
    one = graph.grouped("Texas", ["0.7@0", 0])
    assert graph.groups == {}
    assert one.groups == {"Texas": (0, 1)}
    two = one.grouped("<b>Austin</b>", ["0.7@0"])
    assert two.groups == {"Texas": (0,), "<b>Austin</b>": (1,)}
    assert two.grouped("Texas", []).groups == {"<b>Austin</b>": (1,)}
    assert two.grouped("Austin", [0, 1]).groups == {"Austin": (0, 1)}
    with pytest.raises(KeyError, match="no node of this graph"):
        graph.grouped("Texas", ["0.8@0"])


# The value


def test_the_arrays_cannot_be_written_and_are_copies() -> None:
    weight = np.array([3.0, 5.0, -4.0])
    graph = replace(chain(), weight=weight)
    weight[0] = 9
    assert graph.weight[0] == 3
    for name in (*NODE_ARRAYS, *EDGE_ARRAYS, "influence"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(graph, name)[0] = 0


def test_its_line_says_what_it_is() -> None:
    assert repr(chain()) == "Graph(' capital': 1 embed, 1 feature, 1 error, 1 logit, 3 edges, replacement 0.38)"
    many = random_graph(0, nodes=1200, edges=2000, targets=3)
    assert repr(many).startswith("Graph(' Paris', ' Mary', ...: 8 embeds, 1,141 features, 48 errors, 3 logits, 2,000 e")


def test_it_can_be_a_table() -> None:
    table = random_graph(7).to_pandas()
    assert list(table.columns) == ["node", "kind", "layer", "pos", "feature", "name", "activation", "influence"]
    assert len(table) == 60
    assert table.loc[0, "name"] == random_graph(7).pieces[0]
    assert set(table.kind) == {"embed", "feature", "error", "logit"}


def test_an_empty_graph_is_a_graph() -> None:
    graph = chain()
    none = graph.keeping(np.zeros(len(graph), dtype=bool))
    assert len(none) == 0
    assert (none.replacement_score, none.completeness_score) == (0, 0)
    assert len(none.pruned()) == 0
    assert none.top() == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": np.zeros(3)}, r"value is \(3,\), and should be \(4,\)"),
        ({"weight": np.zeros(2)}, r"weight is \(2,\), and should be \(3,\)"),
        ({"source": np.array([0, 1, 4])}, "source names nodes that are not there"),
        ({"target": np.array([1, 3, -1])}, "target names nodes that are not there"),
        ({"source": np.array([1, 1, 2])}, "not above its own"),
        ({"layer": np.array([-1, 1, 0, 2])}, "by layer, the lowest first"),
        ({"kind": np.array([0, 1, 2, 4])}, "a kind of node is"),
        ({"pieces": ("The", "b")}, "1 tokens with 2 pieces"),
        ({"pos": np.array([0, 1, 0, 0])}, "position that the prompt does not have"),
        ({"pos": np.array([0, -1, 0, 0])}, "position that the prompt does not have"),
        ({"labels": ()}, "a logit has no label"),
        ({"layers": ("none",)}, "2 layers, and what 1 are made of"),
        ({"groups": {"a": (4,)}}, "group 'a' names nodes that are not there"),
    ],
)
def test_what_does_not_hold_together_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(chain(), **changes)


def test_kinds_are_told_apart() -> None:
    graph = random_graph(8)
    assert graph.of_kind(EMBED).tolist() == list(range(8))
    assert graph.of_kind(LOGIT).tolist() == [58, 59]
    assert len(graph.of_kind(FEATURE)) + len(graph.of_kind(ERROR)) == 50
    assert isinstance(graph, Graph)
