"""A FactoredMatrix is the product of its factors, whatever is asked of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lenskit.models.weighing.factored import FactoredMatrix

sizes = st.integers(1, 9)
batches = st.sampled_from([(), (3,), (2, 3)])
dtypes = st.sampled_from([torch.float32, torch.float64])
every = settings(max_examples=60, deadline=None)


def factored(rows: int, inner: int, columns: int, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(rows * 100 + inner * 10 + columns)
    A = torch.randn(*batch, rows, inner, generator=generator, dtype=dtype)
    B = torch.randn(*batch, inner, columns, generator=generator, dtype=dtype)
    return FactoredMatrix(A, B), A @ B


def close(a: Tensor | FactoredMatrix, b: Tensor) -> None:
    a = a.full() if isinstance(a, FactoredMatrix) else a
    tolerance = 1e-5 if a.dtype in (torch.float32, torch.complex64) else 1e-10
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@every
@given(sizes, sizes, sizes, batches, dtypes)
def test_svd_and_norm_are_those_of_the_product(rows: int, inner: int, columns: int, batch: tuple, dtype) -> None:
    low, full = factored(rows, inner, columns, batch, dtype)
    u, s, vh = low.svd()
    k = min(rows, inner, columns)
    assert (u.shape, s.shape, vh.shape) == ((*batch, rows, k), (*batch, k), (*batch, k, columns))
    close(u * s[..., None, :] @ vh, full)
    close(s, torch.linalg.svdvals(full)[..., :k])
    close(u.mT @ u, torch.eye(k, dtype=dtype).expand(*batch, k, k))
    close(vh @ vh.mT, torch.eye(k, dtype=dtype).expand(*batch, k, k))
    close(low.norm(), torch.linalg.matrix_norm(full))
    assert low.U is u
    assert low.S is s
    assert low.Vh is vh


@every
@given(sizes, sizes, batches, dtypes)
def test_eigenvalues_and_trace_are_those_of_the_product(n: int, inner: int, batch: tuple, dtype) -> None:
    low, full = factored(n, inner, n, batch, dtype)
    close(low.trace, full.diagonal(dim1=-2, dim2=-1).sum(-1))
    few = low.eigenvalues
    assert few.shape == (*batch, min(n, inner))
    # Eigenvalues come in no order; their power sums do not care, and n of them determine n values.
    powers = torch.eye(n, dtype=torch.float64).expand(*batch, n, n)
    for k in range(1, n + 1):
        powers = powers @ full.double()
        expected = powers.diagonal(dim1=-2, dim2=-1).sum(-1)
        scale = few.abs().double().pow(k).sum(-1).clamp_min(1e-12)
        made = few.to(torch.complex128).pow(k).sum(-1)
        bound = 1e-8 if dtype is torch.float64 else 1e-3
        assert ((made.real - expected).abs() <= bound * scale).all()
        assert (made.imag.abs() <= bound * scale).all()


@every
@given(sizes, sizes, sizes, sizes, sizes, batches)
def test_products_stay_factored_and_small(rows: int, r1: int, middle: int, r2: int, columns: int, batch: tuple) -> None:
    (left, left_full), (right, right_full) = factored(rows, r1, middle, batch), factored(middle, r2, columns, batch)
    both = left @ right
    assert isinstance(both, FactoredMatrix)
    assert both.inner == min(r1, r2)
    close(both, left_full @ right_full)
    for mixed in (left @ right_full, left_full @ right):
        assert isinstance(mixed, FactoredMatrix)
        close(mixed, left_full @ right_full)
    vector = torch.arange(1.0, middle + 1, dtype=torch.float64)
    close(left @ vector, left_full @ vector)
    close(vector @ right, vector @ right_full)
    close(left.T, left_full.mT)
    close(2.5 * left, 2.5 * left_full)
    close(left * 2.5, 2.5 * left_full)


index = st.one_of(st.integers(-2, 1), st.builds(slice, st.integers(0, 1), st.integers(1, 3)), st.just(slice(None)))


@every
@given(st.lists(index, max_size=4), st.booleans(), st.integers(0, 3))
def test_indexing_is_the_tensor_s(indices: list, dots: bool, at: int) -> None:
    low, full = factored(4, 2, 5, (2, 3))
    what = tuple([*indices[:at], ..., *indices[at:]] if dots else indices)
    chosen = low[what]
    assert chosen.shape == full[what].shape
    close(chosen, full[what])


@pytest.mark.parametrize(
    "what",
    [1, [1, 0], (0, [2, 1]), (..., [0, 3], slice(None)), (..., [0, 3]), (1, 2, [1, 1], 3), (..., torch.tensor([1]), 0)],
)
def test_a_list_of_indices_is_taken_in_any_place(what: object) -> None:
    low, full = factored(4, 2, 5, (2, 3))
    close(low[what], full[what])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("what", [([0], [1]), (None, 0), (0, 0, 0, 0, 0), (..., ...), "row"])
def test_what_cannot_be_indexed_is_refused(what: object) -> None:
    with pytest.raises(IndexError, match=r"FactoredMatrix|indices"):
        _ = factored(4, 2, 5, (2, 3))[0][what]  # pyright: ignore[reportArgumentType]


def test_wrong_shapes_are_refused_with_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 4\) do not fit: give A"):
        FactoredMatrix(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"batches do not fit"):
        FactoredMatrix(torch.zeros(2, 3, 2), torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match=r"only a square matrix has eigenvalues, and this one is \(3, 5\)"):
        _ = factored(3, 2, 5)[0].eigenvalues
    with pytest.raises(ValueError, match="only a square matrix has a trace"):
        _ = factored(3, 2, 5)[0].trace
    with pytest.raises(TypeError):
        _ = factored(3, 2, 5)[0] @ "x"  # pyright: ignore[reportOperatorIssue]


def test_a_small_norm_between_large_factors_is_not_lost() -> None:
    """Through A.T @ A and B @ B.T in float32 this norm would drown in rounding."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q
    A, B = basis[:, :8].mT, basis[:, 8:16] + 1e-5 * basis[:, :8]  # nearly orthogonal: the product is 1e-5 * I
    low = FactoredMatrix(A.float(), B.float())
    expected = torch.linalg.matrix_norm(A.float().double() @ B.float().double())
    torch.testing.assert_close(low.norm().double(), expected, rtol=1e-5, atol=0)


def test_half_precision_is_computed_in_float() -> None:
    low, full = factored(6, 2, 6, (), torch.bfloat16)
    assert low.norm().dtype == low.S.dtype == torch.float32
    torch.testing.assert_close(low.norm(), torch.linalg.matrix_norm(full.float()), rtol=1e-2, atol=1e-2)


def test_its_line_says_what_it_is() -> None:
    assert repr(factored(4, 2, 5, (2, 3))[0]) == "FactoredMatrix((2, 3, 4, 5), inner 2, float64)"
