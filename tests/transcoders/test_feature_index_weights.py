"""What an index says from the weights alone: promoted tokens and de-embeddings, against the model's own modules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lenskit.models.model import Model
from lenskit.models.sites import SiteUnavailable
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.index.bases import Neurons
from lenskit.transcoders.index.embeddings import de_embedding_through, read_directions
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import HEADS, tiny
from tests.transcoders.made_up import numbers
from tests.transcoders.test_feature_index import NEURONS, VOCAB, D, built, corpus, dictionary, model


def of_sites(reads: tuple[str, int], writes: Any, d_in: int = D, d_out: int = D, count: int = 1) -> Transcoder:
    W_dec = numbers(count, 24, d_out, seed=2)
    return Transcoder(numbers(24, d_in), None, W_dec, None, TopK(4), reads=reads, writes=writes)


def check_tokens(found: list[tuple[str, int, float]], scores: Tensor, rel: float = 1e-3) -> None:
    """That these are the largest of the scores (vocab,), each with its own."""
    best = scores.sort(descending=True).values[: len(found)].tolist()
    assert [value for *_, value in found] == pytest.approx(best, rel=rel, abs=1e-4)
    assert [value for *_, value in found] == pytest.approx([float(scores[i]) for _, i, _ in found], rel=rel, abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_promoted_tokens_are_what_the_row_adds_to_the_logits_through_the_norm_with_its_scale_held(
    architecture: str, tmp_path: Path
) -> None:
    m, tc = model(architecture=architecture), dictionary()
    index = built(tmp_path, tc, corpus(10), m)
    hf: Any = m.hf_model
    norm, head = (hf.model.norm, hf.lm_head) if architecture == "llama" else (hf.transformer.ln_f, hf.lm_head)
    for f in range(0, 48, 9):
        row = tc.W_dec[0, f].double()
        row = row - row.mean() if architecture == "gpt2" else row
        logits = head.weight.double() @ (row * norm.weight.double())
        check_tokens(index.promotes(f, 16), logits.detach())
        check_tokens([(token, i, -value) for token, i, value in index.suppresses(f, 16)], -logits.detach())
        assert index.promoted[f, :3].tolist() == [i for _, i, _ in index.promotes(f, 3)]


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_neurons_promote_through_the_down_projection_and_the_gain_of_a_norm_behind_it(
    architecture: str, tmp_path: Path
) -> None:
    m = model(architecture=architecture)
    index = built(tmp_path, NEURONS, corpus(10), m)
    hf: Any = m.hf_model
    layer = hf.model.layers[1]
    rows = layer.mlp.down_proj.weight.detach().double().T
    gain = hf.model.norm.weight.double()
    if architecture == "gemma2":
        rows, gain = rows * (1 + layer.post_feedforward_layernorm.weight.double()), 1 + gain
    logits = ((rows * gain) @ hf.lm_head.weight.double().T).detach()
    for f in range(0, index.n_features, 11):
        check_tokens(index.promotes(f), logits[f])
    assert torch.allclose(Neurons.at(NEURONS).direction(m, 5).double(), rows[5], atol=1e-5)


def test_what_several_sites_are_written_adds_up_and_z_goes_through_the_heads_output(tmp_path: Path) -> None:
    m = model()
    hf: Any = m.hf_model
    through = lambda rows: (  # noqa: E731
        (rows.double() * hf.model.norm.weight.double()) @ hf.lm_head.weight.double().T
    ).detach()
    cross = of_sites(("mlp_in", 1), [("mlp_out", 1), ("mlp_out", 2)], count=2)
    index = built(tmp_path / "cross", cross, corpus(10), m)
    check_tokens(index.promotes(3), through(cross.W_dec.sum(0))[3])
    sae = of_sites(("z", 1), ("z", 1))
    index = built(tmp_path / "z", sae, corpus(10), m)
    check_tokens(index.promotes(3), through(sae.W_dec[0] @ hf.model.layers[1].self_attn.o_proj.weight.T)[3])


def test_what_does_not_write_the_residual_stream_says_so_and_has_all_the_rest(tmp_path: Path) -> None:
    m = model()
    index = built(tmp_path, of_sites(("mlp_in", 1), ("mlp_in", 1)), corpus(10), m)
    assert not index.writes_residual
    for ask in (index.promotes, index.suppresses):
        with pytest.raises(SiteUnavailable, match="not added to the residual stream"):
            ask(3)
    assert index.card(3).promotes is None
    assert len(index.similar(3)) == 8
    assert "promotes" not in index.to_pandas()
    assert index.find("a").dtype.kind == "i"
    index = built(tmp_path / "q", ("q", 1), corpus(10), m)
    with pytest.raises(SiteUnavailable, match="not read from the residual stream"):
        index.de_embedding(0)
    with pytest.raises(SiteUnavailable, match="pair of tokens"):
        built(tmp_path / "pattern", ("pattern", 1), corpus(10), m)


def test_a_dictionarys_de_embedding_is_its_pre_activation_on_the_normed_embedding(tmp_path: Path) -> None:
    m = model()
    hf: Any = m.hf_model
    tc = dictionary()
    index = built(tmp_path, tc, corpus(10), m)
    with torch.no_grad():
        x = hf.model.layers[1].post_attention_layernorm(hf.model.embed_tokens.weight)
    scores = x.double() @ tc.W_enc.double().T + tc.b_enc.double()
    for f in range(0, 48, 9):
        check_tokens(index.de_embedding(f), scores[:, f])
    sae = of_sites(("resid_pre", 1), ("resid_pre", 1))
    scores = hf.model.embed_tokens.weight.detach().double() @ sae.W_enc.double().T
    check_tokens(built(tmp_path / "resid", sae, corpus(10), m).de_embedding(7), scores[:, 7])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_neurons_de_embedding_is_what_the_mlp_makes_of_the_normed_embedding(
    architecture: str, tmp_path: Path
) -> None:
    m = model(architecture=architecture)
    index = built(tmp_path, NEURONS, corpus(10), m)
    hf: Any = m.hf_model
    with torch.no_grad():
        if architecture == "llama":
            layer = hf.model.layers[1]
            x = layer.post_attention_layernorm(hf.model.embed_tokens.weight)
            post = layer.mlp.act_fn(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
        else:
            block = hf.transformer.h[1]
            post = block.mlp.act(block.mlp.c_fc(block.ln_2(hf.transformer.wte.weight)))
    for f in range(0, index.n_features, 17):
        check_tokens(index.de_embedding(f), post[:, f])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hf.modules())


def test_through_a_head_an_embedding_goes_through_its_values_and_output_to_what_the_feature_reads(
    tmp_path: Path,
) -> None:
    m, tc = model(), dictionary()
    index = built(tmp_path, tc, corpus(10), m)
    hf: Any = m.hf_model
    size = D // HEADS
    with torch.no_grad():
        gain = hf.model.layers[1].post_attention_layernorm.weight.double()
        norms = {}
        for layer in (0, 1):
            block = hf.model.layers[layer]
            x = block.input_layernorm(hf.model.embed_tokens.weight).double()
            for head in range(HEADS):
                group = head // 2  # two query heads share one of keys and values
                W_V = block.self_attn.v_proj.weight.double()[group * size : (group + 1) * size]
                W_O = block.self_attn.o_proj.weight.double()[:, head * size : (head + 1) * size]
                back = (tc.W_enc[5].double() * gain) @ W_O @ W_V
                norms[layer, head] = float((back * block.input_layernorm.weight.double()).norm())
                check_tokens(index.de_embedding(5, head=(layer, head), model=m), x @ back)
    found = index.best_heads(5)
    assert [head for head, _ in found] == sorted(norms, key=lambda head: -norms[head])[:4]
    assert [norm for _, norm in found] == pytest.approx([norms[head] for head, _ in found], rel=1e-4)
    with pytest.raises(TypeError, match="give model="):
        index.de_embedding(5, head=(0, 0))
    with pytest.raises(ValueError, match="layers are"):
        index.de_embedding(5, head=(2, 0), model=m)
    with pytest.raises(ValueError, match="heads 0 to 3"):
        de_embedding_through(m, tc, 5, 0, 4)


def test_a_model_without_a_tokenizer_is_indexed_with_numbers_for_tokens(tmp_path: Path) -> None:
    m = Model(tiny("llama", layers=3, vocab=VOCAB), name="bare")
    index = built(tmp_path, dictionary(), corpus(10), m)
    assert index.promotes(3, 1)[0][0].startswith("#")
    assert np.isfinite(index.promoted_logits).all()


@pytest.mark.parametrize("normalise", ["none", "layer norm"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_what_a_dictionary_reads_of_the_stream_goes_through_the_norm_and_its_own_normalisation(
    architecture: str, normalise: Any
) -> None:
    m = Model(tiny(architecture, d_model=D))
    sites: dict[str, Any] = {"reads": ("mlp_in", 1), "writes": ("mlp_out", 1)}
    weights = numbers(20, D), None, numbers(20, D), None
    tc = Transcoder(*weights, TopK(4), **sites, normalise=normalise, restores=False)
    block = m.anatomy.blocks[1]
    norm: Any = block.ln_2 if architecture == "gpt2" else block.post_attention_layernorm
    rows = read_directions(m, tc).double()
    step = numbers(D, seed=5).double()  # a change of the stream, everything that is divided by being held at 1
    read = (step - step.mean() if architecture == "gpt2" else step) * norm.weight.detach().double()
    read = read - read.mean() if normalise == "layer norm" else read
    torch.testing.assert_close(rows @ step, tc.W_enc.double() @ read, atol=1e-5, rtol=1e-4)
