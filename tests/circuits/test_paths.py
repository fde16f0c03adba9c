"""Paths backwards through features and heads: known on a model made by hand, and adding up on every other."""

import math
from typing import Any

import pytest
import torch

import lenskit as lk
from lenskit.circuits.along_paths.notation import Path, Step
from lenskit.circuits.along_paths.paths import Paths, best_paths
from lenskit.transcoders.activations import Gated
from tests.circuits.by_hand import ByHand
from tests.circuits.made_up import transcoder
from tests.circuits.two_layers import BROUGHT, EARLY, LAST, VALUE, two_layers
from tests.models.by_hand import FAMILIES
from tests.models.tiny import tiny

IDS = torch.randint(1, 131, (1, 5), generator=torch.Generator().manual_seed(3))
ALL = 10**6
"""More branches than there are."""

# Serial and parallel blocks, norms before and behind, biases, multipliers, learned and rotary positions, shared values.
MANY = [
    *("gpt2", "gpt_neox", "llama", "gemma2", "qwen2", "qwen3", "olmo2"),
    *("phi", "falcon", "gptj", "granite", "bloom", "cohere"),
]


def model_of(family: str) -> lk.Model:
    return lk.Model(tiny(family))


def dictionaries(model: lk.Model) -> list[lk.Transcoder]:
    return [transcoder(model, 0, kind="topk", skip=True), transcoder(model, 2, kind="gated", centre=True)]


def contributions(paths: Paths) -> dict[str, float]:
    """By the place of the last step, of paths of one length."""
    return {str(path[-1].place): path.contribution for path in paths}


def test_the_best_paths_of_a_model_made_by_hand_are_the_known_ones() -> None:
    model, tcs = two_layers()
    paths = best_paths(model, [[1, 2]], "1.1@-1", tcs, depth=4)
    assert paths.start.place == Step("tc", 1, 1, 1)
    assert paths.start.contribution == pytest.approx(VALUE, rel=1e-5)
    first = contributions(paths.of_length(2))
    assert list(first) == ["attn1[1]@1", "attn1[1]@0", "attn0[0]@0"]
    assert list(first.values()) == pytest.approx([BROUGHT[1] / LAST, BROUGHT[0] / LAST, 1 / LAST], rel=1e-5)
    # One step more: all that a head brings is feature 0, and all that head 0.0 brings is the first token.
    second = {path.places[1:]: path.contribution for path in paths.of_length(3)}
    assert second == pytest.approx(
        {
            Path.parse("attn1[1]@1 <- mlp0tc[0]@1").places: BROUGHT[1] / LAST,
            Path.parse("attn1[1]@0 <- mlp0tc[0]@0").places: BROUGHT[0] / LAST,
            Path.parse("attn0[0]@0 <- embed@0").places: 1 / LAST,
        },
        rel=1e-5,
    )
    # At position 1, feature 0 has 2 of its 3.5 from the first token, 1 from the second, and 0.5 of its bias.
    third = {path.places[1:]: path.contribution for path in paths.of_length(4)}
    own = Path.parse("attn1[1]@1 <- mlp0tc[0]@1").places
    for last, share in (("attn0[0]@0", 2 / 3.5), ("embed@1", 1 / 3.5), ("bias@1", 0.5 / 3.5)):
        assert third[*own, Step.parse(last)] == pytest.approx(share * BROUGHT[1] / LAST, rel=1e-5)
    best = paths.of_length(5)[0]
    assert best.places == Path.parse("mlp1tc[1]@1<-attn1[1]@0<-mlp0tc[0]@0<-attn0[0]@0<-embed@0").places
    assert best.contribution == pytest.approx((EARLY[0] - 0.5) / EARLY[0] * BROUGHT[0] / LAST, rel=1e-5)


def test_a_path_reads_as_people_write_it() -> None:
    model, tcs = two_layers()
    paths = best_paths(model, [[1, 2]], "mlp1tc[1]@1", tcs, branches=1)
    assert str(paths).splitlines() == [
        "mlp1tc[1]@1: 1.7 <- attn1[1]@1: 0.77",
        "mlp1tc[1]@1: 1.7 <- attn1[1]@1: 0.77 <- mlp0tc[0]@1: 0.77",
        "mlp1tc[1]@1: 1.7 <- attn1[1]@1: 0.77 <- mlp0tc[0]@1: 0.77 <- attn0[0]@0: 0.44",
    ]
    assert [Path.parse(line).places for line in str(paths).splitlines()] == [path.places for path in paths]


# Every step adds up


def double_value(model: lk.Model, tcs: list[lk.Transcoder], step: Step) -> float:
    """A feature's pre-activation in float64, from the model's own forward."""
    each = next(tc for tc in tcs if tc.reads.layer == step.layer)
    hand = ByHand(model.hf_model, IDS, {tc.reads.layer: tc for tc in tcs if tc.reads.layer is not None})
    x, own = hand.reads["mlp_in", step.layer][0, step.pos], hand.transcoders[step.layer]
    x = x if own.centre is None else x - own.centre
    pre = float(own.W_enc[step.number] @ x)
    gated = each.activation if isinstance(each.activation, Gated) else None
    bias = 0.0 if gated is None else float(gated.bias[step.number])
    return _size(own, step) * (pre + float(own.b_enc[step.number])) + bias


def _size(dictionary: lk.Transcoder, step: Step) -> float:
    """By what a gated dictionary multiplies what a feature measures."""
    each = dictionary.activation
    return math.exp(float(each.log_scale[step.number])) if isinstance(each, Gated) else 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_gives_to_a_feature_sums_to_its_pre_activation(family: str) -> None:
    model = model_of(family)
    tcs = dictionaries(model)
    for start in ("2.7@-1", "0.11@2"):
        paths = best_paths(model, IDS, start, tcs, depth=1, branches=ALL)
        value = double_value(model, tcs, paths.start)
        size = sum(abs(path.contribution) for path in paths)
        assert paths.start.contribution == pytest.approx(value, abs=1e-4)
        assert sum(path.contribution for path in paths) == pytest.approx(value, abs=1e-5 * size)


