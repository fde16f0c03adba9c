"""Interventions: what the model says when features are held is what a forward written out by hand says, in float64."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.changing.interventions import Attention, Change, measured
from lenskit.circuits.graph import EMBED, ERROR, FEATURE, Graph
from lenskit.circuits.nodes import Node
from tests.circuits.graphs import random_graph
from tests.circuits.made_up import transcoder
from tests.models import by_hand
from tests.models.tiny import tiny

IDS = torch.randint(1, 131, (1, 7), generator=torch.Generator().manual_seed(3))
TARGETS = [40, 50, 60]


@cache
def model_of(family: str) -> lk.Model:
    return lk.Model(tiny(family))


def graph_of(model: lk.Model, given: Sequence[lk.Transcoder] = ()) -> Graph:
    return attribute(model, IDS, given, TARGETS, features=400)


class ByHand:
    """A prompt in a model whose features are held: every matrix product in float64, and no edits."""

    def __init__(self, model: lk.Model, given: Sequence[lk.Transcoder] = ()) -> None:
        self.hf = copy.deepcopy(model.hf_model).double()
        self.given = {each.reads.layer: copy.deepcopy(each).double() for each in given}
        self.clean: dict[tuple[str, int | None], Tensor] = {}
        self.before = self._logits(lambda site, layer, x: self.clean.setdefault((site, layer), x))

    def change(self, change: Change, attention: Attention) -> np.ndarray:
        """(target,): by how much each changes."""
        held = {Node.parse(node): factor for node, factor in change.items()}
        pending = defaultdict[int | None, list[tuple[int, Tensor]]](list)

        def touch(site: str, layer: int | None, x: Tensor) -> Tensor:
            if site == "pattern" and attention == "held":
                return self.clean[site, layer]
            x = x.clone()
            here = {node: factor for node, factor in held.items() if node.layer == layer}
            if site == "mlp_post" and layer not in self.given:
                for node, factor in here.items():
                    x[0, node.pos, node.feature] = factor * self.clean[site, layer][0, node.pos, node.feature]
            if site == "mlp_in" and layer in self.given:
                each = self.given[layer]
                for node, factor in here.items():
                    was = amount(each, self.clean[site, layer][0, node.pos], node.feature)
                    lacks = factor * was - amount(each, x[0, node.pos], node.feature)
                    for written, decoder in zip(each.writes, each.W_dec, strict=True):
                        pending[written.layer].append((node.pos, lacks * decoder[node.feature]))
            if site == "mlp_out":
                for pos, given in pending[layer]:
                    x[0, pos] += given
            return x

        return (self._logits(touch) - self.before).numpy()

    @torch.no_grad()
    def _logits(self, touch: by_hand.Touch) -> Tensor:
        """The targets, each from the mean of all, before what caps them."""
        found = dict[str, Tensor]()

        def seen(site: str, layer: int | None, x: Tensor) -> Tensor:
            found[site] = touch(site, layer, x)
            return found[site]

        by_hand.by_hand(self.hf, IDS, seen)
        logits = self.hf.get_output_embeddings()(found["final_norm"][0, -1])
        logits = logits / getattr(self.hf.config, "logits_scaling", 1.0)
        return logits[TARGETS] - logits.mean()


def amount(each: lk.Transcoder, x: Tensor, feature: int) -> Tensor:
    """How much of its decoder row a feature writes."""
    scale = torch.tensor(1.0)
    if each.normalise == "norm":
        scale = x.square().mean().sqrt()
        x = x / scale
    if each.normalise == "layer norm":
        scale = x.std()
        x = (x - x.mean()) / (scale + 1e-5)
    pre = each.W_enc @ (x if each.centre is None else x - each.centre) + each.b_enc
    kind = each.activation.kind
    if kind == "topk":
        least = pre.sort(descending=True).values[4]
        made = torch.where(pre >= least, pre, 0.0).clamp_min(0)
    elif kind == "jumprelu":
        threshold: Any = each.activation
        made = torch.where(pre > threshold.threshold, pre, 0.0)
    else:
        assert kind == "relu"
        made = pre.clamp_min(0)
    return made[feature] * (scale if each.restores else 1.0)


def some(graph: Graph, count: int, seed: int = 0, layers: Sequence[int] = (0, 1, 2)) -> list[Node]:
    """Features of a graph, of each layer as many."""
    rng = np.random.default_rng(seed)
    found = list[Node]()
    for layer in layers:
        numbers = np.flatnonzero((graph.kind == FEATURE) & (graph.layer == layer))
        found += [graph.nodes[n] for n in rng.choice(numbers, size=min(count, len(numbers)), replace=False)]
    return found


FACTORS = (0.0, 2.0, -1.0, 0.3)


def check(model: lk.Model, given: Sequence[lk.Transcoder], attention: Attention, largest: float = 0.01) -> None:
    """Features by themselves, each with another factor, and many of them together."""
    graph, hand = graph_of(model, given), ByHand(model, given)
    nodes = some(graph, 4)
    changes: list[Change] = [{node: FACTORS[n % 4]} for n, node in enumerate(nodes)]
    changes.append({node: FACTORS[n % 4] for n, node in enumerate(nodes)})
    found = measured(model, graph, given, changes, attention).numpy()
    expected = np.stack([hand.change(change, attention) for change in changes])
    np.testing.assert_allclose(found, expected, atol=3e-5)
    assert np.abs(expected).max() > largest


@pytest.mark.parametrize("attention", ["free", "held"])
@pytest.mark.parametrize("family", by_hand.FAMILIES)
def test_neurons_are_held_as_by_hand(family: str, attention: Attention) -> None:
    check(model_of(family), [], attention)


@pytest.mark.parametrize("normalise", ["none", "norm", "layer norm"])
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_features_of_dictionaries_are_held_as_by_hand(kind: str, normalise: str) -> None:
    model = model_of("llama")
    given = [
        transcoder(model, 0, kind=kind, normalise=normalise, skip=True, centre=True),
        transcoder(model, 2, kind=kind, normalise=normalise),
    ]
    given[1].restores = True  # and of the layer between them the neurons
    check(model, given, "free")
    check(model, given, "held")


def test_a_cross_layer_feature_is_held_in_every_layer_that_it_writes() -> None:
    model = model_of("gpt2")
    across, own = transcoder(model, 0, writes=[0, 1, 2]), transcoder(model, 2, kind="topk")
    graph, hand = graph_of(model, [across, own]), ByHand(model, [across, own])
    assert set(graph.layer[graph.kind == FEATURE].tolist()) == {0, 2}
    changes: list[Change] = [{node: 0.0} for node in some(graph, 5, layers=[0])]
    found = measured(model, graph, [across, own], changes, "held").numpy()
    np.testing.assert_allclose(found, [hand.change(change, "held") for change in changes], atol=3e-5)
    # What it writes to later layers is a part of it.
    alone = copy.deepcopy(across)
    alone.W_dec[1:] = 0
    assert np.abs(found - measured(model, graph, [alone, own], changes, "held").numpy()).max() > 0.01


def test_held_attention_is_the_clean_pattern_set_in_every_layer() -> None:
    model = model_of("gemma2")
    graph = graph_of(model)
    (node,) = some(graph, 1, layers=[0])
    clean = model.run(IDS, keep=["pattern", "mlp_post", "final_norm"])
    post = clean["mlp_post", 0].clone()
    post[0, node.pos, node.feature] *= 3
    edits = [lk.Set("mlp_post", post, layers=0)]
    edits += [lk.Set("pattern", clean["pattern", layer], layers=layer) for layer in range(3)]
    values = []
    for run in (clean, model.run(IDS, keep="final_norm", edits=edits)):
        logits = run["final_norm"][0, -1] @ model.weights.W_U[:]
        values.append((logits - logits.mean())[TARGETS])
    held = measured(model, graph, [], [{node: 3.0}], "held")[0]
    torch.testing.assert_close(held, values[1] - values[0], atol=2e-5, rtol=1e-4)
    assert (held - measured(model, graph, [], [{node: 3.0}], "free")[0]).abs().max() > 1e-4


def test_many_changes_in_one_call_are_what_each_is_by_itself() -> None:
    model = model_of("llama")
    given = [transcoder(model, 1, kind="topk", skip=True)]
    graph = graph_of(model, given)
    nodes = some(graph, 30)
    changes: list[Change] = [{node: FACTORS[n % 4], nodes[n - 1]: 0.5} for n, node in enumerate(nodes)]
    assert len(changes) > 64  # more than two forwards' rows
    together = measured(model, graph, given, changes)
    alone = torch.cat([measured(model, graph, given, [change]) for change in changes])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert together.shape == (len(changes), len(TARGETS))


def test_by_name_or_node_and_what_stays_as_it_is_changes_nothing() -> None:
    model = model_of("llama")
    graph = graph_of(model)
    node = some(graph, 1)[1]
    found = measured(model, graph, [], [{str(node): 0.0}, {node: 0.0}, {node: 1.0}, {}])
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert found[0].abs().max() > 1e-3
    assert found[2:].abs().max() < 1e-5
    assert measured(model, graph, [], []).shape == (0, len(TARGETS))


def test_a_difference_of_two_logits_is_measured_as_one() -> None:
    model = model_of("granite")
    graph = attribute(model, IDS, target=40, versus=50, features=64)
    changes: list[Change] = [{node: 0.0} for node in some(graph, 2)]
    found = measured(model, graph, [], changes)
    hand = ByHand(model)
    apart = np.stack([hand.change(change, "free") for change in changes])
    np.testing.assert_allclose(found[:, 0], apart[:, 0] - apart[:, 1], atol=3e-5)


def test_nothing_is_left_in_the_model() -> None:
    model = model_of("llama")
    before = model.run(IDS).logits
    graph = graph_of(model)
    measured(model, graph, [], [{node: 0.0} for node in some(graph, 2)], "held")
    assert torch.equal(model.run(IDS).logits, before)
    assert all("forward" not in vars(module) and not module._forward_hooks for module in model.hf_model.modules())


def test_only_features_of_the_graph_can_be_held() -> None:
    model = model_of("llama")
    graph = attribute(model, IDS, transcoder(model, 1), neurons=False)
    for kind in (EMBED, ERROR, 3):
        node = graph.nodes[graph.of_kind(kind)[-1]]
        with pytest.raises(ValueError, match=f"{node} is no feature, and only features can be held"):
            measured(model, graph, [transcoder(model, 1)], [{node: 0.0}])
    with pytest.raises(KeyError, match=r"'1.9999@3' is no node of this graph"):
        measured(model, graph, [transcoder(model, 1)], [{"1.9999@3": 0.0}])
    with pytest.raises(ValueError, match="is no node"):
        measured(model, graph, [transcoder(model, 1)], [{"a feature": 0.0}])


def test_dictionaries_that_are_lacking_are_asked_for() -> None:
    model = model_of("llama")
    graph = graph_of(model, [transcoder(model, 1)])
    (node,) = some(graph, 1, layers=[1])
    with pytest.raises(ValueError, match="features of layer 1 are those of a dictionary, which is not here"):
        measured(model, graph, [transcoder(model, 2)], [{node: 0.0}])


def test_another_model_or_other_edits_are_refused() -> None:
    model, other = model_of("llama"), lk.Model(tiny("llama", seed=1), name="another")
    graph = graph_of(model)
    change: Change = {some(graph, 1)[0]: 0.0}
    with pytest.raises(ValueError, match=r"in the graph and .* in another on its prompt"):
        measured(other, graph, [], [change])
    with (
        model.edit(lk.Zero("attn_out", layers=1)),
        pytest.raises(ValueError, match="give the model, its edits and the dictionaries that the graph was made with"),
    ):
        measured(model, graph, [], [change])


def test_a_graph_without_places_in_a_prompt_is_refused() -> None:
    model = model_of("llama")
    graph = graph_of(model)
    with pytest.raises(ValueError, match="is summed over its tokens"):
        measured(model, graph.over_tokens(), [], [{}])
    made_up = replace(random_graph(0), provenance={})
    with pytest.raises(ValueError, match="is of other tools"):
        measured(model, made_up, [], [{}])
