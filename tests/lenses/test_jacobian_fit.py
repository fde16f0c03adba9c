"""A fitted Jacobian lens holds the derivatives it says, summed and averaged as it says."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.lenses.jacobian import JacobianLens
from tests.lenses.jacobian_by_hand import FAMILIES, blocks_of_derivatives, summed
from tests.models.tiny import tiny

SKIP = 2
SOURCES = ("resid_post", "z", "attn_out", "mlp_out")


@cache
def model(architecture: str = "llama", seed: int = 0, layers: int = 3, d_model: int = 16) -> lk.Model:
    return lk.Model(tiny(architecture, seed, layers=layers, d_model=d_model), name="org/tiny")


def passages(count: int = 2, length: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(131, (count, length), generator=torch.Generator().manual_seed(seed))


def by_hand(of: lk.Model, family: str, ids: Tensor, source: str, layer: int, target: int = 2) -> Tensor:
    each = [summed(blocks_of_derivatives(of.hf_model, family, row, source, layer, target), SKIP) for row in ids]
    return torch.stack(each).mean(0)


def same_matrices(a: JacobianLens, b: JacobianLens, atol: float = 0.0) -> None:
    assert a.sources == b.sources
    for source in a.sources:
        for layer in a.layers if source == "resid_post" else a.components[source]:
            torch.testing.assert_close(a.matrix(layer, source), b.matrix(layer, source), rtol=0, atol=atol)


# Exactness


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_is_that_of_torch_entry_by_entry_in_float64(family: str) -> None:
    of, ids = model(family), passages()
    lens = JacobianLens.fit(of, ids, skip_first=SKIP, sources=SOURCES, at_once=5)
    for source in SOURCES:
        for layer in (0, 1) if source in ("resid_post", "mlp_out") else (0, 2):
            expected = by_hand(of, family, ids, source, layer)
            torch.testing.assert_close(lens.matrix(layer, source).double(), expected, rtol=0, atol=1e-5)


def test_what_a_position_does_to_later_ones_is_in_it() -> None:
    of, ids = model(), passages(1)
    blocks = blocks_of_derivatives(of.hf_model, "llama", ids[0], "resid_post", 0, 2)
    earlier = max(float(blocks[after, :, t].abs().max()) for t in range(8) for after in range(t))
    assert earlier == 0
    positions = range(SKIP, 7)
    alone = torch.stack([blocks[t, :, t] for t in positions]).mean(0)
    exact = summed(blocks, SKIP)
    assert (exact - alone).norm() > 0.05 * exact.norm()
    lens = JacobianLens.fit(of, ids, skip_first=SKIP)
    assert (lens.matrix(0) - exact).norm() < 1e-5 * exact.norm()


def test_the_penultimate_residual_may_be_the_target() -> None:
    of, ids = model("gpt2"), passages()
    lens = JacobianLens.fit(of, ids, skip_first=SKIP, target="penultimate")
    torch.testing.assert_close(
        lens.matrix(0).double(), by_hand(of, "gpt2", ids, "resid_post", 0, target=1), rtol=0, atol=1e-5
    )
    assert lens.layers == (0,)
    assert torch.equal(lens.matrix(1), torch.eye(16))
    assert torch.equal(lens.matrix(2), torch.eye(16))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_it_does_not_matter_whether_weights_are_frozen_or_what_is_skipped_is_read_once(architecture: str) -> None:
    of, ids = model(architecture), passages(1, 10)
    lens = JacobianLens.fit(of, ids, skip_first=4)
    of.hf_model.requires_grad_(False)
    try:
        same_matrices(JacobianLens.fit(of, ids, skip_first=4), lens, atol=1e-6)
    finally:
        of.hf_model.requires_grad_(True)
    assert all(weight.grad is None for weight in of.hf_model.parameters())


@pytest.mark.parametrize("at_once", [1, 3, 16, 40])
def test_how_many_rows_come_at_once_changes_nothing(at_once: int) -> None:
    lens = JacobianLens.fit(model(), passages(), skip_first=SKIP)
    same_matrices(JacobianLens.fit(model(), passages(), skip_first=SKIP, at_once=at_once), lens, atol=1e-6)


def test_some_layers_are_fitted_as_they_are_among_all() -> None:
    whole = JacobianLens.fit(model(), passages(), skip_first=SKIP)
    part = JacobianLens.fit(model(), passages(), skip_first=SKIP, layers=[1])
    assert part.layers == (1,)
    torch.testing.assert_close(part.matrix(1), whole.matrix(1), rtol=0, atol=1e-6)
