"""Dictionaries whose meaning depends on the model: read beside it, and compared with plain hooks on it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import Identity, ModelMismatch
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny
from tests.transcoders.twins import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    sae_lens,
    sparsify,
    transcoder_circuits,
)
from tests.transcoders.twins.meaning import doubled
from tests.transcoders.twins.numbers import D, N


def gpt2(name: str = "gpt2", d_model: int = D) -> Model:
    return Model(tiny("gpt2", layers=3, d_model=d_model), name=name)


def ids() -> Tensor:
    return torch.randint(1, 90, (2, 9), generator=torch.Generator().manual_seed(1))


def by_hooks(model: Model, module: nn.Module) -> tuple[Tensor, Tensor]:
    """What goes into a module and what comes out, from plain Hugging Face."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))  # pyright: ignore
    with torch.no_grad():
        model.hf_model(ids())
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("file", ["run/tc.pt", "run/tc.pkl.gz"])
def test_a_transcoder_of_a_processed_model_reads_the_raw_one(tmp_path: Path, file: str) -> None:
    """Its input is the residual normalised, without the norm's gain and bias; its output has mean 0."""
    model, t = gpt2(), doubled(transcoder_circuits.write(tmp_path / file))
    norm = model.hf_model.transformer.h[1].ln_2
    residual, read = by_hooks(model, norm)
    bare = nn.functional.layer_norm(residual.double(), (D,), eps=norm.eps)
    f = ((bare - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    expected = f @ t["W_dec"] + t["b_dec_out"]

    tc = Transcoder.load(tmp_path / file, model)
    assert (tc.reads, tc.writes) == (Site("mlp_in", 1), (Site("mlp_out", 1),))
    assert tc.centred_output
    assert (tc(read).double() - expected).abs().max() < 1e-5
    assert torch.equal(model.run(ids(), keep=tc.reads)[tc.reads], read)
    assert tc.about["seed"] == 42
    assert len(tc.about["log10_sparsity"]) == N


def test_a_skip_reads_before_the_norms_gain_as_the_features_do(tmp_path: Path) -> None:
    """TransformerLens's ln2.hook_normalized stands before the gain and bias, whether they are folded or not."""
    model = gpt2("google/gemma-2-2b")
    tensors = circuit_tracer.write_layers(tmp_path / "a", "jump_relu", skip=True, reads="ln2.hook_normalized")
    t = doubled(tensors[1])
    norm = model.hf_model.transformer.h[1].ln_2
    residual, read = by_hooks(model, norm)
    bare = nn.functional.layer_norm(residual.double(), (D,), eps=norm.eps)
    pre = bare @ t["W_enc"].T + t["b_enc"]
    f = pre * (pre > t["activation_function.threshold"])
    tc = Transcoder.load(tmp_path / "a" / "layer_1.safetensors", model)
    assert tc.reads == Site("mlp_in", 1)
    assert (tc(read).double() - (f @ t["W_dec"] + t["b_dec"] + bare @ t["W_skip"].T)).abs().max() < 1e-5


def test_without_the_model_it_reads_what_the_model_has_no_site_for(tmp_path: Path) -> None:
    model, t = gpt2(), doubled(transcoder_circuits.write(tmp_path / "tc.pt"))
    tc = Transcoder.load(tmp_path / "tc.pt")
    assert str(tc.reads) == "blocks.1.ln2.hook_normalized"
    assert "without the gain" in tc.about["reads"]
    with pytest.raises(SiteUnavailable):
        model.run(ids(), keep=tc.reads)
    residual = model.run(ids(), keep=("resid_mid", 1))["resid_mid", 1]
    bare = model.weights.norm("mlp_in", 1).normalise(residual)
    f = ((bare.double() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    assert (tc(bare).double() - (f @ t["W_dec"] + t["b_dec_out"])).abs().max() < 1e-5


def test_an_sae_of_that_time_reads_the_residual_less_its_mean(tmp_path: Path) -> None:
    hook = "blocks.1.hook_resid_pre"
    t = doubled(transcoder_circuits.write(tmp_path / "sae.pkl.gz", transcodes=False, hook_point=hook))
    tc = Transcoder.load(tmp_path / "sae.pkl.gz", gpt2())
    h = gpt2().run(ids(), keep=tc.reads)[tc.reads]
    centred = h.double() - h.double().mean(-1, keepdim=True)
    f = ((centred - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    assert tc.is_sae
    assert tc.centred_output
    assert (tc(h).double() - (f @ t["W_dec"] + t["b_dec"])).abs().max() < 1e-5


def test_paths_of_modules_become_the_sites_that_they_are(tmp_path: Path) -> None:
    """sparsify calls a module as the model's inner part does."""
    sparsify.write(tmp_path / "h.1.mlp", transcode=True)
    sparsify.write(tmp_path / "h.2")
    sparsify.write(tmp_path / "h.0.attn.c_proj")
    sparsify.write(tmp_path / "h.7")
    mlp = Transcoder.load(tmp_path / "h.1.mlp", gpt2())
    assert (mlp.reads, mlp.writes) == (Site("mlp_in", 1), (Site("mlp_out", 1),))
    assert Transcoder.load(tmp_path / "h.2", gpt2()).reads == Site("resid_post", 2)
    there = Transcoder.load(tmp_path / "h.0.attn.c_proj", gpt2()).reads
    assert gpt2().run(ids(), keep=there)[there].shape == (2, 9, D)
    with pytest.raises(LoadError, match=r"h\.7 is no module of gpt2"):
        Transcoder.load(tmp_path / "h.7", gpt2())


def test_a_dictionary_of_another_model_is_refused(tmp_path: Path) -> None:
    sae_lens.write(tmp_path / "a")
    assert Transcoder.load(tmp_path / "a", gpt2("openai-community/gpt2")).is_sae  # "gpt2-small" there
    with pytest.raises(ModelMismatch, match="was made for 'gpt2-small', and this is 'org/other'"):
        Transcoder.load(tmp_path / "a", gpt2("org/other"))
    with pytest.raises(ModelMismatch, match=r"12 numbers at resid_pre\.1, and gpt2 has 16"):
        Transcoder.load(tmp_path / "a", gpt2(d_model=16))
    gemma_scope.write_1(tmp_path / "b")
    with pytest.raises(ModelMismatch, match=r"of resid_post\.20, and gpt2 has layers 0 to 2"):
        Transcoder.load(tmp_path / "b", gpt2(), reads=("resid_post", 20))


def test_a_saved_one_is_refused_on_another_checkpoint_of_the_same_name(tmp_path: Path) -> None:
    dictionary_learning.write(tmp_path / "a")
    model = gpt2()
    path = Transcoder.load(tmp_path / "a").save(tmp_path / "b", model)
    assert Transcoder.load(path, model).identity == Identity.of(model)
    other = gpt2()
    with torch.no_grad():
        other.hf_model.transformer.ln_f.weight[0] += 1e-3
    with pytest.raises(ModelMismatch, match="of another checkpoint"):
        Transcoder.load(path, other)
    assert Transcoder.load(path).identity == Identity.of(model)
