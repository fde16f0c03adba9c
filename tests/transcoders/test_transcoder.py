"""A dictionary maps what it reads to what it writes through a few features, as written down token by token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenskit.largest import largest
from lenskit.models.sites import Site
from lenskit.transcoders.activations import BatchTopK, JumpReLU, ReLU, TopK
from lenskit.transcoders.transcoder import Normalisation, Transcoder
from tests.transcoders import naive
from tests.transcoders.made_up import D_IN, FEATURES, activations, dictionary, numbers


@pytest.mark.parametrize("kind", activations())
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("normalise", ["none", "norm", "layer norm"])
@pytest.mark.parametrize("restores", [False, True])
def test_the_output_is_what_it_is_token_by_token(
    kind: str, skip: bool, centre: bool, normalise: Normalisation, restores: bool
) -> None:
    tc = dictionary(kind, skip=skip, centre=centre, normalise=normalise, restores=restores)
    x = numbers(2, 7, D_IN, seed=9) * 3 + 1
    assert torch.allclose(tc(x).double(), naive.each(tc, x), atol=1e-5)


@pytest.mark.parametrize("kind", activations())
def test_the_codes_are_the_active_features(kind: str) -> None:
    tc = dictionary(kind)
    x = numbers(3, 5, D_IN, seed=4)
    codes = tc.encode(x)
    assert codes.shape == (3, 5)
    for row in range(3):
        for pos in range(5):
            features, values = codes.at(row, pos)
            assert dict(zip(features.tolist(), values.tolist(), strict=True)) == pytest.approx(
                naive.codes_of(tc, x[row, pos]), abs=1e-5
            )
            assert len(features) == codes.counts[row, pos]


def test_dense_and_one_feature_say_the_same_as_the_codes() -> None:
    codes = dictionary("relu").encode(numbers(2, 6, D_IN))
    dense = codes.dense()
    assert dense.shape == (2, 6, FEATURES)
    assert torch.equal(torch.stack([codes.of(i) for i in range(FEATURES)], -1), dense)
    assert (dense > 0).sum() == len(codes.features)


def test_a_cross_layer_one_writes_each_of_its_sites() -> None:
    tc = dictionary("relu", writes=3, d_out=5, skip=True)
    x = numbers(2, 4, D_IN)
    assert tc.writes == (Site("mlp_out", 1), Site("mlp_out", 2), Site("mlp_out", 3))
    out = tc(x)
    assert out.shape == (3, 2, 4, 5)
    for write in range(3):
        assert torch.allclose(out[write].double(), naive.each(tc, x, write), atol=1e-5)


def test_many_tokens_go_through_in_blocks_and_one_does_not_change_another() -> None:
    tc = dictionary("topk")
    x = numbers(700, D_IN)
    whole = tc(x)
    assert torch.allclose(whole[600], tc(x[600]), atol=1e-5)
    assert torch.allclose(whole, torch.cat([tc(part) for part in x.split(100)]), atol=1e-5)


def test_the_layer_norm_divides_by_a_little_more_than_it_multiplies_with() -> None:
    tc = dictionary("relu", normalise="layer norm")
    x = numbers(3, D_IN) * 1e-4 + 5
    assert torch.allclose(tc(x).double(), naive.each(tc, x), atol=1e-6)


def test_a_site_with_heads_is_read_with_its_heads_side_by_side() -> None:
    W = numbers(FEATURES, D_IN)
    tc = Transcoder(W, None, W, numbers(D_IN), TopK(3), reads=("z", 1), writes=("z", 1))
    z = numbers(2, 5, 3, D_IN // 3)
    assert tc(z).shape == z.shape
    assert torch.equal(tc(z).flatten(-2), tc(z.flatten(-2)))
    assert tc.encode(z).shape == (2, 5)


def test_no_tokens_give_no_codes() -> None:
    tc = dictionary("relu")
    codes = tc.encode(numbers(0, D_IN))
    assert len(codes.features) == 0
    assert tc(numbers(0, D_IN)).shape == (0, D_IN)


def test_gradients_flow_through_the_active_features() -> None:
    tc = dictionary("jumprelu", skip=True, centre=True)
    x = numbers(4, D_IN).requires_grad_()
    tc(x).square().sum().backward()
    dense = x.detach().clone().requires_grad_()
    assert tc.centre is not None
    assert tc.W_skip is not None
    pre = (dense - tc.centre) @ tc.W_enc.T + tc.b_enc
    assert isinstance(tc.activation, JumpReLU)
    out = (pre * (pre > tc.activation.threshold)) @ tc.W_dec[0] + tc.b_dec[0] + dense @ tc.W_skip[0].T
    out.square().sum().backward()
    assert x.grad is not None
    assert dense.grad is not None
    assert torch.allclose(x.grad, dense.grad, atol=1e-4)


@given(rows=st.integers(1, 4), groups=st.integers(1, 40), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_largest_are_those_that_sorting_gives(rows: int, groups: int, k: int, seed: int) -> None:
    wide = numbers(rows, 32 * groups, seed=seed).round(decimals=1)  # with ties
    values, columns = largest(wide, k)
    assert torch.equal(values.sort(descending=True).values, wide.sort(descending=True).values[:, :k])
    assert torch.equal(wide.gather(1, columns), values)
    assert all(len(set(row)) == k for row in columns.tolist())


def test_what_does_not_go_together_is_refused() -> None:
    W = numbers(FEATURES, D_IN)
    with pytest.raises(ValueError, match=r"b_dec is \(1, 11\) and should be \(1, 12\)"):
        Transcoder(W, None, W, numbers(11), ReLU(), reads=("resid_post", 1), writes=("resid_post", 1))
    with pytest.raises(ValueError, match="say which"):
        Transcoder(W, None, W, None, ReLU(), reads="resid_post", writes=("resid_post", 1))
    with pytest.raises(ValueError, match=r"reads resid_post.1, \(..., 12\), and was given \(3, 13\)"):
        dictionary()(numbers(3, 13))
    with pytest.raises(ValueError, match="has no threshold"):
        Transcoder(W, None, W, None, BatchTopK(3), reads=("mlp_in", 0), writes=("mlp_out", 0))(numbers(2, D_IN))
    with pytest.raises(ValueError, match="at least one"):
        TopK(0)


def test_it_says_what_it_is() -> None:
    assert repr(dictionary()) == "SAE(resid_post.1, 64 features, topk 5)"
    assert (
        repr(dictionary("relu", d_out=5, skip=True)) == "Transcoder(resid_post.1 -> mlp_out.1, 64 features, relu, skip)"
    )
    assert repr(dictionary().encode(numbers(2, 3, D_IN))) == "Codes(2 x 3 tokens, 5.0 of 64 features active)"
