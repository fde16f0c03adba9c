"""A de-embedding is what the model's own modules make of bare embeddings; heads are ranked by what they can move."""

import numpy as np
import pytest
import torch

from lenskit.circuits.by_weights.de_embedded import de_embedding
from lenskit.circuits.by_weights.moving import moving_heads
from lenskit.models.model import Model
from lenskit.models.sites import SiteUnavailable
from lenskit.transcoders.index.embeddings import de_embedding_through
from tests.circuits.plain_weights import ARCHITECTURES, HEADS, D, dictionary, embeddings, head, linear, model, norm
from tests.models.architectures import build
from tests.models.tiny import tiny
from tests.transcoders.made_up import numbers


@pytest.mark.parametrize("normalise", ["none", "norm", "layer norm"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_directly_it_is_the_pre_activation_that_the_models_own_norm_gives(architecture: str, normalise: str) -> None:
    m, tc = model(architecture), dictionary(1, normalise=normalise, centre=numbers(D, seed=9))
    with torch.no_grad():
        x = norm(m, 1, "mlp_in").double()(embeddings(m))
    norm(m, 1, "mlp_in").float()
    if normalise == "norm":
        x = x / x.norm(dim=-1, keepdim=True) * D**0.5
    if normalise == "layer norm":
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
    assert tc.centre is not None
    expected = (x - tc.centre.double()) @ tc.W_enc.double().T + tc.b_enc.double()
    for feature in (0, 5, 23):
        assert de_embedding(m, tc, feature).values == pytest.approx(expected[:, feature].numpy(), abs=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_through_a_head_an_embedding_goes_through_its_weights_to_what_the_feature_reads(architecture: str) -> None:
    m, tc = model(architecture), dictionary(2)
    module = norm(m, 1, "attn_in")
    with torch.no_grad():
        x = module.double()(embeddings(m))
    module.float()
    x = x - getattr(module, "bias", torch.zeros(D)).detach().double()
    for number in range(HEADS):
        expected = x @ head(m, 1, number) @ linear(m, 2, "mlp_in") @ tc.W_enc[5].double()
        found = de_embedding(m, tc, 5, through=(1, number))
        assert found.values == pytest.approx(expected.detach().numpy(), abs=1e-4)


def test_where_no_norm_takes_off_a_mean_or_stands_behind_it_is_what_an_index_says() -> None:
    m, tc = model("llama"), dictionary(2)
    assert de_embedding(m, tc, 5, through=(1, 3)).values == pytest.approx(
        de_embedding_through(m, tc, 5, 1, 3).numpy(), abs=1e-5
    )


def test_a_dictionary_of_the_residual_stream_reads_embeddings_as_they_are() -> None:
    m, sae = model("gemma2"), dictionary(1, reads=("resid_pre", 1), writes=[("resid_pre", 1)])
    expected = embeddings(m) @ sae.W_enc[3].double() + float(sae.b_enc[3])
    assert de_embedding(m, sae, 3).values == pytest.approx(expected.numpy(), abs=1e-4)


def test_it_says_which_tokens_in_words_in_a_table_and_in_a_figure() -> None:
    m, tc = model("llama"), dictionary(1)
    found = de_embedding(m, tc, 4)
    order = np.argsort(-found.values, kind="stable")
    assert [i for _, i, _ in found.top(5)] == order[:5].tolist()
    assert [i for _, i, _ in found.top(5, lowest=True)] == np.argsort(found.values, kind="stable")[:5].tolist()
    assert found.top(1)[0][0] == m.text.str_tokens([int(order[0])])[0]
    table = found.to_pandas()
    assert (len(table), table.id.tolist()) == (300, order.tolist())
    assert repr(found).startswith("DeEmbedding(1.4: ")
    assert "1.4 through head 0.2" in repr(de_embedding(m, tc, 4, through=(0, 2)))
    figure = found.figure(6)
    assert list(figure.data[0].x) == pytest.approx(found.values[[*order[:6], *order[-6:]]])  # pyright: ignore


def test_a_token_that_looks_like_html_is_shown_as_text() -> None:
    m, tc = model("llama"), dictionary(1)
    less = m.text.token("<")
    found = de_embedding(m, tc, 4)
    figure = found.figure(300)
    names = list(figure.layout.yaxis.ticktext)
    assert len(names) == 300
    assert names.count("&lt;") == 1
    assert not any("<" in name for name in names)
    assert names.index("&lt;") == [i for _, i, _ in found.top(300)].index(less)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_heads_norm_is_the_length_of_what_a_loop_takes_back_through_it(architecture: str) -> None:
    m, tc = model(architecture), dictionary(2)
    found = moving_heads(m, tc, 5)
    layers = 2 if architecture == "gpt_neox" else 3  # there attention and MLP run in parallel
    expected = np.zeros((layers, HEADS))
    for layer in range(layers):
        for number in range(HEADS):
            back = linear(m, layer, "attn_in") @ head(m, layer, number) @ linear(m, 2, "mlp_in") @ tc.W_enc[5].double()
            expected[layer, number] = sum(float(x) ** 2 for x in back) ** 0.5
    assert found.norms == pytest.approx(expected, rel=1e-4)
    best = np.unravel_index(expected.argmax(), expected.shape)
    assert found.top(1)[0] == (tuple(best), pytest.approx(expected.max(), rel=1e-4))
    table = found.to_pandas()
    assert table.norm.tolist() == pytest.approx(sorted(expected.ravel(), reverse=True), rel=1e-4)
    assert table.loc[0, ["layer", "head"]].tolist() == list(best)
    assert repr(found).startswith(f"MovingHeads(2.5, {layers} layers: {best[0]}.{best[1]} ")
    assert np.asarray(found.figure().data[0].z) == pytest.approx(found.norms)  # pyright: ignore


def test_no_vector_of_length_1_moves_a_feature_by_more_and_one_does_by_as_much() -> None:
    m, tc = model("gemma2"), dictionary(2)
    for (layer, number), length in moving_heads(m, tc, 5).top(3):
        way = linear(m, layer, "attn_in") @ head(m, layer, number) @ linear(m, 2, "mlp_in")
        x = numbers(2000, D, seed=layer).double()
        moved = (x / x.norm(dim=-1, keepdim=True)) @ way @ tc.W_enc[5].double()
        assert float(moved.abs().max()) < length
        best = way @ tc.W_enc[5].double()
        assert float((best / best.norm()) @ way @ tc.W_enc[5].double()) == pytest.approx(length, rel=1e-4)


def test_layers_without_attention_have_no_heads_that_move_anything() -> None:
    m = Model(build("lfm2"))
    there = m.anatomy.layers_of("z")
    assert 0 < len(there) < m.n_layers
    last = m.n_layers - 1
    width = m.weights.W_E.shape[1]
    tc = dictionary(last)
    wide = type(tc)(numbers(24, width), None, numbers(24, width), None, tc.activation, reads=tc.reads, writes=tc.writes)
    found = moving_heads(m, wide, 5)
    heard = [layer for layer in range(len(found.norms)) if not np.isnan(found.norms[layer]).all()]
    assert heard == there
    assert {layer for (layer, _), _ in found.top(99)} == set(there)


def test_what_has_no_de_embedding_is_refused_with_the_reason() -> None:
    m = model("llama")
    with pytest.raises(IndexError, match="features 0 to 23"):
        de_embedding(m, dictionary(1), 24)
    with pytest.raises(IndexError, match="features 0 to 23"):
        moving_heads(m, dictionary(1), -1)
    with pytest.raises(ValueError, match="head 1 of layer 2 writes nothing"):
        de_embedding(m, dictionary(1), 3, through=(2, 1))
    with pytest.raises(SiteUnavailable, match="reads neurons"):
        de_embedding(m, dictionary(1, reads=("mlp_post", 1)), 3)
    with pytest.raises(ValueError, match="no head could move"):
        moving_heads(m, dictionary(0, reads=("attn_in", 0), writes=[("attn_out", 0)]), 3)
    bare = Model(tiny("llama", layers=3, vocab=300))
    assert de_embedding(bare, dictionary(1), 3).top(1)[0][0].startswith("#")
