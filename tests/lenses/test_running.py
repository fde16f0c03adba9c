"""Statistics and the largest numbers are the same however the rows and the vocabulary are cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lenskit.largest import group_peaks, largest
from lenskit.lenses import product, running
from lenskit.lenses.product import blocks_of
from lenskit.lenses.running import Running
from lenskit.row_products import row_products


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def read(bits: Tensor, final: Tensor, target: Tensor, width: int, numbers_at_once: int) -> dict[str, Tensor]:
    """The statistics of logits (pos, layer, vocab), told in blocks of a width, in parts of so many numbers."""
    known = bits.gather(2, target[:, None, None].expand(-1, bits.shape[1], 1)).flatten()
    told = Running(bits.shape[0], bits.shape[1], 10, {"target": target}, {"target": known})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "PART_NUMBERS", numbers_at_once)
        for start in range(0, bits.shape[2], width):
            block = slice(start, start + width)
            told.add(bits[..., block].clone(), start, final[:, block])
    return told.results()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    positions=st.integers(1, 5),
    layers=st.integers(1, 4),
    width=st.sampled_from([64, 256, 300, 512, 1100]),
    numbers_at_once=st.sampled_from([1, 700, 2500, 1 << 20]),
)
def test_blocks_and_parts_change_nothing(
    seed: int, positions: int, layers: int, width: int, numbers_at_once: int
) -> None:
    bits = numbers(positions, layers, 1100, seed=seed) * 8 + 40
    final = numbers(positions, 1100, seed=seed + 1).mul(4).softmax(-1)
    target = torch.randint(1100, (positions,), generator=torch.Generator().manual_seed(seed))
    found = read(bits, final, target, width, numbers_at_once)

    log_p = bits.double().mul(product.NATS).log_softmax(-1)
    own = log_p.gather(2, target[:, None, None].expand(-1, layers, 1))
    torch.testing.assert_close(found["entropy"], -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=1e-6)
    cross = -(final.double()[:, None] * log_p).sum(-1) / final.double().sum(-1)[:, None]
    torch.testing.assert_close(found["cross_entropy"], cross, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found["target_log_prob"].double(), own[..., 0], atol=1e-5, rtol=1e-6)
    assert torch.equal(
        found["target_rank"].long(), (bits > bits.gather(2, target[:, None, None].expand_as(own))).sum(-1)
    )
    assert torch.equal(found["top_ids"].long(), bits.topk(10).indices)
    torch.testing.assert_close(found["top_probs"].double(), log_p.topk(10).values.exp(), atol=1e-6, rtol=1e-5)


def test_the_target_is_not_counted_where_it_came_out_above_its_own_logit() -> None:
    """A product of one row rounds otherwise than a product of many."""
    bits = numbers(2, 3, 512, seed=1)
    target = torch.tensor([7, 300])
    known = bits.gather(2, target[:, None, None].expand(-1, 3, 1)).flatten()
    told = Running(2, 3, 5, {"target": target}, {"target": known - 1e-6})
    for start in (0, 256):
        told.add(bits[..., start : start + 256].clone(), start, None)
    expected = (bits > (known - 1e-6).view(2, 3, 1)).sum(-1) - 1
    assert torch.equal(told.results()["target_rank"].long(), expected)


def test_no_token_has_no_probability() -> None:
    bits = numbers(2, 3, 64, seed=2)
    told = Running(2, 3, 5, {"target": torch.tensor([1, 2]), "following": torch.tensor([9, -1])}, None)
    told.add(bits.clone(), 0, None)
    found = told.results()["following_log_prob"]
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


@settings(max_examples=60)
@given(
    rows=st.integers(1, 4),
    width=st.sampled_from([5, 192, 256, 1024, 4096, 4100, 16384]),
    k=st.sampled_from([1, 2, 10, 16, 17, 40]),
    seed=st.integers(0, 2**31),
)
def test_the_largest_of_wide_rows_are_those_that_sorting_gives(rows: int, width: int, k: int, seed: int) -> None:
    """However often the groups are grouped again; with ties."""
    wide = numbers(rows, width, seed=seed).round(decimals=1)
    values, columns = largest(wide, k)
    kept = min(k, width)
    assert torch.equal(values.sort(descending=True).values, wide.sort(descending=True).values[:, :kept])
    assert torch.equal(wide.gather(1, columns), values)
    assert all(len(set(row)) == kept for row in columns.tolist())
    assert torch.equal(group_peaks(wide, k).amax(-1), wide.amax(-1))


@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), inner=st.integers(1, 40), seed=st.integers(0, 2**31),
    double=st.booleans(), turned=st.booleans(), gradients=st.booleans(),
)  # fmt: skip
def test_row_products_are_those_of_float64(
    rows: int, columns: int, inner: int, seed: int, double: bool, turned: bool, gradients: bool
) -> None:
    """Of any layout; and no gradient hangs on them, which oneDNN would get wrong."""
    a = numbers(rows, inner, seed=seed)
    b = numbers(inner, columns, seed=seed + 1).T if turned else numbers(columns, inner, seed=seed + 1)
    a, b = (x.double() if double else x for x in (a, b))
    found = row_products(a, b.requires_grad_(gradients))
    assert found.dtype == a.dtype
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), a.double() @ b.detach().double().T, atol=1e-5, rtol=1e-5)


def test_where_one_dnn_is_switched_off_torch_multiplies_itself() -> None:
    a, b = numbers(3, 7, seed=1), numbers(5, 7, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lenskit.row_products._one_dnn", None)
        torch.testing.assert_close(row_products(a, b), a @ b.T)


@given(vocab=st.integers(1, 300_000), rows=st.integers(1, 5000))
def test_blocks_cover_the_vocabulary_once_and_keep_to_the_size_of_a_tile(vocab: int, rows: int) -> None:
    blocks = blocks_of(nn.Linear(1, 1), vocab, rows)
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == vocab
    assert all((block.stop - block.start) * rows <= max(product.TILE_NUMBERS, 256 * rows) for block in blocks)
