"""Subspaces and layers ablated as edits give what plain hooks and plain sums give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lenskit as lk
from lenskit.models.ablations import AblateLayer, RemoveSubspace, derangement, remove_subspace
from lenskit.models.edit_files import load_edits, save_edits
from tests.models.tiny import tiny, tiny_tokenizer

MODEL = lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")
IDS = torch.randint(1, 300, (3, 7), generator=torch.Generator().manual_seed(1))
HOW = ["zero", "mean", "resample"]


def by_hand(hf, ids: Tensor, layer: int, change) -> Tensor:
    """The logits where `change(entered, left)` takes the place of what leaves a block, by a plain hook."""

    def hook(block, args, output):
        return change(args[0], output)

    handle = hf.model.layers[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return hf(input_ids=ids).logits
    finally:
        handle.remove()


@given(st.integers(2, 40), st.integers(0, 10_000))
def test_nothing_stays_in_its_place(count: int, seed: int) -> None:
    order = derangement(count, seed)
    assert sorted(order.tolist()) == list(range(count))
    assert not (order == torch.arange(count)).any()
    assert order.tolist() == derangement(count, seed).tolist()


def test_every_derangement_is_as_likely_as_the_others() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(4500):
        order = tuple(derangement(4, seed).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 9  # the derangements of four things
    assert all(400 < count < 600 for count in counts.values())
    with pytest.raises(ValueError, match="1 thing has no other place"):
        derangement(1)


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 1000))
def test_removing_a_subspace_leaves_all_else(rows: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    directions = torch.randn(rank, 8, generator=generator, dtype=torch.float64)
    q, _ = torch.linalg.qr(directions.T)  # another basis of the same span
    inside = h @ q
    zeroed, meaned, dealt = (remove_subspace(h, directions, how, seed=seed) for how in HOW)  # pyright: ignore
    torch.testing.assert_close(zeroed, h - inside @ q.T)
    torch.testing.assert_close(meaned @ q, inside.mean(0).expand_as(inside))
    torch.testing.assert_close(dealt @ q, inside[derangement(rows, seed)])
    for each in (meaned, dealt):  # nothing else moved
        torch.testing.assert_close(each - each @ q @ q.T, zeroed)


def test_a_subspace_of_one_state_has_no_other_to_take_from() -> None:
    with pytest.raises(ValueError, match="needs at least two states"):
        remove_subspace(torch.ones(1, 4), torch.ones(4), "mean")
    with pytest.raises(ValueError, match="directions of 3 numbers for states of 4"):
        remove_subspace(torch.ones(2, 4), torch.ones(3))


@pytest.mark.parametrize("how", HOW)
def test_a_subspace_is_removed_in_a_run(how) -> None:
    directions = torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
    run = MODEL.run(IDS, edits=[RemoveSubspace("resid_post", directions, layers=1, how=how, seed=5)])
    expected = by_hand(MODEL.hf_model, IDS, 1, lambda _, left: remove_subspace(left, directions, how, seed=5))
    torch.testing.assert_close(run.logits, expected, atol=1e-5, rtol=1e-5)


def test_over_rows_only_the_same_position_of_other_rows_is_taken() -> None:
    directions = torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
    run = MODEL.run(IDS, edits=[RemoveSubspace("resid_post", directions, layers=1, how="mean", over="rows")])

    def change(_: Tensor, left: Tensor) -> Tensor:
        return torch.stack([remove_subspace(left[:, pos], directions, "mean") for pos in range(left.shape[1])], 1)

    torch.testing.assert_close(run.logits, by_hand(MODEL.hf_model, IDS, 1, change), atol=1e-5, rtol=1e-5)


def layer_by_hand(how: str, over: str, seed: int):
    def change(entered: Tensor, left: Tensor) -> Tensor:
        added = left - entered
        flat = added if over == "rows" else added.flatten(0, 1)
        if how == "zero":
            new = torch.zeros_like(flat)
        elif how == "mean":
            new = flat.mean(0, keepdim=True).expand_as(flat)
        else:
            new = flat[derangement(len(flat), seed)]
        return entered + new.reshape(added.shape)

    return change


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("over", ["rows", "both"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_layer_is_ablated_as_by_a_plain_hook(how, over, layer: int) -> None:
    run = MODEL.run(IDS, edits=[AblateLayer(layers=layer, how=how, over=over, seed=3)])
    expected = by_hand(MODEL.hf_model, IDS, layer, layer_by_hand(how, over, 3))
    torch.testing.assert_close(run.logits, expected, atol=1e-5, rtol=1e-5)


def test_padding_has_no_part_in_a_mean() -> None:
    prompts = ["The capital of France", "The keys"]
    edit = AblateLayer(layers=1, how="mean", over="both")
    left = MODEL.run(prompts, edits=[edit], padding_side="left")
    right = MODEL.run(prompts, edits=[edit], padding_side="right")
    assert left.mask is not None
    assert right.mask is not None
    for row in range(2):
        a, b = (run.logits[row, run.mask[row].bool()] for run in (left, right))  # pyright: ignore
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="the rows have different lengths"):
        MODEL.run(prompts, edits=[AblateLayer(layers=1, how="mean", over="rows")])


def test_they_are_saved_and_come_back(tmp_path) -> None:
    edits = (
        RemoveSubspace("resid_post", torch.eye(32)[:2], layers=[1], how="resample", over="rows", seed=4),
        AblateLayer(layers=2, how="mean", over="both"),
    )
    assert load_edits(save_edits(edits, tmp_path / "edits.json")) == edits


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ValueError, match="how must be 'zero', 'mean', 'resample', not 'half'"):
        AblateLayer(layers=1, how="half")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="a layer is ablated where it ends: at resid_post"):
        AblateLayer("mlp_out", layers=1)
    with pytest.raises(lk.NothingEdited, match="needs at least two rows"):
        MODEL.run(IDS[:1], edits=[AblateLayer(layers=1, how="mean")])
    with pytest.raises(ValueError, match="directions of 5 numbers"):
        MODEL.run(IDS, edits=[RemoveSubspace("resid_post", torch.ones(5))])


def test_nothing_is_left_behind() -> None:
    before = MODEL.run(IDS).logits
    MODEL.run(IDS, edits=[AblateLayer(layers=1)])
    assert torch.equal(MODEL.run(IDS).logits, before)
    assert not any("forward" in module.__dict__ for module in MODEL.hf_model.modules())
