"""LiveCircuit: what taking features of a graph away does to the answer, against plain runs done by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.changing.live import LiveCircuit
from lenskit.circuits.changing.placebo import Placebo
from lenskit.transcoders.transcoder import Transcoder
from tests.circuits.held_by_hand import (
    PROMPT,
    TARGETS,
    dictionary,
    graph,
    model,
    run_with_held,
    strongest,
    targets,
)
from tests.models.tiny import tiny, tiny_tokenizer


@pytest.fixture(autouse=True)
def no_hook_is_left() -> Iterator[None]:
    yield
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model().hf_model.modules()) == 0


CASES: dict[str, Callable[[], dict[int, Transcoder]]] = {
    "neurons": dict,
    "transcoder": lambda: {1: dictionary()},
    "with a skip": lambda: {1: dictionary(skip=True)},
    "normalised, scaled back": lambda: {1: dictionary(normalise="norm")},
    "layer norm": lambda: {1: dictionary(normalise="layer norm")},
    "cross-layer": lambda: {0: dictionary(0, writes=(0, 1))},
}


class TestTheRealModel:
    @pytest.mark.parametrize("scale", [0.0, 2.0])
    @pytest.mark.parametrize("case", CASES)
    def test_a_feature_held_is_what_a_plain_edit_gives(self, case: str, scale: float) -> None:
        given = CASES[case]()
        made = graph(*given.values())
        (node,) = strongest(made, next(iter(given), 1))
        ablated = LiveCircuit(model(), made, given.values()).ablate(str(node), scale)
        by_hand, plain = run_with_held([node], given, scale), model().run(PROMPT).logits
        np.testing.assert_allclose(ablated.value_before, targets(plain), atol=1e-4)
        np.testing.assert_allclose(ablated.value_after, targets(by_hand), atol=1e-4)
        np.testing.assert_allclose(ablated.after, by_hand[0, -1].softmax(-1)[ablated.ids], atol=1e-5)
        np.testing.assert_allclose(ablated.before, plain[0, -1].softmax(-1)[ablated.ids], atol=1e-5)
        assert np.abs(ablated.measured).max() > 1e-3
        before, after = (logits[0, -1].double().log_softmax(-1) for logits in (plain, by_hand))
        assert ablated.kl == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-6)

    def test_several_in_different_layers_are_each_held_whatever_the_others_do(self) -> None:
        given = {0: dictionary(0), 2: dictionary(2)}
        made = graph(*given.values())
        nodes = [*strongest(made, 0, 3), *strongest(made, 1, 3), *strongest(made, 2, pos=7)]
        ablated = LiveCircuit(model(), made, given.values()).ablate(nodes)
        np.testing.assert_allclose(ablated.value_after, targets(run_with_held(nodes, given, 0.0)), atol=1e-4)

    def test_of_an_ungated_mlp_as_well(self) -> None:
        made = graph(kind="gpt2")
        (node,) = strongest(made, 1)
        ablated = LiveCircuit(model("gpt2"), made).ablate(node)
        by_hand = run_with_held([node], {}, 0.0, "gpt2")
        np.testing.assert_allclose(ablated.value_after, targets(by_hand), atol=1e-4)

    def test_a_difference_of_two_logits_is_measured_as_one(self) -> None:
        made = attribute(model(), PROMPT, (), TARGETS[0], versus=TARGETS[1], features=100)
        (node,) = strongest(made, 2)
        first, second = targets(run_with_held([node], {}, 0.0))
        ablated = LiveCircuit(model(), made).ablate(node)
        np.testing.assert_allclose(ablated.value_after, [first - second], atol=1e-4)

    @pytest.mark.parametrize("versus", [None, " the"])
    def test_a_graph_that_does_not_say_which_tokens_is_read_by_its_labels(self, versus: str | None) -> None:
        made = attribute(model(), PROMPT, (), " key", versus=versus, features=100)
        (node,) = strongest(made, 2)
        unsaid = replace(made, provenance={})
        expected = LiveCircuit(model(), made).ablate(node).measured
        np.testing.assert_array_equal(LiveCircuit(model(), unsaid).ablate(node).measured, expected)
        with pytest.raises(ValueError, match="is not one token"):
            LiveCircuit(model(), replace(unsaid, labels=("something else",)))

    def test_edits_of_the_model_are_part_of_it(self) -> None:
        with model().edit(lk.Scale("attn_out", 0.5, layers=0)):
            made = attribute(model(), PROMPT, (), list(TARGETS), features=100)
            live = LiveCircuit(model(), made)
            (node,) = strongest(made, 1)
            by_hand = targets(run_with_held([node], {}, 0.0))
            np.testing.assert_allclose(live.ablate(node).value_after, by_hand, atol=1e-4)
        with pytest.raises(ValueError, match="the graph was made with"):
            live.ablate(node)

    def test_of_the_demo_models_dictionaries_it_takes_away_what_the_feature_writes(self, demo: lk.Model) -> None:
        prompt, given = "He had not seen her for three long", lk.Transcoder.load_all("demo", layers=[20, 22])
        made = attribute(demo, prompt, given, " years", features=48)
        node = next(node for node, _ in made.top(48) if node.layer in (20, 22))
        basis = given[(node.layer - 20) // 2]
        active = made.activation[made.number(node)]
        edit = lk.Add("mlp_out", -float(active) * basis.W_dec[0, node.feature], layers=node.layer, pos=node.pos)
        token = demo.text.token(" years")
        logits = [demo.run(prompt, edits=edits).logits[0, -1] for edits in ([], [edit])]
        before, after = (float(each[token] - each.mean()) for each in logits)
        ablated = LiveCircuit(demo, made, given).ablate(node)
        np.testing.assert_allclose([ablated.value_before[0], ablated.value_after[0]], [before, after], atol=1e-3)
        np.testing.assert_allclose(ablated.after, logits[1].softmax(-1)[ablated.ids], atol=1e-4)
        assert abs(after - before) > 1e-2

    def test_it_can_be_left_at_any_step(self) -> None:
        made = graph(dictionary())
        node = strongest(made, 1)
        whole = LiveCircuit(model(), made, dictionary()).ablate(node).measured
        live = LiveCircuit(model(), made, dictionary())
        for count in range(1, 6):
            steps = live.steps(node)
            for _ in range(count):
                next(steps, None)
            steps.close()
        np.testing.assert_allclose(live.ablate(node).measured, whole)


class TestThePlacebo:
    @pytest.mark.parametrize("case", ["neurons", "transcoder"])
    def test_is_of_other_features_at_the_same_places_changed_by_as_much(self, case: str) -> None:
        given, draws = CASES[case](), 5
        made = graph(*given.values())
        nodes = strongest(made, 1, 2, pos=7)
        holding = _holding(nodes, made.layers, given, draws)
        site = "mlp_out" if given else "mlp_post"
        run = model().run([PROMPT] * (2 + draws), keep=site, edits=holding.edits)
        changed = run[site, 1] - run[site, 1][0]
        assert float(changed[0].norm()) == 0
        assert float(changed[:, :7].norm()) == 0
        np.testing.assert_allclose(changed[2:, 7].norm(dim=-1), changed[1, 7].norm().expand(draws), rtol=1e-4)
        rows = given[1].W_dec[0] if given else torch.eye(changed.shape[-1])
        others = [n for n in range(len(rows)) if n not in [node.feature for node in nodes]]
        assert all(_is_made_of_two(row, rows[others]) for row in changed[2:, 7])
        assert not _is_made_of_two(torch.randn_like(changed[1, 7]), rows[others])
        assert len({tuple(row.tolist()) for row in changed[2:, 7]}) == draws

    def test_its_effects_are_those_of_plain_runs_with_these_features(self) -> None:
        made, draws = graph(), 6
        nodes = strongest(made, 1)
        ablated = LiveCircuit(model(), made, draws=draws).ablate(nodes)
        holding = _holding(nodes, made.layers, {}, draws)
        kept = model().run([PROMPT] * (2 + draws), keep="mlp_post", edits=holding.edits)["mlp_post", 1]
        for row in range(draws):
            plain = model().run(PROMPT, edits=lk.Set("mlp_post", kept[2 + row][None], layers=1)).logits
            moved = targets(plain) - targets(model().run(PROMPT).logits)
            np.testing.assert_allclose(ablated.placebo[row], moved, atol=1e-4)
            assert np.abs(moved).max() > 1e-3

    def test_none_is_drawn_where_none_is_asked_for_and_the_rest_is_the_same(self) -> None:
        made = graph(dictionary())
        live = LiveCircuit(model(), made, dictionary())
        node = strongest(made, 1)
        without, beside, again = live.ablate(node, placebo=False), live.ablate(node), live.ablate(node)
        assert (len(without.placebo), len(beside.placebo)) == (0, 12)
        np.testing.assert_allclose(without.value_after, beside.value_after, atol=1e-5)
        np.testing.assert_array_equal(again.placebo, beside.placebo)


class TestWhatCannotBeDone:
    @pytest.mark.parametrize(
        ("nodes", "error", "said"),
        [
            ([], ValueError, "no node to ablate"),
            ("embed@3", ValueError, "embed@3 is no feature"),
            ("logit.0@7", ValueError, "only features are ablated"),
            ("1.9999@3", KeyError, "is no node of this graph"),
            ("here", ValueError, "is no node. Nodes are"),
        ],
    )
    def test_is_said(self, nodes: Any, error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            LiveCircuit(model(), graph()).ablate(nodes)

    def test_the_dictionaries_must_be_there_and_the_same(self) -> None:
        made = graph(dictionary())
        node = strongest(made, 1)
        with pytest.raises(ValueError, match="give the transcoders"):
            LiveCircuit(model(), made).ablate(node)
        with pytest.raises(ValueError, match="in the graph and"):
            LiveCircuit(model(), made, dictionary(seed=7)).ablate(node)

    def test_another_model_is_refused(self) -> None:
        deeper = lk.Model(tiny("llama", vocab=300, layers=2), tiny_tokenizer(300), name="other")
        with pytest.raises(ValueError, match="3 layers and other has 2"):
            LiveCircuit(deeper, graph())
        alike = lk.Model(tiny("llama", seed=1, vocab=300, layers=3), tiny_tokenizer(300), name="alike")
        with pytest.raises(ValueError, match="in alike on its prompt"):
            LiveCircuit(alike, graph()).ablate(strongest(graph(), 1))


def _holding(nodes: Any, kinds: Any, dictionaries: Any, draws: int) -> Placebo:
    noise = torch.Generator().manual_seed(0)
    return Placebo(nodes, kinds, dictionaries, scale=0.0, draws=draws, noise=noise)


def _is_made_of_two(vector: torch.Tensor, rows: torch.Tensor) -> bool:
    """Whether a vector is a sum of multiples of two of the rows, but for a thousandth of its length."""
    best = min(
        float((vector - rows[[i, j]].T @ torch.linalg.lstsq(rows[[i, j]].T, vector[:, None]).solution[:, 0]).norm())
        for i in range(len(rows))
        for j in range(i)
    )
    return best < 1e-3 * float(vector.norm())
