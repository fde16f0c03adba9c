"""What a search of paths is asked for: where it starts, what it may take, how it counts; and what is refused."""

import math
import time

import pytest
import torch
from torch import nn

import lenskit as lk
from lenskit.circuits.along_paths.notation import Path, Step
from lenskit.circuits.along_paths.path_filters import StepFilter
from lenskit.circuits.along_paths.paths import best_paths
from lenskit.circuits.nodes import Node
from lenskit.models.sites import SiteUnavailable
from tests.circuits.made_up import transcoder
from tests.circuits.test_paths import ALL, IDS, contributions, dictionaries, model_of
from tests.circuits.two_layers import BROUGHT, LAST, VALUE, two_layers
from tests.models.tiny import tiny

# Capping


def test_capped_a_step_gives_no_more_than_the_feature_after_it_loses() -> None:
    model, tcs = two_layers(bias=-1.2)
    plain = best_paths(model, [[1, 2]], "1.1@1", tcs, depth=3)
    capped = best_paths(model, [[1, 2]], "1.1@1", tcs, depth=3, capped=True)
    value = VALUE - 1.2  # less than what each head brings
    assert plain.start.contribution == capped.start.contribution == pytest.approx(value, rel=1e-5)
    assert contributions(plain.of_length(2))["attn1[1]@1"] == pytest.approx(BROUGHT[1] / LAST, rel=1e-5)
    assert contributions(capped.of_length(2)) == pytest.approx(
        {"attn1[1]@1": value, "attn1[1]@0": value, "attn0[0]@0": 1 / LAST, "bias@1": -1.2}, rel=1e-5
    )
    # The feature behind gives as much at most, and what is behind that is capped where it is more.
    third = {str(path.places[1]): path.contribution for path in capped.of_length(4) if path[-1].component == "attn"}
    assert third == pytest.approx({"attn1[1]@1": 2 / 3.5 * BROUGHT[1] / LAST, "attn1[1]@0": value}, rel=1e-5)
    with pytest.raises(ValueError, match="capped do not add up"):
        capped.graph()
    with pytest.raises(ValueError, match="capped do not add up"):
        _ = capped.errors


def test_caps_are_those_of_all_features_on_the_way() -> None:
    model = model_of("llama")
    tcs = [transcoder(model, layer) for layer in range(3)]
    features, values = tcs[2].encode(model.run(IDS, keep=("mlp_in", 2))["mlp_in", 2]).at(0, -1)
    start, value = f"2.{int(features[-1])}@-1", float(values[-1])
    plain = best_paths(model, IDS, start, tcs, depth=2, branches=ALL)
    capped = best_paths(model, IDS, start, tcs, depth=2, branches=ALL, capped=True)
    raw = {path.places: path.contribution for path in plain}
    assert len(capped) == len(plain)
    changed = 0
    for path in capped:
        low, high = -math.inf, value
        if len(path) == 3 and path[1].component == "tc":
            given = path[1].contribution
            low, high = (low, min(high, given)) if given >= 0 else (given, high)
        own = raw[path.places]
        assert path.contribution == pytest.approx(min(max(own, low), high), abs=1e-6)
        changed += path.contribution != own
    assert changed > 100


# What a search may take


def test_filters_drop_what_they_do_not_name() -> None:
    model = model_of("llama")
    tcs = dictionaries(model)
    heads = StepFilter(component="attn", layer=range(2))
    not_first = ~StepFilter(component="attn", pos=0)
    paths = best_paths(model, IDS, "2.7@-1", tcs, depth=3, branches=20, keep=[heads, not_first])
    steps = {step for path in paths for step in path.steps[1:]}
    assert {step.component for step in steps} == {"attn"}
    assert {step.layer for step in steps} == {0, 1}
    assert {step.pos for step in steps} == {1, 2, 3, 4}
    # The best of what is allowed, as a search of everything finds it.
    everything = best_paths(model, IDS, "2.7@-1", tcs, depth=1, branches=ALL)
    allowed = [path.steps for path in everything if heads.matches(path[-1]) and path[-1].pos != 0]
    assert [path.steps for path in paths.of_length(2)] == allowed[:20]
    active = tcs[0].encode(model.run(IDS, keep=("mlp_in", 0))["mlp_in", 0]).at(0, -1)[0].tolist()
    only = StepFilter(component="tc", feature=active[0], pos=-1)
    one = best_paths(model, IDS, "2.7@-1", tcs, depth=1, keep=only)
    assert list(contributions(one)) == [f"mlp0tc[{active[0]}]@4"]


