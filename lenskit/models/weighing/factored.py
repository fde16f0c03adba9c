"""FactoredMatrix: a big matrix of low rank, kept as the two thin matrices whose product it is."""

from __future__ import annotations

from functools import cached_property
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor

Index = int | slice | EllipsisType | Tensor | list[int]


class SVD(NamedTuple):
    """A thin singular value decomposition: `U @ diag(S) @ Vh`."""

    U: Tensor
    """(..., rows, rank), orthonormal columns: directions of what is read."""
    S: Tensor
    """(..., rank), descending, not negative."""
    Vh: Tensor
    """(..., rank, columns), orthonormal rows: directions of what is written."""


class FactoredMatrix:
    """The product `A @ B`, (..., rows, columns), held as `A` (..., rows, inner) and `B` (..., inner, columns).

    A head's OV is 768 x 768 of rank 64: the factors are six times smaller, and its SVD, eigenvalues and norm cost
    thousands of times less than those of the product, which is never formed (but for `full()`). As in Elhage et al.,
    "A Mathematical Framework for Transformer Circuits" (2021), vectors are rows: `x @ (A @ B)`. In front there may be
    batch dimensions, such as (layer, head).

    What is asked about the product (SVD, eigenvalues, norm, trace) is computed in float64 where the device has it:
    small numbers here are differences of large ones, and the factors are thin. Results come back in the factors' dtype,
    at least float32. Factors are not copied and not changed.

    Raises `ValueError` where the factors' shapes do not fit.

    >>> ov = model.weights.OV[5, 1]                                    # doctest: +SKIP
    >>> ov.shape, ov.svd().S[:3]                                       # doctest: +SKIP
    >>> (model.weights.W_E @ ov @ model.weights.W_U).eigenvalues       # doctest: +SKIP
    """

    def __init__(self, A: Tensor, B: Tensor) -> None:
        if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
            raise ValueError(
                f"the factors {tuple(A.shape)} and {tuple(B.shape)} do not fit: "
                "give A (..., rows, inner) and B (..., inner, columns)."
            )
        try:
            batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        except RuntimeError as error:
            raise ValueError(f"the factors' batches do not fit: {tuple(A.shape)} and {tuple(B.shape)}.") from error
        self.A, self.B = A.expand(*batch, *A.shape[-2:]), B.expand(*batch, *B.shape[-2:])

    # What it is

    @property
    def shape(self) -> torch.Size:
        """The product's shape, (..., rows, columns)."""
        return torch.Size((*self.A.shape[:-1], self.B.shape[-1]))

    @property
    def ndim(self) -> int:
        """The product's number of dimensions."""
        return self.A.ndim

    @property
    def inner(self) -> int:
        """The dimension between the factors: the rank is at most this."""
        return self.A.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the product."""
        return torch.promote_types(self.A.dtype, self.B.dtype)

    @property
    def T(self) -> FactoredMatrix:
        """The transpose of each matrix; batch dimensions stay in front."""
        return FactoredMatrix(self.B.mT, self.A.mT)

    def full(self) -> Tensor:
        """The product itself, (..., rows, columns): for a look at a small one."""
        return self.A @ self.B

    def __repr__(self) -> str:
        return f"FactoredMatrix({tuple(self.shape)}, inner {self.inner}, {str(self.dtype).removeprefix('torch.')})"

    # Arithmetic

    def __matmul__(self, other: Tensor | FactoredMatrix) -> FactoredMatrix | Tensor:
        """Times a matrix or another FactoredMatrix (stays factored), or times a vector (gives a vector)."""
        if isinstance(other, FactoredMatrix):
            between = self.B @ other.A
            if self.inner <= other.inner:
                return FactoredMatrix(self.A, between @ other.B)
            return FactoredMatrix(self.A @ between, other.B)
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 1:
            return (self.A @ (self.B @ other)[..., None])[..., 0]
        return FactoredMatrix(self.A, self.B @ other)

    def __rmatmul__(self, other: Tensor) -> FactoredMatrix | Tensor:
        """A matrix times it (stays factored), or a vector times it (gives a vector)."""
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 1:
            return ((other @ self.A)[..., None, :] @ self.B)[..., 0, :]
        return FactoredMatrix(other @ self.A, self.B)

    def __mul__(self, number: float) -> FactoredMatrix:
        """Times a number."""
        return FactoredMatrix(self.A * number, self.B)

    __rmul__ = __mul__

    def __getitem__(self, index: Index | tuple[Index, ...]) -> FactoredMatrix | Tensor:
        """Index it as the tensor of its `shape`: batch first, then rows and columns.

        It stays factored while rows and columns are both there; a single row or column comes as a tensor. One list or
        tensor of indices may be among them. Raises `IndexError` for anything else.
        """
        indices = self._spread(index)
        *batch, row, column = indices
        A, B = self.A[tuple(batch)], self.B[tuple(batch)]
        # A row is chosen while its dimension is kept, so that one expression serves numbers, slices and lists.
        A = A[..., [row] if isinstance(row, int) else row, :]
        B = B[..., [column] if isinstance(column, int) else column]
        if not isinstance(row, int) and not isinstance(column, int):
            return FactoredMatrix(A, B)
        product = A @ B
        product = product.squeeze(-2) if isinstance(row, int) else product
        return product.squeeze(-1) if isinstance(column, int) else product

    def _spread(self, index: Index | tuple[Index, ...]) -> list[Index]:
        """One index for every dimension: what is left out is all of it."""
        given = list(index) if isinstance(index, tuple) else [index]
        if sum(isinstance(i, (Tensor, list)) for i in given) > 1:
            raise IndexError("a FactoredMatrix takes one list or tensor of indices at a time: index twice.")
        if any(not isinstance(i, (int, slice, EllipsisType, Tensor, list)) for i in given):
            raise IndexError(f"a FactoredMatrix is indexed by numbers, slices, lists and '...', not {index!r}.")
        dots = [at for at, i in enumerate(given) if i is ...]
        at = dots[0] if dots else len(given)
        given[at : at + 1] = []
        missing = self.ndim - len(given)
        if len(dots) > 1 or missing < 0:
            raise IndexError(f"{len(given)} indices for a FactoredMatrix of {self.ndim} dimensions.")
        return [*given[:at], *[slice(None)] * missing, *given[at:]]

    # What is asked about the product

    @cached_property
    def _svd(self) -> SVD:
        A, B = _wide(self.A), _wide(self.B)
        (left, r_left), (right, r_right) = torch.linalg.qr(A), torch.linalg.qr(B.mT)
        u, s, vh = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
        return SVD(*(x.to(self._result) for x in (left @ u, s, vh @ right.mT)))

    def svd(self) -> SVD:
        """The thin SVD, through QR of both factors: the product is never formed. Kept once computed.

        `U` (..., rows, k), `S` (..., k), `Vh` (..., k, columns), with k the smallest of rows, columns and `inner`.
        """
        return self._svd

    @property
    def U(self) -> Tensor:
        """Left singular vectors, (..., rows, k)."""
        return self._svd.U

    @property
    def S(self) -> Tensor:
        """Singular values, (..., k), descending."""
        return self._svd.S

    @property
    def Vh(self) -> Tensor:
        """Right singular vectors, (..., k, columns)."""
        return self._svd.Vh

    @cached_property
    def eigenvalues(self) -> Tensor:
        """The eigenvalues of a square product that can differ from zero, (..., k), complex, in no order.

        `A @ B` and `B @ A` share them, and the second is small. Of `W_E @ OV @ W_U`, they say whether a head copies:
        positive where it raises the token that it reads. Raises `ValueError` where the product is not square.
        """
        self._need_square("eigenvalues")
        A, B = _wide(self.A), _wide(self.B)
        values = torch.linalg.eigvals(A @ B if self.inner > self.shape[-1] else B @ A)
        return values.to(torch.complex128 if self._result is torch.float64 else torch.complex64)

    @property
    def trace(self) -> Tensor:
        """The sum of the diagonal, (...). Raises `ValueError` where the product is not square."""
        self._need_square("a trace")
        return (_wide(self.A) * _wide(self.B).mT).sum((-2, -1)).to(self._result)

    def norm(self) -> Tensor:
        """The Frobenius norm of each matrix, (...), through the factors' QR."""
        # Not through A.T @ A and B @ B.T: that squares the factors, and a small norm between large ones is lost.
        r_left, r_right = torch.linalg.qr(_wide(self.A), "r").R, torch.linalg.qr(_wide(self.B).mT, "r").R
        return torch.linalg.matrix_norm(r_left @ r_right.mT).to(self._result)

    def _need_square(self, what: str) -> None:
        if self.shape[-2] != self.shape[-1]:
            raise ValueError(f"only a square matrix has {what}, and this one is {tuple(self.shape)}.")

    @property
    def _result(self) -> torch.dtype:
        return self.dtype if self.dtype is torch.float64 else torch.float32


def _wide(x: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    return x.float() if x.device.type == "mps" else x.double()
