"""Attribution graphs add up, and each edge is what goes when its source does."""

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute, attribution
from lenskit.circuits.attributing.targets import reading_site
from lenskit.circuits.graph import EMBED, ERROR, FEATURE, Graph
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.transcoders.activations import ReLU
from tests.circuits.by_hand import ByHand
from tests.circuits.made_up import transcoder
from tests.models.by_hand import FAMILIES
from tests.models.tiny import tiny

IDS = torch.randint(1, 131, (1, 7), generator=torch.Generator().manual_seed(3))
ALL = 10**6
"""More features than there are: then nothing is left in `rest`."""

# Serial and parallel blocks, norms before and behind, biases, soft-caps, multipliers, learned, rotary and ALiBi
# positions, shared keys and values, attention written out by hand, and experts.
MANY = [
    *("gpt2", "gpt_neox", "llama", "gemma2", "qwen3", "olmo2", "phi", "falcon"),
    *("gptj", "granite", "cohere", "bloom", "opt", "gemma3_text", "stablelm", "starcoder2"),
]


def model_of(family: str) -> lk.Model:
    return lk.Model(tiny(family, **({"ffn_dim": 96} if family == "opt" else {})))


def summed(graph: Graph) -> np.ndarray:
    return np.bincount(graph.target, graph.weight, len(graph)) + graph.bias + graph.rest


@pytest.mark.parametrize("family", MANY)
def test_every_value_is_the_sum_of_what_reaches_it(family: str) -> None:
    model = model_of(family)
    mixed = [transcoder(model, 0, kind="topk", skip=True), transcoder(model, 2, kind="gated", centre=True)]
    for dictionaries in ([], mixed):
        graph = attribute(model, IDS, dictionaries, features=ALL, width=ALL, whole_first=False)
        targets = ~np.isnan(graph.value)
        assert targets.sum() > 200
        size = np.maximum(graph.size, 1.0)[targets]
        assert np.max(np.abs(summed(graph) - graph.value)[targets] / size) < 1e-4
        assert np.max(np.abs(graph.rest[targets]) / size) < 1e-5  # nothing is left out here


