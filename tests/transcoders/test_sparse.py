"""The sparse products and their gradients are those of dense autograd, at the active places."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lenskit.transcoders.sparse import Pairs, decoded, pre_activations


@given(
    tokens=st.integers(1, 9),
    features=st.integers(1, 20),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 999),
)
def test_values_and_all_gradients_equal_dense_autograd(tokens: int, features: int, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    active = torch.rand(tokens, features) < share
    x, W_enc, b_enc, W_dec = (
        torch.randn(shape, dtype=torch.float64).requires_grad_()
        for shape in ((tokens, 5), (features, 5), (features,), (features, 4))
    )
    target = torch.randn(tokens, 4, dtype=torch.float64)

    dense = x @ W_enc.T + b_enc
    ((dense * active).relu() @ W_dec - target).square().sum().backward()
    expected = [each.grad for each in (x, W_enc, b_enc, W_dec)]
    for each in (x, W_enc, b_enc, W_dec):
        each.grad = None

    pairs = Pairs(
        active.nonzero()[:, 1], torch.cat([torch.zeros(1, dtype=torch.int64), active.sum(1).cumsum(0)]), features
    )
    values = pre_activations(x, W_enc, b_enc, pairs, dense.detach()[active])
    (decoded(values.relu(), W_dec, pairs) - target).square().sum().backward()
    for each, grad in zip((x, W_enc, b_enc, W_dec), expected, strict=True):
        assert each.grad is not None
        assert grad is not None
        assert torch.allclose(each.grad, grad, atol=1e-12)