@pytest.mark.parametrize("family", MANY)
def test_all_that_gives_to_a_step_sums_to_what_the_step_gives(family: str) -> None:
    model = model_of(family)
    for start, depth, explained in (("2.7@-1", 1, {"tc"}), ("logit", 2, {"logit", "attn", "skip", "tc", "neuron"})):
        paths = best_paths(model, IDS, start, dictionaries(model), depth=depth, branches=ALL)
        sums, sizes = dict[tuple[Step, ...], float](), dict[tuple[Step, ...], float]()
        for path in paths:
            sums[path.steps[:-1]] = sums.get(path.steps[:-1], 0.0) + path.contribution
            sizes[path.steps[:-1]] = sizes.get(path.steps[:-1], 0.0) + abs(path.contribution)
        assert {steps[-1].component for steps in sums} == explained
        for steps, total in sums.items():
            assert total == pytest.approx(steps[-1].contribution, abs=1e-4 * max(sizes[steps], 1e-3)), steps


def naive(model: lk.Model, tcs: list[lk.Transcoder], step: Step) -> dict[str, float]:
    """What gives to a feature directly, by taking each part away from what the norm reads, in float64.

    Nothing here knows what W_V and W_O are: the attention's own output projection says what a head has written.
    """
    hf = model.hf_model
    by_layer = {tc.reads.layer: tc for tc in tcs if tc.reads.layer is not None}
    hand = ByHand(hf, IDS, by_layer)
    seen, kind = hand.seen, hf.config.model_type
    own = hand.transcoders[step.layer]
    blocks: Any = hand._blocks()
    parallel = kind == "gpt_neox"
    names = {"gpt2": "ln_2", "gemma2": "pre_feedforward_layernorm"}
    norm = getattr(blocks[step.layer], names.get(kind, "post_attention_layernorm"))
    stream = seen["resid_pre" if parallel else "resid_mid", step.layer]

    size = _size(own, step)

    def lost(part: torch.Tensor) -> float:
        without = stream.clone()
        without[0, step.pos] -= part
        return size * float((norm(stream) - norm(without))[0, step.pos] @ own.W_enc[step.number])

    def brought(layer: int, head: int, source: int) -> torch.Tensor:
        block = blocks[layer]
        attn = getattr(block, {"gpt2": "attn", "gpt_neox": "attention"}.get(kind, "self_attn"))
        out = getattr(attn, {"gpt2": "c_proj", "gpt_neox": "dense"}.get(kind, "o_proj"))
        v, pattern = seen["v", layer], seen["pattern", layer]
        z = torch.zeros(1, IDS.shape[1], pattern.shape[1], v.shape[-1], dtype=torch.float64)
        shared = head * v.shape[2] // pattern.shape[1]
        z[0, step.pos, head] = pattern[0, head, step.pos, source] * v[0, source, shared]
        made = [out(each.flatten(2)) for each in (z, torch.zeros_like(z))]
        if kind == "gemma2":
            made = [block.post_attention_layernorm(each) for each in made]
        return (made[0] - made[1])[0, step.pos] * getattr(hf.config, "residual_multiplier", 1.0)

    embedded = seen["resid_pre", 0][0, step.pos]
    if kind == "gpt2":
        embedded = embedded - seen["pos_embed", None][0, step.pos]
    found = {f"embed@{step.pos}": lost(embedded)}
    for layer in range(step.layer + (not parallel)):
        for head in range(seen["pattern", layer].shape[1]):
            for source in range(step.pos + 1):
                found[f"attn{layer}[{head}]@{source}"] = lost(brought(layer, head, source))
    for layer in range(step.layer):
        written, x = seen["mlp_out", layer][0, step.pos], seen["mlp_in", layer]
        if layer not in by_layer:
            found[f"mlp{layer}@{step.pos}"] = lost(written)
            continue
        each = hand.transcoders[layer]
        features, values = each.encode(x).at(0, step.pos)
        for feature, value in zip(features.tolist(), values.tolist(), strict=True):
            found[f"mlp{layer}tc[{feature}]@{step.pos}"] = lost(value * each.W_dec[0, feature])
        assert each.W_skip is not None
        found[f"mlp{layer}skip@{step.pos}"] = lost(each.W_skip[0] @ x[0, step.pos])
        found[f"mlp{layer}error@{step.pos}"] = lost(written - each(x)[0, step.pos])
    return found


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_first_level_is_the_full_enumeration_in_order(family: str) -> None:
    model = model_of(family)
    tcs = dictionaries(model)
    paths = best_paths(model, IDS, "2.7@-1", tcs, depth=1, branches=ALL, neurons=False)
    found, wanted = contributions(paths), naive(model, tcs, paths.start)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert set(found) - set(wanted) <= {"bias@4"}
    size = sum(map(abs, wanted.values()))
    assert len(wanted) > 40
    for place, given in wanted.items():
        assert found.get(place, 0.0) == pytest.approx(given, abs=1e-6 * size), place
    # The greedy search keeps the best of it.
    few = best_paths(model, IDS, "2.7@-1", tcs, depth=1, branches=7, neurons=False)
    assert contributions(few) == dict(list(found.items())[:7])
    ranked = sorted(wanted, key=lambda place: -wanted[place])
    assert [place for place in contributions(few) if place != "bias@4"] == ranked[
        : 7 - ("bias@4" in contributions(few))
    ]
