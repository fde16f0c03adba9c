"""Each published format is read as its definition says, and what cannot be represented is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lenskit.models.files.load_error import LoadError
from lenskit.models.sites import Site
from lenskit.transcoders.transcoder import Transcoder
from tests.transcoders.twins import circuit_tracer, dictionary_learning, gemma_scope, sae_lens, sparsify
from tests.transcoders.twins.meaning import doubled, gated, groupmax, jump, topk
from tests.transcoders.twins.numbers import D, Draw, N


def x() -> Tensor:
    return Draw(99)(3, 7, D) * 3 + 0.5


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found.double() - expected).abs().max() <= 1e-5)


def features_are(tc: Transcoder, expected: Tensor) -> bool:
    return close(tc.encode(x()).dense(), expected)


# SAELens


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated", "batchtopk"])
@pytest.mark.parametrize("subtracts", [False, True])
def test_saelens(tmp_path: Path, architecture: str, flat: bool, subtracts: bool) -> None:
    more: dict[str, Any] = {"apply_b_dec_to_input": subtracts}
    if architecture in ("topk", "batchtopk") and flat:
        more |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}
        more |= {"k": 5} if architecture == "batchtopk" else {}
    raw = sae_lens.write(tmp_path / "a", architecture, flat=flat, **more)
    t = doubled(raw)
    inner = x().double() - t["b_dec"] * subtracts
    product = inner @ t["W_enc"]
    f = {
        "standard": lambda: (product + t["b_enc"]).relu(),
        "topk": lambda: topk(product + t["b_enc"], 5),
        "jumprelu": lambda: jump(product + t["b_enc"], t["threshold"]),
        "gated": lambda: gated(product, t["b_gate"], t["r_mag"], t["b_mag"]),
        "batchtopk": lambda: jump(product + t["b_enc"], t["topk_threshold"]),
    }[architecture]()
    tc = Transcoder.load(tmp_path / "a")
    assert tc.reads == Site("resid_pre", 1)
    assert tc.is_sae
    assert close(tc(x()), f @ t["W_dec"] + t["b_dec"])
    assert features_are(tc, f)
    assert tc.about["format"] == "SAELens"
    assert len(tc.about["log10_sparsity"]) == N


def test_saelens_subtracts_the_bias_unless_an_old_file_says_otherwise(tmp_path: Path) -> None:
    t = doubled(sae_lens.write(tmp_path / "a", flat=True))
    f = ((x().double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    assert close(Transcoder.load(tmp_path / "a")(x()), f @ t["W_dec"] + t["b_dec"])


def test_an_old_topk_of_saelens_is_not_taken_for_relu(tmp_path: Path) -> None:
    """They were called "standard", with the activation elsewhere."""
    t = doubled(sae_lens.write(tmp_path / "a", flat=True, activation_fn_str="topk", activation_fn_kwargs={"k": 4}))
    f = topk((x().double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"], 4)
    assert close(Transcoder.load(tmp_path / "a")(x()), f @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder", "jumprelu_transcoder"])
@pytest.mark.parametrize("normalised", ["none", "constant_norm_rescale", "layer_norm"])
def test_saelens_transcoders(tmp_path: Path, architecture: str, normalised: str) -> None:
    """What they read is normalised, and what they write is left as it comes; the skip reads without normalisation."""
    t = doubled(sae_lens.write(tmp_path / "a", architecture, normalize_activations=normalised))
    if architecture == "skip_transcoder" and normalised != "none":
        with pytest.raises(LoadError, match="skip"):
            Transcoder.load(tmp_path / "a")
        return
    inner = x().double()
    if normalised == "constant_norm_rescale":
        inner = inner * (D**0.5 / inner.norm(dim=-1, keepdim=True))
    elif normalised == "layer_norm":
        inner = inner - inner.mean(-1, keepdim=True)
        inner = inner / (inner.std(-1, keepdim=True) + 1e-5)
    pre = inner @ t["W_enc"] + t["b_enc"]
    f = jump(pre, t["threshold"]) if architecture == "jumprelu_transcoder" else pre.relu()
    expected = f @ t["W_dec"] + t["b_dec"]
    if architecture == "skip_transcoder":
        expected = expected + x().double() @ t["W_skip"].T
    tc = Transcoder.load(tmp_path / "a")
    assert (tc.reads, tc.writes) == (Site("blocks.1.ln2.hook_normalized"), (Site("mlp_out", 1),))
    assert close(tc(x()), expected)


@pytest.mark.parametrize("how", ["constant_norm_rescale", "layer_norm"])
def test_saelens_normalisation_is_undone_in_saes(tmp_path: Path, how: str) -> None:
    t = doubled(sae_lens.write(tmp_path / "a", normalize_activations=how))
    given = x().double() * 1e-3  # so small that what is added to the deviation shows
    if how == "layer_norm":
        mean, std = given.mean(-1, keepdim=True), given.std(-1, keepdim=True)
        inner = (given - mean) / (std + 1e-5)
    else:
        mean, std = 0, given.norm(dim=-1, keepdim=True) / D**0.5
        inner = given / std
    f = ((inner - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    found = Transcoder.load(tmp_path / "a")(x() * 1e-3)
    assert (found.double() - ((f @ t["W_dec"] + t["b_dec"]) * std + mean)).abs().max() < 1e-8


def test_saelens_scaling_for_all_tokens_is_folded_or_refused(tmp_path: Path) -> None:
    t = doubled(sae_lens.write(tmp_path / "a", "jumprelu", normalize_activations="expected_average_only_in"))
    with pytest.raises(LoadError, match="norm_scaling_factor"):
        Transcoder.load(tmp_path / "a")
    (tmp_path / "a" / "activation_scaler.json").write_text('{"scaling_factor": 0.4}')
    f = jump((x().double() * 0.4 - t["b_dec"]) @ t["W_enc"] + t["b_enc"], t["threshold"])
    tc = Transcoder.load(tmp_path / "a")
    assert close(tc(x()), (f @ t["W_dec"] + t["b_dec"]) / 0.4)
    assert features_are(tc, f)


def test_saelens_features_scaled_by_finetuning_or_by_their_decoder(tmp_path: Path) -> None:
    t = doubled(sae_lens.write(tmp_path / "a", finetuned=True))
    f = ((x().double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    assert close(Transcoder.load(tmp_path / "a")(x()), (f * t["scaling_factor"]) @ t["W_dec"] + t["b_dec"])

    t = doubled(sae_lens.write(tmp_path / "b", "topk", rescale_acts_by_decoder_norm=True))
    norm = t["W_dec"].norm(dim=1)
    f = topk(((x().double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norm, 5)
    assert close(Transcoder.load(tmp_path / "b")(x()), (f / norm) @ t["W_dec"] + t["b_dec"])


def test_saelens_heads_are_read_side_by_side(tmp_path: Path) -> None:
    t = doubled(sae_lens.write(tmp_path / "a", hook_name="blocks.1.attn.hook_z", reshape_activations="hook_z"))
    tc = Transcoder.load(tmp_path / "a")
    assert tc.reads == Site("z", 1)
    f = ((x().double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    assert close(tc(x().unflatten(-1, (4, 3))), (f @ t["W_dec"] + t["b_dec"]).unflatten(-1, (4, 3)))


def test_saelens_on_a_model_whose_writing_weights_were_centred(tmp_path: Path) -> None:
    more: dict[str, Any] = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    t = doubled(sae_lens.write(tmp_path / "a", **more))
    centred = x().double() - x().double().mean(-1, keepdim=True)
    f = ((centred - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    tc = Transcoder.load(tmp_path / "a")
    assert tc.centred_output
    assert close(tc(x()), f @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"activation_fn": "tanh-relu"}, "tanh-relu"),
        ({"architecture": "temporal"}, "temporal"),
        ({"normalize_activations": "sqrt"}, "not known: 'sqrt'"),
        ({"hook_name": "blocks.1.attn.hook_result"}, "no counterpart"),
        ({"hook_name": "blocks.1.hook_resid_pre", "hook_head_index": 3}, "head 3"),
        ({"hook_name": None}, "does not say which site"),
    ],
)
def test_saelens_refusals(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    metadata: dict[str, Any] = {"metadata": {key: more.pop(key) for key in list(more) if key.startswith("hook")}}
    sae_lens.write(tmp_path / "a", **more, **(metadata if metadata["metadata"] else {}))
    with pytest.raises(LoadError, match=reason):
        Transcoder.load(tmp_path / "a")


# sparsify


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize("transcodes", [None, False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_sparsify(tmp_path: Path, activation: str, transcodes: bool | None, skip: bool) -> None:
    """Where cfg.json says nothing of `transcode`, it is of a time when everything had its bias subtracted."""
    more: dict[str, Any] = {} if transcodes is None else {"transcode": transcodes}
    t = doubled(sparsify.write(tmp_path / "layers.1.mlp", skip=skip, activation=activation, **more))
    inner = x().double() if transcodes else x().double() - t["b_dec"]
    pre = inner @ t["encoder.weight"].T + t["encoder.bias"]
    f = topk(pre, 8) if activation == "topk" else groupmax(pre, 8)
    expected = f @ t["W_dec"] + t["b_dec"]
    if skip:
        expected = expected + x().double() @ t["W_skip"].T
    tc = Transcoder.load(tmp_path / "layers.1.mlp")
    assert close(tc(x()), expected)
    assert tc.writes == (Site("layers.1.mlp"),)
    assert tc.reads.name == ("layers.1.mlp.input" if transcodes or skip else "layers.1.mlp")


@pytest.mark.parametrize("more", [{"signed": True}, {"embed_skip": True}, {"activation": "relu"}, {"k": 0}])
def test_sparsify_refusals(tmp_path: Path, more: dict[str, Any]) -> None:
    sparsify.write(tmp_path / "layers.1", **more)
    with pytest.raises(LoadError):
        Transcoder.load(tmp_path / "layers.1")


# GemmaScope


@pytest.mark.parametrize(
    ("repo", "reads", "writes"),
    [
        ("res", Site("resid_post", 20), Site("resid_post", 20)),
        ("mlp", Site("mlp_out", 20), Site("mlp_out", 20)),
        ("att", Site("z", 20), Site("z", 20)),
        ("transcoders", Site("blocks.20.ln2.hook_normalized"), Site("mlp_out", 20)),
    ],
)
def test_gemma_scope_1(tmp_path: Path, repo: str, reads: Site, writes: Site) -> None:
    folder = tmp_path / f"gemma-scope-2b-pt-{repo}" / "layer_20" / "width_16k" / "average_l0_71"
    t = doubled(gemma_scope.write_1(folder))
    f = jump(x().double() @ t["W_enc"] + t["b_enc"], t["threshold"])
    tc = Transcoder.load(folder)
    assert (tc.reads, tc.writes) == (reads, (writes,))
    assert close(tc(x()), f @ t["W_dec"] + t["b_dec"])
    assert features_are(tc, f)


def test_gemma_scope_1_elsewhere_must_be_told_its_site(tmp_path: Path) -> None:
    gemma_scope.write_1(tmp_path / "mine", d_out=9)
    with pytest.raises(LoadError, match=r"reads=\('resid_post', 20\)"):
        Transcoder.load(tmp_path / "mine")
    tc = Transcoder.load(tmp_path / "mine", reads=("mlp_in", 3), writes=("mlp_out", 3))
    assert (tc.reads, tc.writes, tc.d_out) == (Site("mlp_in", 3), (Site("mlp_out", 3),), 9)


@pytest.mark.parametrize("transcodes", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_2(tmp_path: Path, transcodes: bool, affine: bool) -> None:
    t = doubled(gemma_scope.write_2(tmp_path / "a", transcodes=transcodes, affine=affine))
    f = jump(x().double() @ t["w_enc"] + t["b_enc"], t["threshold"])
    expected = f @ t["w_dec"] + t["b_dec"]
    if affine:
        expected = expected + x().double() @ t["affine_skip_connection"]
    tc = Transcoder.load(tmp_path / "a")
    assert close(tc(x()), expected)
    assert tc.reads == Site("mlp_in" if transcodes else "resid_post", 1)
    assert tc.writes == (Site("mlp_out" if transcodes else "resid_post", 1),)


# circuit-tracer


@pytest.mark.parametrize("activation", ["relu", "topk", "jump_relu"])
@pytest.mark.parametrize("skip", [False, True])
def test_circuit_tracer_by_layer(tmp_path: Path, activation: str, skip: bool) -> None:
    layers = circuit_tracer.write_layers(tmp_path / "a", activation, skip=skip)
    found = Transcoder.load_all(tmp_path / "a")
    assert [(tc.reads, tc.writes) for tc in found] == [(Site("mlp_in", i), (Site("mlp_out", i),)) for i in range(3)]
    for tc, tensors in zip(found, layers, strict=True):
        t = doubled(tensors)
        pre = x().double() @ t["W_enc"].T + t["b_enc"]
        if activation == "jump_relu":  # a threshold below 0 lets negative numbers through here
            f = pre * (pre > t["activation_function.threshold"])
        else:
            f = topk(pre, 5) if activation == "topk" else pre.relu()
        expected = f @ t["W_dec"] + t["b_dec"]
        assert close(tc(x()), expected + x().double() @ t["W_skip"].T if skip else expected)
    one = Transcoder.load(tmp_path / "a" / "layer_2.safetensors")
    assert torch.equal(one.W_enc, found[2].W_enc)
    with pytest.raises(LoadError, match="holds 3 dictionaries"):
        Transcoder.load(tmp_path / "a")


@pytest.mark.parametrize("jumps", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_circuit_tracer_across_layers(tmp_path: Path, jumps: bool, skip: bool) -> None:
    """The sum of what all of them write to a layer is what the format says of it."""
    layers = [doubled(each) for each in circuit_tracer.write_cross_layer(tmp_path / "a", jumps=jumps, skip=skip)]
    read = torch.stack([x(), -x(), x() / 2]).double()
    pre = [read[i] @ t["W_enc"].T + t["b_enc"] for i, t in enumerate(layers)]
    f = [p * (p > t["threshold"]) if jumps else p.relu() for p, t in zip(pre, layers, strict=True)]
    found = Transcoder.load_all(tmp_path / "a")
    assert [tc.reads for tc in found] == [Site("resid_mid", i) for i in range(3)]
    for out in range(3):
        expected = layers[out]["b_dec"] + sum(f[i] @ layers[i]["W_dec"][:, out - i] for i in range(out + 1))
        if skip:
            expected = expected + read[out] @ layers[out]["W_skip"]
        summed = sum(found[i].written(read[i].float(), out - i).double() for i in range(out + 1))
        assert isinstance(summed, Tensor)
        assert close(summed, expected)


def test_of_a_cross_layer_one_only_the_layers_asked_for_are_read(tmp_path: Path) -> None:
    circuit_tracer.write_cross_layer(tmp_path / "a")
    whole = Transcoder.load(tmp_path / "a" / "W_enc_0.safetensors")
    some = Transcoder.load(tmp_path / "a" / "W_enc_0.safetensors", writes=[("mlp_out", 2), ("mlp_out", 0)])
    assert some.W_dec.shape == (2, N, D)
    assert torch.equal(some(x()), whole(x())[[2, 0]])
    with pytest.raises(LoadError, match=r"does not write mlp_out.5"):
        Transcoder.load(tmp_path / "a" / "W_enc_0.safetensors", writes=("mlp_out", 5))


# dictionary_learning


@pytest.mark.parametrize("old_file", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        "AutoEncoder",
        "AutoEncoderNew",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
    ],
)
def test_dictionary_learning(tmp_path: Path, kind: str, old_file: bool) -> None:
    t = doubled(dictionary_learning.write(tmp_path / "a", kind, old_file=old_file))
    given = x().double()

    def linear(bias: Tensor) -> Tensor:
        return (given - bias) @ t["encoder.weight"].T

    def bare(bias: Tensor | float) -> Tensor:
        return (given - bias) @ t["W_enc"] + t["b_enc"]

    pre = {
        "AutoEncoder": lambda: (linear(t["bias"]) + t["encoder.bias"]).relu(),
        "AutoEncoderNew": lambda: (given @ t["encoder.weight"].T + t["encoder.bias"]).relu(),
        "AutoEncoderTopK": lambda: topk(linear(t["b_dec"]) + t["encoder.bias"], 5),
        "BatchTopKSAE": lambda: jump(linear(t["b_dec"]) + t["encoder.bias"], t["threshold"]),
        "MatryoshkaBatchTopKSAE": lambda: jump(bare(t["b_dec"]), t["threshold"]),
        "GatedAutoEncoder": lambda: gated(linear(t["decoder_bias"]), t["gate_bias"], t["r_mag"], t["mag_bias"]),
        "JumpReluAutoEncoder": lambda: jump(bare(0.0), t["threshold"]),
    }
    f = pre[kind]()
    W_dec = t["W_dec"] if "W_dec" in t else t["decoder.weight"].T
    bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
    tc = Transcoder.load(tmp_path / "a")
    assert tc.reads == Site("resid_post", 1)
    assert close(tc(x()), f @ W_dec + t[bias.get(kind, "b_dec")])
    scaled = kind in ("GatedAutoEncoder", "JumpReluAutoEncoder")
    assert features_are(tc, f * W_dec.norm(dim=1) if scaled else f)


def test_topk_and_batchtopk_of_dictionary_learning_are_not_taken_for_each_other(tmp_path: Path) -> None:
    dictionary_learning.write(tmp_path / "a", "AutoEncoderTopK", dict_class=None)
    with pytest.raises(LoadError, match="says its dict_class"):
        Transcoder.load(tmp_path / "a")
    dictionary_learning.write(tmp_path / "b", "AutoEncoder", dict_class="GatedAutoEncoder")
    with pytest.raises(LoadError, match="does not look like one"):
        Transcoder.load(tmp_path / "b")


def test_a_feature_that_writes_nothing_stays(tmp_path: Path) -> None:
    dictionary_learning.write(tmp_path / "a", "JumpReluAutoEncoder")
    state = torch.load(tmp_path / "a" / "ae.pt", weights_only=True)
    with torch.no_grad():
        state["W_dec"][3] = 0
    torch.save(state, tmp_path / "a" / "ae.pt")
    assert Transcoder.load(tmp_path / "a")(x()).isfinite().all()


# All of them


def test_what_is_left_over_in_a_file_is_refused_and_not_ignored(tmp_path: Path) -> None:
    tensors = sae_lens.write(tmp_path / "a")
    save_file({**tensors, "W_more": Draw()(D, D)}, tmp_path / "a" / "sae_weights.safetensors")
    with pytest.raises(LoadError, match="W_more, whose meaning is not known"):
        Transcoder.load(tmp_path / "a")


def test_the_formats_are_told_apart_by_what_is_in_the_files(tmp_path: Path) -> None:
    sae_lens.write(tmp_path / "a", "jumprelu")
    sparsify.write(tmp_path / "b")
    gemma_scope.write_1(tmp_path / "c")
    gemma_scope.write_2(tmp_path / "d")
    circuit_tracer.write_layers(tmp_path / "e", "jump_relu", layers=1)
    circuit_tracer.write_cross_layer(tmp_path / "f", layers=1)
    dictionary_learning.write(tmp_path / "g", "JumpReluAutoEncoder")
    at: dict[str, Any] = {"reads": ("resid_post", 1), "writes": ("resid_post", 1)}
    found = [Transcoder.load(tmp_path / each, **(at if each == "c" else {})).about["format"] for each in "abcdefg"]
    assert found == [
        "SAELens",
        "sparsify",
        "GemmaScope 1",
        "GemmaScope 2",
        "circuit-tracer",
        "circuit-tracer",
        "dictionary_learning",
    ]


def test_weights_may_be_kept_in_another_dtype(tmp_path: Path) -> None:
    sae_lens.write(tmp_path / "a")
    assert Transcoder.load(tmp_path / "a", dtype=torch.float16).W_enc.dtype == torch.float16