def test_paths_are_chosen_by_parts_of_them() -> None:
    model, tcs = two_layers()
    paths = best_paths(model, [[1, 2]], "1.1@-1", tcs, depth=4)
    early, head, embed = StepFilter(component="tc", layer=0), StepFilter(head=0, pos=-2), StepFilter(component="embed")
    through = paths.containing(early, head)
    assert {path.places[2:4] for path in through} == {
        Path.parse(f"mlp0tc[0]@{pos} <- attn0[0]@0").places for pos in (0, 1)
    }
    assert len(through) + len(paths.without(early, head)) == len(paths)
    assert [str(path[-1].place) for path in paths.ending(early, head, embed)] == ["embed@0", "embed@0"]
    assert len(through.ending(StepFilter(head=0))) == 2
    assert {len(path) for path in paths.of_length(3)} == {3}
    table = paths.to_pandas()
    assert table.path.tolist() == [str(path) for path in paths]
    assert table.contribution.tolist() == [path.contribution for path in paths]


# Where it starts


def test_a_start_is_named_in_many_ways() -> None:
    model = model_of("llama")
    tcs = dictionaries(model)
    named = ["2.7@4", "2.7@-1", "mlp2tc[7]@-1", Step("tc", 2, 7, 4), Node.parse("2.7@4")]
    assert len({best_paths(model, IDS, start, tcs, depth=1).start for start in named}) == 1
    assert best_paths(model, IDS, "1.7@-1", tcs, depth=1).start.component == "neuron"
    logits = model.run(IDS).logits[0].double()
    likeliest = best_paths(model, IDS, "logit", tcs, depth=1).start
    assert likeliest.place == Step("logit", -1, int(logits[-1].argmax()), 4)
    for start, token in (("logit@2", 9), ("logit[9]@2", None), ("logit[9]@-3", None)):
        found = best_paths(model, IDS, start, tcs, token=token, depth=1).start
        assert found.place == Step("logit", -1, 9, 2)
        assert found.contribution == pytest.approx(float(logits[2, 9] - logits[2].mean()), abs=1e-4)
    for start, pair in (("logit@2", (9, 4)), ("logit[9-4]@2", (None, None))):
        found = best_paths(model, IDS, start, tcs, token=pair[0], versus=pair[1], depth=1).start
        assert str(found.place) == "logit[9-4]@2"
        assert found.contribution == pytest.approx(float(logits[2, 9] - logits[2, 4]), abs=1e-4)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("embed@3", "neither a feature nor a logit"),
        ("2.error@3", "is no step of a path"),
        ("2.40@3", "feature 2.40 does not exist"),
        ("2.7@5", "position 5"),
        ("mlp2neuron[7]@3", "layer 2 has features mlp2tc"),
        ("1.7@3", "layer 1 has no features here; these layers have: 0, 2"),
        ("logit@5", "pos 5 does not exist"),
    ],
)
def test_a_start_that_does_not_exist_is_refused_with_the_reason(start: str, message: str) -> None:
    model = model_of("llama")
    with pytest.raises((ValueError, IndexError), match=message):
        best_paths(model, IDS, start, dictionaries(model), neurons=False)


def test_what_cannot_be_asked_is_refused() -> None:
    model = model_of("llama")
    tcs = dictionaries(model)
    with pytest.raises(ValueError, match="one prompt, and these are 2"):
        best_paths(model, IDS.repeat(2, 1), "2.7@1", tcs)
    with pytest.raises(ValueError, match="one at least"):
        best_paths(model, IDS, "2.7@1", tcs, depth=0)
    with pytest.raises(ValueError, match="say which logit"):
        best_paths(model, IDS, "2.7@1", tcs, token=4)
    with pytest.raises(ValueError, match="leave token= and versus= out"):
        best_paths(model, IDS, "logit[3]@1", tcs, token=4)
    active = tcs[0].encode(model.run(IDS, keep=("mlp_in", 0))["mlp_in", 0]).features.tolist()
    idle = next(n for n in range(40) if n not in active)
    with pytest.raises(ValueError, match="is not active on this prompt"):
        best_paths(model, IDS, f"0.{idle}@1", tcs, capped=True)


# Models


