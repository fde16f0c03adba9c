"""Influence, scores and pruning are what dense linear algebra makes of the same graph."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenskit.circuits.graph import EMBED, ERROR, FEATURE, LOGIT, Graph
from lenskit.circuits.influence import Wires, influence, most_of, shares
from tests.circuits import naive_pruning as naive
from tests.circuits.graphs import random_graph

SEEDS = st.integers(0, 10**6)
PARTS = st.floats(0.05, 0.999)


def graphs(seed: int) -> Graph:
    """Of many shapes: of few edges and of nearly all, of one target and of several."""
    rng = np.random.default_rng(seed)
    tokens, targets, layers = int(rng.integers(1, 7)), int(rng.integers(1, 4)), int(rng.integers(1, 7))
    inside = int(rng.integers(0, 40))
    return random_graph(
        seed,
        nodes=inside + tokens + targets,
        edges=int(rng.integers(1, 8 * (inside + 2))),
        tokens=tokens,
        n_layers=layers,
        targets=targets,
    )


@given(SEEDS)
def test_influence_is_that_of_the_dense_formula(seed: int) -> None:
    graph = graphs(seed)
    dense = naive.influence(naive.shares(graph), graph.weights) + graph.weights
    np.testing.assert_allclose(graph.influence, dense, rtol=1e-10, atol=1e-12)


@given(SEEDS)
def test_scores_are_those_of_the_dense_formula(seed: int) -> None:
    graph = graphs(seed)
    np.testing.assert_allclose((graph.replacement_score, graph.completeness_score), naive.scores(graph), atol=1e-10)


def test_all_influence_arrives_somewhere() -> None:
    graph = random_graph(3)
    lost = naive.influence(naive.shares(graph), graph.weights) + graph.weights
    ends = graph.influence[(graph.kind == EMBED) | (graph.kind == ERROR)].sum()
    rest = np.nansum(lost * np.where(np.isnan(graph.size), np.nan, 1 - naive.shares(graph).sum(1)))
    assert ends + rest == pytest.approx(1)


def test_a_hand_made_chain() -> None:
    """Token -> feature (3 of 4) -> logit (half of it), with an error beside it and a rest."""
    graph = chain()
    np.testing.assert_allclose(graph.influence, [0.375, 0.5, 0.4, 1])
    # 0.375 of the token; 0.4 of the error, 0.125 of the feature's rest and 0.1 of the logit's are lost
    assert graph.replacement_score == pytest.approx(0.375)
    assert graph.completeness_score == pytest.approx((1 * 0.5 + 0.5 * 0.75) / 1.5)


def chain() -> Graph:
    nan = np.nan
    return Graph(
        tokens=(504,),
        pieces=("The",),
        kind=np.array([EMBED, FEATURE, ERROR, LOGIT]),
        layer=np.array([-1, 0, 1, 2]),
        pos=np.zeros(4),
        feature=np.array([504, 7, -1, 0]),
        value=np.array([nan, 2.5, nan, 0.5]),
        activation=np.array([nan, 2.5, nan, nan]),
        source=np.array([0, 1, 2]),
        target=np.array([1, 3, 3]),
        weight=np.array([3.0, 5.0, -4.0]),
        bias=np.array([nan, 0.5, nan, 0.5]),
        rest=np.array([nan, -1.0, nan, -1.0]),
        size=np.array([nan, 4.0, nan, 10.0]),
        weights=np.array([0, 0, 0, 1.0]),
        labels=(" capital",),
        layers=("transcoder", "none"),
        n_layers=2,
    )


@given(SEEDS, PARTS, PARTS)
def test_pruning_is_the_published_one(seed: int, nodes: float, edges: float) -> None:
    graph = graphs(seed)
    left, chosen = naive.pruned(graph, nodes, edges)
    small = graph.pruned(nodes, edges)
    assert [str(node) for node in small.nodes] == [str(graph.nodes[n]) for n in np.flatnonzero(left)]
    assert {(e.source, e.target) for n in range(len(small)) for e in small.into(n)} == {
        (graph.nodes[source], graph.nodes[target]) for source, target in chosen
    }


@given(SEEDS, PARTS, PARTS)
def test_what_is_pruned_goes_to_rest(seed: int, nodes: float, edges: float) -> None:
    graph = graphs(seed)
    small = graph.pruned(nodes, edges)
    told = np.bincount(small.target, small.weight, len(small))
    np.testing.assert_allclose(small.bias + told + small.rest, small.value, atol=1e-9)
    assert np.array_equal(small.size, graph.size[[graph.number(node) for node in small.nodes]], equal_nan=True)


def test_embeddings_and_logits_stay_and_all_else_has_a_way() -> None:
    for seed in range(20):
        graph = random_graph(seed, nodes=120, edges=600)
        small = graph.pruned(0.5, 0.7)
        assert len(small.of_kind(EMBED)) == len(graph.of_kind(EMBED))
        assert len(small.of_kind(LOGIT)) == len(graph.of_kind(LOGIT))
        for node in small.of_kind(FEATURE):
            assert small.into(int(node))
            assert small.out_of(int(node))
        for node in small.of_kind(ERROR):
            assert small.out_of(int(node))
        assert len(small) < len(graph)


def test_pruning_less_keeps_more() -> None:
    graph = random_graph(1, nodes=200, edges=1500, n_layers=8)
    sizes = [len(graph.pruned(part, 0.98)) for part in (0.3, 0.5, 0.8, 0.95)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4


def test_all_of_it_keeps_all_that_matters() -> None:
    graph = random_graph(2, nodes=80, edges=900)
    whole = graph.pruned(1.0, 1.0)
    gone = set(graph.nodes) - set(whole.nodes)
    assert all(graph.influence[graph.number(node)] == 0 or not graph.into(node) for node in gone)


@pytest.mark.parametrize("part", [0.0, -1.0, 1.5, float("nan")])
def test_a_threshold_is_a_share(part: float) -> None:
    with pytest.raises(ValueError, match="share of the influence"):
        random_graph(0).pruned(nodes=part)
    with pytest.raises(ValueError, match="share of the influence"):
        random_graph(0).pruned(edges=part)


def test_nothing_is_chosen_of_nothing() -> None:
    assert not most_of(np.zeros(3), 0.8).any()
    assert most_of(np.zeros(0), 0.8).shape == (0,)
    assert most_of(np.array([1.0, 3.0, 2.0]), 0.5).tolist() == [False, True, False]
    assert most_of(np.array([1.0, 3.0, 2.0]), 0.51).tolist() == [False, True, True]
    assert most_of(np.array([1.0, 0.0, 2.0]), 1.0).tolist() == [True, False, True]


def test_a_target_that_nothing_reaches_hands_on_nothing() -> None:
    graph = chain()
    silent = replace(graph, size=np.array([np.nan, 0.0, np.nan, 10.0]))
    assert silent.influence[0] == 0
    assert shares(silent.wires)[0] == 0


def test_influence_takes_numbers_as_they_are() -> None:
    wires = Wires(
        np.array([0]), np.array([1]), np.array([-2.0]), np.array([0, 1]), np.array([0.0, 4.0]), np.array([0.0, 1.0])
    )
    np.testing.assert_allclose(influence(wires), [0.5, 1.0])
