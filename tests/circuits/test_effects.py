"""What the graph predicts of a change: the sum over all ways through it."""

import numpy as np
import pytest

from lenskit.circuits.attributing.neurons import Neurons
from lenskit.circuits.attributing.replacement import Replacement
from lenskit.circuits.changing.effects import total_effect
from lenskit.circuits.graph import FEATURE, LOGIT
from lenskit.models.sites import Site
from tests.circuits.graphs import random_graph
from tests.circuits.held_by_hand import PROMPT, dictionary, graph, model, strongest, targets


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_is_the_sum_over_all_ways_through_the_graph(scale: float) -> None:
    made = random_graph(4, nodes=30, edges=70, tokens=4, n_layers=4)
    into = {n: np.flatnonzero(made.target == n) for n in range(len(made))}

    def ways(source: int, target: int) -> float:
        """Every way, edge by edge, each handing on its share of the value that it reaches."""
        total = 0.0
        for edge in into[target]:
            middle = int(made.source[edge])
            if middle == source:
                total += made.weight[edge]
            elif made.kind[middle] == FEATURE:
                total += ways(source, middle) / made.value[middle] * made.weight[edge]
        return total

    moving = 0
    for node in np.flatnonzero(made.kind != LOGIT).tolist():
        expected = [(scale - 1) * ways(node, int(logit)) for logit in made.of_kind(LOGIT)]
        np.testing.assert_allclose(total_effect(made, [made.nodes[node]], scale), expected, atol=1e-10)
        moving += bool(np.any(np.abs(expected) > 1e-6))
    assert moving > 10


def test_what_is_held_hands_on_nothing_that_reaches_it() -> None:
    made = random_graph(4, nodes=40, edges=120, tokens=4, n_layers=4)
    between = (made.kind[made.source] == FEATURE) & (made.kind[made.target] == FEATURE)
    apart = 0
    for edge in np.flatnonzero(between).tolist():
        first, second = made.nodes[made.source[edge]], made.nodes[made.target[edge]]
        without = made.keeping(np.ones(len(made), dtype=bool), made.target != made.target[edge])
        both = total_effect(without, first) + total_effect(without, second)
        np.testing.assert_allclose(total_effect(made, [first, second]), both, atol=1e-10)
        apart += not np.allclose(both, total_effect(made, first) + total_effect(made, second))
    assert apart > 0


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_is_exact_in_the_model_whose_attention_and_norms_are_held(scale: float) -> None:
    """A neuron of the last layer, changed in the replacement model itself: only the last norm lies behind it."""
    made = graph()
    (node,) = strongest(made, 2, pos=7)
    bases = [Neurons(model(), layer) for layer in range(3)]
    tokens = model().batch(PROMPT).tokens
    writes = [site for basis in bases for site in basis.writes]
    replacement = Replacement.of(model(), tokens, writes, [basis.reads for basis in bases])
    given = {site: value.detach().clone() for site, value in replacement.put_in.items()}
    given[Site("mlp_post", 2)][0, node.pos, node.feature] *= scale
    changed = replacement.with_inputs(given).logits
    expected = targets(changed) - targets(replacement.logits)
    np.testing.assert_allclose(total_effect(made, node, scale), expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


def test_of_a_feature_next_to_the_logits_it_is_its_edges() -> None:
    made = graph(dictionary(2))
    (node,) = strongest(made, 2, pos=7)
    edges = {edge.target.feature: edge.weight for edge in made.out_of(node)}
    np.testing.assert_allclose(total_effect(made, str(node)), [-edges.get(n, 0.0) for n in range(2)])


def test_a_target_cannot_be_held_nor_a_node_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="is what is measured"):
        total_effect(graph(), "logit.0@7")
    with pytest.raises(KeyError, match="is no node of this graph"):
        total_effect(graph(), "1.9999@3")
