"""Ablations and the trial of circuits, against whole forwards with plain hooks, one for each set of nodes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lenskit as lk
from lenskit.patching.ablations import ablate
from lenskit.patching.align import PromptsDiffer
from lenskit.patching.circuit import Circuit, evaluate_circuit
from lenskit.patching.draws import Draws
from lenskit.patching.edge_ablations import edges_of, name_of
from lenskit.patching.edge_runs import patched_edges
from lenskit.patching.metrics import log_prob, logit_diff
from lenskit.patching.nodes import Node, all_heads, all_mlps, as_nodes
from tests.models.tiny import tiny

METRIC = logit_diff(11, 42)
CLEAN = torch.tensor([[5, 9, 17, 33, 21, 8], [5, 9, 60, 33, 25, 8], [5, 9, 17, 13, 21, 80]])
CORRUPT = torch.tensor([[5, 9, 17, 70, 21, 8], [5, 9, 61, 33, 21, 8], [5, 9, 17, 90, 21, 84]])
MODULES: dict[str, Callable[[Any], list[tuple[nn.Module, nn.Module]]]] = {
    "llama": lambda hf: [(b.self_attn.o_proj, b.mlp.down_proj) for b in hf.model.layers],
    "gpt2": lambda hf: [(b.attn.c_proj, b.mlp.c_proj) for b in hf.transformer.h],
    "gpt_neox": lambda hf: [(b.attention.dense, b.mlp.dense_4h_to_h) for b in hf.gpt_neox.layers],
}
"""By layer what reads the heads' outputs, and what gives the MLP's."""


def difference(logits: Tensor) -> np.ndarray:
    return (logits[:, -1, 11] - logits[:, -1, 42]).double().numpy()


class ByHand:
    """The values of heads and MLPs on the corrupt prompts, and forwards of the clean ones with some of them put in."""

    def __init__(self, family: str, hf: Any, how: str) -> None:
        self.hf, self.modules = hf, MODULES[family](hf)
        self.values = dict[tuple[int, str], Tensor]()
        handles = list[Any]()
        for layer, (project, mlp) in enumerate(self.modules):
            handles.append(project.register_forward_pre_hook(self._noting(layer)))
            handles.append(mlp.register_forward_hook(self._noting_mlp(layer)))
        self.forward(CORRUPT, handles)
        if how == "mean":
            self.values = {key: value.mean(0, keepdim=True).expand_as(value) for key, value in self.values.items()}
        if how == "zero":
            self.values = {key: torch.zeros_like(value) for key, value in self.values.items()}

    def _noting(self, layer: int) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _, args: self.values.update({(layer, "z"): args[0].clone()})

    def _noting_mlp(self, layer: int) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, out: self.values.update({(layer, "mlp"): out.clone()})

    def forward(self, ids: Tensor, handles: Sequence[Any]) -> np.ndarray:
        try:
            with torch.no_grad():
                return difference(self.hf(input_ids=ids).logits)
        finally:
            for handle in handles:
                handle.remove()

    def without(self, nodes: Iterable[Node]) -> np.ndarray:
        """(pair,)."""
        chosen, handles = list(nodes), list[Any]()
        for layer, (project, mlp) in enumerate(self.modules):
            heads = [node.head for node in chosen if node.layer == layer and node.kind == "head"]
            handles.append(project.register_forward_pre_hook(self._putting(layer, heads)))
            if Node("mlp", layer) in chosen:
                handles.append(mlp.register_forward_hook(lambda _, __, ___, at=layer: self.values[at, "mlp"]))
        return self.forward(CLEAN, handles)

    def _putting(self, layer: int, heads: list[int]) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        def put(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            x = args[0].clone().unflatten(-1, (4, -1))
            x[..., heads, :] = self.values[layer, "z"].unflatten(-1, (4, -1))[..., heads, :]
            return (x.flatten(-2),)

        return put


@pytest.mark.parametrize("how", ["resample", "mean", "zero"])
@pytest.mark.parametrize("family", MODULES)
def test_every_number_equals_a_whole_forward_with_hooks(family: str, how: Any) -> None:
    hf = tiny(family)
    circuit = as_nodes(["0.1", "1.0", "1.3", "2.2", "1.mlp"])
    model, by_hand = lk.Model(hf), ByHand(family, hf, how)
    score = evaluate_circuit(model, circuit, CLEAN, CORRUPT, METRIC, ablate_with=how, placebos=0, subsets=3)
    universe = {*all_heads(model), *all_mlps(model)}
    assert score.universe == len(universe) == 15

    def close(values: np.ndarray, ablated: Iterable[Node]) -> None:
        np.testing.assert_allclose(values, by_hand.without(ablated), atol=3e-5)

    close(score.full, [])
    close(score.only, universe - {*circuit})
    close(score.without, circuit)
    close(score.none, universe)
    for node, values in zip(circuit, score.only_but_node, strict=True):
        close(values, universe - {*circuit} | {node})
    for names, only, without in zip(score.parts, score.only_but_part, score.without_part, strict=True):
        part = as_nodes(names)
        assert {*part} <= {*circuit}
        close(only, universe - {*circuit} | {*part})
        close(without, part)
    assert np.abs(score.full - score.none).min() > 1e-2


def test_everything_is_faithful_and_nothing_is_what_full_ablation_leaves() -> None:
    model = lk.Model(tiny("llama"))
    everything = [*all_heads(model), *all_mlps(model)]
    whole = evaluate_circuit(model, everything, CLEAN, CORRUPT, METRIC, placebos=2, subsets=0)
    assert whole.faithfulness == pytest.approx(1, abs=1e-6)
    assert whole.recovered == pytest.approx(1, abs=1e-6)
    assert whole.left == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(whole.placebos_recovered, 1, atol=1e-6)  # a random set of all nodes is all of them
    empty = evaluate_circuit(model, Circuit(), CLEAN, CORRUPT, METRIC, among="heads and mlps", placebos=0)
    assert empty.recovered == pytest.approx(0, abs=1e-6)
    assert empty.left == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(empty.only, whole.none, atol=1e-5)


def test_a_circuit_of_heads_leaves_the_mlps() -> None:
    hf = tiny("gpt2")
    model, by_hand = lk.Model(hf), ByHand("gpt2", hf, "resample")
    score = evaluate_circuit(model, ["0.1", "2.2"], CLEAN, CORRUPT, METRIC, placebos=0, subsets=0)
    np.testing.assert_allclose(score.none, by_hand.without(all_heads(model)), atol=3e-5)
    wider = evaluate_circuit(
        model, ["0.1", "2.2"], CLEAN, CORRUPT, METRIC, among="heads and mlps", placebos=0, subsets=0
    )
    np.testing.assert_allclose(wider.none, by_hand.without([*all_heads(model), *all_mlps(model)]), atol=3e-5)


def test_random_sets_come_again_with_their_seed_and_are_like_the_circuit() -> None:
    model = lk.Model(tiny("llama"))
    circuit = ["0.1", "1.0", "1.mlp"]

    def score(seed: int) -> Any:
        return evaluate_circuit(model, circuit, CLEAN, CORRUPT, METRIC, placebos=4, subsets=3, seed=seed)

    one, again, other = score(1), score(1), score(2)
    np.testing.assert_array_equal(one.placebos_only, again.placebos_only)
    assert one.parts == again.parts
    assert not np.array_equal(one.placebos_only, other.placebos_only)
    assert one.placebos_only.shape == one.placebos_without.shape == (4, 3)


@settings(max_examples=25)
@given(data=st.data())
def test_random_sets_have_as_many_nodes_of_each_kind(data: st.DataObject) -> None:
    universe = [
        *(Node("head", layer, head) for layer in range(3) for head in range(4)),
        *(Node("mlp", layer) for layer in range(3)),
    ]
    circuit = data.draw(st.lists(st.sampled_from(universe), unique=True))
    draws = Draws(circuit, universe, lambda node: node.kind, 5, 5, data.draw(st.integers(0, 9)))
    for placebo in draws.placebos:
        assert len({*placebo}) == len(circuit)
        assert {*placebo} <= {*universe}
        assert sorted(node.kind for node in placebo) == sorted(node.kind for node in circuit)
    for part in draws.subsets:
        assert part
        assert {*part} <= {*circuit}
    assert len(draws.asked) == 3 + 2 * 5 + len(circuit) + (2 * 5 if circuit else 0)


def test_a_circuit_of_edges_is_each_set_by_itself() -> None:
    model = lk.Model(tiny("gpt2", layers=2, d_model=16))
    edges = [("embed", "0.1.q"), ("0.1", "1.0.v"), ("0.mlp", "logits"), ("1.0", "logits")]
    pair = CLEAN[:1], CORRUPT[:1]
    score = evaluate_circuit(model, Circuit(edges=edges), *pair, METRIC, placebos=2, subsets=2)
    with torch.no_grad():
        clean, corrupt = (difference(model.hf_model(input_ids=ids).logits) for ids in pair)
    np.testing.assert_allclose(score.full, clean, atol=3e-5)
    np.testing.assert_allclose(score.none, corrupt, atol=3e-5)  # no edge carries the clean prompt's signal
    assert float(score.only[0]) == pytest.approx(patched_edges(model, *pair, edges, METRIC), abs=1e-5)
    every = [edge for edge in edges_of(model, *pair) if name_of(edge) not in score.circuit]
    assert len(every) == score.universe - 4
    assert float(score.without[0]) == pytest.approx(patched_edges(model, *pair, every, METRIC), abs=1e-5)
    assert score.only_but_node.shape == (4, 1)
    assert score.circuit[1] == "0.1 -> 1.0.v"
    whole = Circuit(edges=edges_of(model, *pair))
    assert evaluate_circuit(model, whole, *pair, METRIC, placebos=0, subsets=0).recovered == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="corrupt prompt's signal"):
        evaluate_circuit(model, whole, *pair, METRIC, ablate_with="zero")


def test_the_table_and_the_picture_say_what_the_arrays_do() -> None:
    model = lk.Model(tiny("llama"))
    metrics = [METRIC, METRIC, log_prob(12)]
    score = evaluate_circuit(model, ["0.1", "2.2"], CLEAN, CORRUPT, metrics, placebos=3)
    table: Any = score.to_pandas().set_index("what")
    assert table["metric"]["only the circuit"] == pytest.approx(score.only.mean())
    assert table["share"]["the whole model"] == 1
    assert table["share"]["all ablated"] == 0
    assert table["share"]["only a random set"] == pytest.approx(score.placebos_recovered.mean())
    assert score.minimality["2.2"] == pytest.approx(
        table["metric"]["only the circuit"] - table["metric"]["only the circuit but 2.2"]
    )
    assert score.incompleteness.shape == (10,)
    figure: Any = score.figure()
    assert [len(trace.x) for trace in figure.data] == [1, 1, 3, 3, 1, 1]
    assert repr(score).startswith("CircuitScore(2 of 12 nodes, logit_diff, log_prob of each pair, resample: ")
    with pytest.raises(ValueError, match="read-only"):
        score.only[0] = 1


def test_what_makes_no_sense_is_refused() -> None:
    model = lk.Model(tiny("llama"))
    with pytest.raises(ValueError, match="neither"):
        Circuit(["1.attn"])
    with pytest.raises(lk.SiteUnavailable, match=r"1\.7 does not exist"):
        evaluate_circuit(model, "1.7", CLEAN, CORRUPT, METRIC)
    with pytest.raises(ValueError, match="has others"):
        evaluate_circuit(model, ["1.0", "1.mlp"], CLEAN, CORRUPT, METRIC, among="heads")
    with pytest.raises(ValueError, match="needs its partner"):
        evaluate_circuit(model, "1.0", CLEAN, CORRUPT[:2], METRIC)
    with pytest.raises(ValueError, match="2 metrics"):
        evaluate_circuit(model, "1.0", CLEAN, CORRUPT, [METRIC, METRIC])
    with pytest.raises(PromptsDiffer):
        evaluate_circuit(model, "1.0", CLEAN, CORRUPT[:, :-1], METRIC)
    with pytest.raises(ValueError, match="no mean over prompts"):
        evaluate_circuit(model, "1.0", CLEAN[:1], CORRUPT[:1], METRIC, ablate_with="mean")


def test_a_circuit_knows_its_nodes() -> None:
    circuit = Circuit(["9.6", (9, 9), "5.mlp"])
    assert "9.9" in circuit
    assert Node("mlp", 5) in circuit
    assert "9.7" not in circuit
    assert circuit == Circuit(["9.6", "9.9", "5.mlp", "9.6"])
    assert repr(Circuit()) == "Circuit(empty)"


# The small call


@pytest.mark.parametrize("family", MODULES)
def test_ablate_equals_hooks(family: str) -> None:
    hf = tiny(family)
    model, nodes = lk.Model(hf), as_nodes(["0.1", "1.mlp", "2.0", "2.3"])
    with torch.no_grad():
        full = difference(hf(input_ids=CLEAN).logits)
    for with_, how in (("zero", "zero"), (CORRUPT, "resample")):
        found = ablate(model, CLEAN, nodes, METRIC, with_)
        np.testing.assert_allclose(found.before, full, atol=3e-5)
        np.testing.assert_allclose(found.after, ByHand(family, hf, how).without(nodes), atol=3e-5)
        np.testing.assert_allclose(found.effect, found.after - found.before)


def test_the_mean_is_over_the_prompts_themselves() -> None:
    model = lk.Model(tiny("llama"))
    found = ablate(model, CLEAN, ["0.1", "0.2"], METRIC, "mean")
    edited = model.run(CLEAN, edits=lk.Mean("z", layers=0, heads=[1, 2]))
    np.testing.assert_allclose(found.after, difference(edited.logits), atol=3e-5)
    with pytest.raises(ValueError, match="no mean over prompts"):
        ablate(model, CLEAN[:1], "0.1", METRIC, "mean")


def test_one_other_prompt_serves_all_and_lengths_may_differ_by_zero_ablation() -> None:
    model = lk.Model(tiny("llama"))
    found = ablate(model, CLEAN, "1.attn", METRIC, CORRUPT[0])
    source = model.run(CORRUPT[0], keep="attn_out")
    patched = model.run(CLEAN, edits=lk.Patch("attn_out", source, layers=1))
    np.testing.assert_allclose(found.after, difference(patched.logits), atol=3e-5)
    ragged = ablate(model, [[5, 9, 17], [5, 9, 17, 33]], "1.2", METRIC)
    alone = ablate(model, [5, 9, 17], "1.2", METRIC)
    assert float(ragged.after[0]) == pytest.approx(float(alone.after[0]), abs=1e-6)
    assert repr(ragged).endswith("mean of 2 prompts)")