@pytest.mark.parametrize("family", MANY)
def test_the_replacement_gives_the_models_own_logits(family: str) -> None:
    model = model_of(family)
    work = attribution(model, IDS, [transcoder(model, 1, skip=True)], whole_first=False)
    torch.testing.assert_close(work.replacement.logits, model.run(IDS).logits, atol=1e-5, rtol=1e-4)
    # Put together again from features, errors and biases, it is the same.
    put = {site: value.clone() for site, value in work.put.constants.items()}
    put[Site("resid_pre", 0)] += work.put.embeddings
    for layer, missed in work.put.missed.items():
        put[Site("mlp_out", layer)] += missed
    for basis, active in zip(work.bases, work.active, strict=True):
        for site in basis.writes:
            put[site] = put[site] + basis.written(work.replacement, active, site)
    logits = work.replacement.with_inputs(put).logits
    torch.testing.assert_close(logits, model.run(IDS).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", MANY)
def test_of_nothing_the_replacement_makes_what_the_models_own_biases_give(family: str) -> None:
    replacement = attribution(model_of(family), IDS).replacement
    zeros = {site: torch.zeros_like(value) for site, value in replacement.put_in.items()}
    made, found = replacement.with_inputs(zeros), replacement.with_nothing(reading_site(replacement.model))
    assert (found is None) == (family in {"llama", "gemma2", "qwen3", "olmo2", "granite", "cohere", "gemma3_text"})
    for site in replacement.read:
        if found is None:
            assert not made[site].any()
        else:
            torch.testing.assert_close(found[site], made[site], atol=0, rtol=0)


def test_what_an_edit_adds_is_a_bias_like_any_other() -> None:
    model = model_of("llama")
    model.edit(lk.Add("resid_post", 3.0, layers=0, pos=4))
    graph = attribute(model, IDS, features=60, whole_first=False)
    targets = ~np.isnan(graph.value)
    assert np.abs(graph.bias[targets]).max() > 0.01
    np.testing.assert_allclose(
        (summed(graph) - graph.value)[targets] / np.maximum(graph.size, 1.0)[targets], 0, atol=1e-4
    )


@pytest.mark.parametrize("with_dictionaries", [False, True], ids=["neurons", "transcoders"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_edge_is_what_goes_when_its_source_does(family: str, with_dictionaries: bool) -> None:
    model = model_of(family)
    chosen = {0: transcoder(model, 0, skip=True), 1: transcoder(model, 1, kind="topk")} if with_dictionaries else {}
    graph = attribute(model, IDS, chosen.values(), most=2, features=60, whole_first=False)
    by_hand = ByHand(model.hf_model, IDS, chosen)
    rng = np.random.default_rng(0)
    sources = rng.choice(np.unique(graph.source), size=12, replace=False)
    if with_dictionaries:
        sources = np.concatenate([sources, graph.of_kind(ERROR)[[0, -1]]])
    checked = 0
    for source in sources.tolist():
        without = by_hand.without(graph.nodes[source])
        edges = graph.out_of(source)
        for edge in edges[:3] + edges[-3:]:
            size = graph.size[graph.number(edge.target)]
            gone = by_hand.value(model, graph, edge.target, by_hand.reads) - by_hand.value(
                model, graph, edge.target, without
            )
            assert edge.weight == pytest.approx(gone, abs=1e-5 * max(size, 1.0)), edge
            checked += 1
    assert checked > 40


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("normalise", ["none", "norm", "layer norm"])
def test_every_kind_of_dictionary_adds_up(kind: str, normalise: str) -> None:
    model = model_of("llama")
    given = [
        transcoder(model, layer, kind=kind, normalise=normalise, skip=layer == 1, centre=layer == 2)
        for layer in range(3)
    ]
    graph = attribute(model, IDS, given, features=ALL, width=ALL, whole_first=False)
    targets = ~np.isnan(graph.value)
    assert graph.layers == ("transcoder",) * 3
    assert len(graph.of_kind(FEATURE)) > 50
    assert np.max(np.abs(summed(graph) - graph.value)[targets] / np.maximum(graph.size, 1.0)[targets]) < 1e-4
    values = dict(zip(map(str, graph.nodes), graph.value.tolist(), strict=True))
    run = model.run(IDS, keep="mlp_in")
    for each in given:
        assert each.reads.layer is not None
        codes = each.encode(run[each.reads])
        for pos in (1, 6) if each.reads.layer < 2 else (6,):  # of the last layer, only the last position matters
            for feature, activation in zip(*(part.tolist() for part in codes.at(0, pos)), strict=True):
                assert values[f"{each.reads.layer}.{feature}@{pos}"] == pytest.approx(activation, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_all_of_the_first_position_is_put_down_to_its_token(family: str) -> None:
    model = model_of(family)
    given = [transcoder(model, 1, skip=True)]
    apart = attribute(model, IDS, given, most=2, features=ALL, width=ALL, whole_first=False)
    whole = attribute(model, IDS, given, most=2, features=ALL, width=ALL)
    assert not np.any((whole.pos == 0) & (whole.kind != EMBED))
    for number in np.flatnonzero(~np.isnan(whole.value))[-30:]:
        into = {str(edge.source): edge.weight for edge in whole.into(int(number))}
        parts = [edge for edge in apart.into(str(whole.nodes[number])) if edge.source.pos == 0]
        assert into["embed@0"] == pytest.approx(sum(edge.weight for edge in parts), abs=1e-4)
        others = {str(edge.source): edge.weight for edge in apart.into(str(whole.nodes[number])) if edge.source.pos}
        assert {k: v for k, v in into.items() if k != "embed@0"} == pytest.approx(others, abs=1e-5)
    alone = attribute(model, IDS[:, :1], given, most=2)
    assert len(alone.of_kind(FEATURE)) > 0


def test_a_cross_layer_transcoder_gives_to_every_layer_that_it_writes() -> None:
    model = model_of("gpt2")
    across = transcoder(model, 0, writes=[0, 1, 2], skip=True)
    own = transcoder(model, 2, kind="topk")
    graph = attribute(model, IDS, [across, own], features=ALL, width=ALL, whole_first=False)
    targets = ~np.isnan(graph.value)
    assert np.max(np.abs(summed(graph) - graph.value)[targets] / np.maximum(graph.size, 1.0)[targets]) < 1e-4
    assert graph.layers == ("transcoder",) * 3
    # What it writes to the last layer's MLP reaches the logits past everything that reads in between.
    alone = [edge for edge in graph.out_of(graph.of_kind(FEATURE)[0]) if edge.target.kind == "logit"]
    assert alone


def test_mlps_without_dictionary_are_errors_where_no_neurons_are_asked_for() -> None:
    model = model_of("llama")
    graph = attribute(model, IDS, transcoder(model, 1), neurons=False, features=ALL)
    assert graph.layers == ("none", "transcoder", "none")
    assert set(graph.layer[graph.of_kind(FEATURE)].tolist()) == {1}
    errors = graph.of_kind(ERROR)
    assert len(errors) == 3 * (IDS.shape[1] - 1)  # the first position is its token, whole
    whole = attribute(model, IDS, neurons=False)
    assert set(whole.layers) == {"none"}
    assert len(whole.of_kind(FEATURE)) == 0


def test_experts_are_errors_beside_dictionaries_and_refused_alone() -> None:
    model = model_of("mixtral")
    graph = attribute(model, IDS, transcoder(model, 1))
    assert graph.layers == ("none", "transcoder", "none")
    with pytest.raises(SiteUnavailable, match="mixture of experts"):
        attribute(model, IDS)


def test_what_is_not_linear_behind_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    attention = model.hf_model.model.layers[1].self_attn
    own = type(attention).forward

    def gated(self, *args, **kwargs):
        out, weights = own(self, *args, **kwargs)
        return out * (1 + out).sigmoid(), weights

    monkeypatch.setattr(attention, "forward", gated.__get__(attention))
    with pytest.raises(SiteUnavailable, match="does not add up"):
        attribute(lk.Model(model.hf_model), IDS)


def test_a_state_space_model_is_refused_with_the_reason() -> None:
    with pytest.raises(SiteUnavailable, match="no MLP"):
        attribute(model_of("mamba"), IDS)


def test_nothing_is_left_in_the_model() -> None:
    model = model_of("gpt2")
    before = model.run(IDS).logits
    flags = [parameter.requires_grad for parameter in model.hf_model.parameters()]
    attribute(model, IDS, features=64)
    assert torch.equal(model.run(IDS).logits, before)
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())
    assert [parameter.requires_grad for parameter in model.hf_model.parameters()] == flags
    assert all("forward" not in vars(module) and not module._forward_hooks for module in model.hf_model.modules())


def test_edits_that_stay_are_part_of_the_prompt() -> None:
    model = model_of("gpt2")
    plain = attribute(model, IDS, features=8)
    with model.edit(lk.Zero("attn_out", layers=1)):
        edited = attribute(model, IDS, features=8)
        logits, (token,) = model.run(IDS).logits[0, -1], edited.provenance["circuit"]["ids"][-1]
        assert edited.value[-1] == pytest.approx(float(logits[token] - logits.mean()), abs=1e-4)
    assert not np.allclose(plain.value[plain.kind == 3][:1], edited.value[edited.kind == 3][:1])


def test_more_than_one_prompt_is_refused() -> None:
    model = model_of("gpt2")
    with pytest.raises(ValueError, match="one prompt, and these are 2"):
        attribute(model, IDS.repeat(2, 1))
    with pytest.raises(ValueError, match="two dictionaries read layer 1"):
        attribute(model, IDS, [transcoder(model, 1), transcoder(model, 1)])
    sae = lk.Transcoder(torch.eye(32), None, torch.eye(32), None, ReLU(), reads=("mlp_out", 1), writes=("mlp_out", 1))
    with pytest.raises(ValueError, match="made of transcoders"):
        attribute(model, IDS, sae)
    assert Site("mlp_out", 1) in sae.writes