def test_experts_are_steps_as_a_whole() -> None:
    model = model_of("mixtral")
    paths = best_paths(model, IDS, "logit", transcoder(model, 1), depth=1, branches=ALL)
    assert {"mlp0@4", "mlp1error@4", "mlp2@4"} <= contributions(paths).keys()


def test_a_cross_layer_transcoder_gives_by_all_that_it_writes_before() -> None:
    model = model_of("gpt2")
    across, own = transcoder(model, 0, writes=[0, 1, 2], skip=True), transcoder(model, 2, kind="topk")
    paths = best_paths(model, IDS, "2.7@-1", [across, own], depth=2, branches=ALL)
    run = model.run(IDS, keep=["mlp_in", "resid_mid"])
    features, values = across.encode(run["mlp_in", 0]).at(0, -1)
    block = model.hf_model.transformer.h[2]
    x = run["resid_mid", 2][0, -1].double()
    deviation = float(((x - x.mean()).square().mean() + block.ln_2.eps).sqrt())
    found = contributions(paths.of_length(2))
    for feature, value in zip(features.tolist(), values.tolist(), strict=True):
        written = across.W_dec[:2, feature].double().sum(0) * value  # what it writes to layer 2 comes too late
        given = (written - written.mean()) / deviation * block.ln_2.weight.double() @ own.W_enc[7].double()
        assert found.get(f"mlp0tc[{feature}]@4", 0.0) == pytest.approx(float(given.detach()), abs=1e-5)


def test_where_heads_cannot_be_told_apart_there_are_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SiteUnavailable, match="pattern"):
        best_paths(model_of("mamba"), IDS, "logit", neurons=False)
    model = model_of("llama")
    attention = model.hf_model.model.layers[1].self_attn
    own = type(attention).forward

    def gated(self, *args, **kwargs):
        out, weights = own(self, *args, **kwargs)
        return out * (1 + out).sigmoid(), weights

    monkeypatch.setattr(attention, "forward", gated.__get__(attention))
    with pytest.raises(SiteUnavailable, match="W_O does not exist in layer 1"):
        best_paths(lk.Model(model.hf_model), IDS, "logit")


def test_where_a_norm_cannot_be_held_there_are_no_paths() -> None:
    hf = tiny("llama")
    hf.model.layers[1].post_attention_layernorm = nn.Tanh()
    with pytest.raises(SiteUnavailable, match="the norm before 'mlp_in' does not exist in layer 1"):
        best_paths(lk.Model(hf), IDS, "logit")


def test_what_edits_change_past_the_heads_is_refused() -> None:
    model = model_of("llama")
    with model.edit(lk.Scale("attn_out", 2.0, layers=1)), pytest.raises(SiteUnavailable, match="does not add up"):
        best_paths(model, IDS, "logit")
    # What heads themselves are made to bring adds up.
    with model.edit(lk.Zero("v", layers=1)):
        paths = best_paths(model, IDS, "logit", depth=1, branches=ALL)
    assert not any(path[-1].component == "attn" and path[-1].layer == 1 for path in paths)


def test_nothing_is_left_in_the_model() -> None:
    model = model_of("gpt2")
    before = model.run(IDS).logits
    best_paths(model, IDS, "logit", dictionaries(model))
    assert torch.equal(model.run(IDS).logits, before)
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())
    assert all("forward" not in vars(module) and not module._forward_hooks for module in model.hf_model.modules())


def test_paths_of_the_demo_model_take_a_few_seconds(demo: lk.Model) -> None:
    tcs = lk.Transcoder.load_all("demo")
    prompt = "The capital of France is"
    began = time.process_time()
    paths = best_paths(demo, prompt, "logit", tcs, token=" Paris", depth=4)
    assert time.process_time() - began < 10
    assert paths.label == " Paris"
    assert [len(paths.of_length(n)) for n in (2, 3, 4, 5)] == [5, 5, 5, 5]
    logits = demo.run(prompt).logits[0, -1].double()
    assert paths.start.contribution == pytest.approx(float(logits[paths.start.number] - logits.mean()), rel=1e-3)
    # It is a head that brings it, from " France".
    assert paths[0][1].component == "attn"
    assert paths.pieces[paths[0][1].pos] == " France"
    read = [Path.parse(line) for line in str(paths).splitlines()]
    assert [path.places for path in read] == [path.places for path in paths]
    graph = paths.graph()
    assert graph.labels == (" Paris",)
    assert graph.layers == ("neurons",) * 19 + ("transcoder",) * 6 + ("neurons",) * 5
