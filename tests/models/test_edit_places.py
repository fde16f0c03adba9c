"""Edits act where they say: selectors, padded batches, patches from place to place, and at random."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lenskit as lk
from lenskit.models.sites import HEADED, LAYERED
from tests.models.edited_by_hand import (
    LAYER,
    LENGTH,
    ROWS,
    at_places,
    changed_by_hand,
    check,
    close,
    layer_of,
    model,
    random,
    tokens,
)

SELECTIONS = [
    ({"pos": 2}, [(r, 2) for r in range(ROWS)], None),
    ({"pos": -1}, [(r, 5) for r in range(ROWS)], None),
    ({"pos": [0, 3]}, [(r, p) for r in range(ROWS) for p in (0, 3)], None),
    ({"pos": [4, 0, 1]}, [(r, p) for r in range(ROWS) for p in (0, 1, 4)], None),
    ({"pos": slice(1, None, 2)}, [(r, p) for r in range(ROWS) for p in (1, 3, 5)], None),
    ({"pos": range(2, 4), "rows": [0, 2]}, [(r, p) for r in (0, 2) for p in (2, 3)], None),
    ({"rows": -1}, [(2, p) for p in range(LENGTH)], None),
    ({"rows": [2, 0], "pos": slice(-2, None)}, [(r, p) for r in (0, 2) for p in (4, 5)], None),
    ({"heads": 1}, [(r, p) for r in range(ROWS) for p in range(LENGTH)], 1),
    ({"heads": -1, "pos": 3, "rows": 1}, [(1, 3)], -1),
    ({"heads": [1], "pos": [0, 2, 3]}, [(r, p) for r in range(ROWS) for p in (0, 2, 3)], 1),
]


@pytest.mark.parametrize("site", [*LAYERED, "embed", "final_norm", "logits", "path"])
@pytest.mark.parametrize("selection", SELECTIONS, ids=[str(s[0]) for s in SELECTIONS])
def test_selectors_choose_rows_positions_and_heads(site: str, selection: tuple[dict, list, int | None]) -> None:
    chosen, places, head = selection
    path = "model.layers.1.self_attn.o_proj.input"
    name, site = (path, "z_flat") if site == "path" else (site, site)
    if head is not None and site not in HEADED:
        with pytest.raises(lk.NothingEdited, match=r"has no heads to choose from"):
            model("llama").run(tokens(), edits=lk.Zero(name, **chosen))
        return
    where = {} if site == "z_flat" else layer_of(site)

    def change(x: Tensor) -> Tensor:
        flat = x.flatten(2) if site == "z_flat" else x
        return at_places(site, flat, places, head, lambda part: part * 1.5).reshape(x.shape)

    logits, held = changed_by_hand("llama", tokens(), "z" if site == "z_flat" else site, change)
    asked = (site, LAYER) if where else name
    run = model("llama").run(tokens(), keep=asked, edits=lk.Scale(name, 1.5, **where, **chosen))
    close(run.logits, logits)
    close(run[asked].reshape(held.shape), held)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize(
    "pos", [None, 0, 2, -1, -3, [0, -1], slice(1, 3), slice(-2, None), slice(None, -1), slice(3, None)]
)
def test_in_a_padded_batch_each_row_is_edited_as_if_alone(family: str, side: str, pos: object) -> None:
    rows = [tokens()[0].tolist(), tokens()[1, :4].tolist(), tokens()[2, :3].tolist()]
    for site in ("resid_pre", "q", "k", "scores", "pattern", "z", "attn_out", "mlp_post", "logits"):
        heads = {"heads": 1} if site in HEADED else {}
        for edit in (
            lk.Scale(site, 1.7, pos=pos, **layer_of(site), **heads),  # pyright: ignore[reportArgumentType]
            lk.Set(site, 0.5, pos=pos, **layer_of(site)),  # pyright: ignore[reportArgumentType]
        ):
            batch = model(family).run(rows, edits=edit, padding_side=side)  # pyright: ignore[reportArgumentType]
            assert batch.mask is not None
            for row, ids in enumerate(rows):
                try:
                    alone = model(family).run(ids, edits=edit).logits[0]
                except lk.NothingEdited:  # this row alone has no such position
                    alone = model(family).run(ids).logits[0]
                close(batch.logits[row, batch.mask[row].bool()], alone)


def test_a_call_of_a_whole_site_has_its_own_shape_even_when_padded() -> None:
    rows, shapes = [tokens()[0].tolist(), tokens()[1, :4].tolist()], list[torch.Size]()

    def noted(x: Tensor) -> Tensor:
        shapes.append(x.shape)
        return x + 1

    called = model("llama").run(rows, edits=lk.Call("z", noted, layers=LAYER), padding_side="left")
    assert shapes == [(2, LENGTH, 4, 8)]
    assert torch.equal(
        called.logits, model("llama").run(rows, edits=lk.Add("z", 1, layers=1), padding_side="left").logits
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_patching_between_padded_batches_goes_by_position_and_not_by_column(side: str) -> None:
    rows = [tokens()[0].tolist(), tokens()[1, :4].tolist()]
    others = [tokens(seed=2)[0].tolist(), tokens(seed=2)[1, :4].tolist()]
    other = "left" if side == "right" else "right"
    source = model("llama").run(others, keep="resid_pre", padding_side=other)
    for pos, source_pos in ((1, 1), (-1, -1), (slice(0, 2), [2, 0]), (None, None)):
        edit = lk.Patch("resid_pre", source, layers=LAYER, pos=pos, source_pos=source_pos)
        batch = model("llama").run(rows, edits=edit, padding_side=side)  # pyright: ignore[reportArgumentType]
        assert batch.mask is not None
        for row, ids in enumerate(rows):
            alone = lk.Patch(
                "resid_pre",
                model("llama").run(others[row], keep="resid_pre"),
                layers=LAYER,
                pos=pos,
                source_pos=source_pos,
            )
            close(batch.logits[row, batch.mask[row].bool()], model("llama").run(ids, edits=alone).logits[0])


def test_scores_and_patterns_are_not_patched_between_batches_padded_differently() -> None:
    rows = [tokens()[0].tolist(), tokens()[1, :4].tolist()]
    source = model("llama").run(rows, keep="pattern", padding_side="left")
    edit = lk.Patch("pattern", source, layers=LAYER, pos=-1)
    same = model("llama").run(rows, edits=edit, padding_side="left").logits
    close(same, model("llama").run(rows, padding_side="left").logits)
    with pytest.raises(
        ValueError, match="padded differently, so the keys of 'pattern' do not stand in the same columns"
    ):
        model("llama").run(rows, edits=edit, padding_side="right")
    for mixing in (lk.Mean("pattern", pos=-1, layers=1), lk.Resample("pattern", pos=-1, layers=1)):
        with pytest.raises(ValueError, match="rows are padded differently"):
            model("llama").run(rows, edits=mixing, padding_side="right")


def test_a_patch_takes_from_a_source_that_kept_only_the_position() -> None:
    ids, other = tokens(), tokens(seed=2)
    whole = model("llama").run(other, keep="resid_pre")
    part = model("llama").run(other, keep="resid_pre", pos=[1, 3])
    for rows in (None, [2, 0], 1):
        a, b = (lk.Patch("resid_pre", source, layers=1, pos=[1, 3], rows=rows) for source in (whole, part))
        assert torch.equal(model("llama").run(ids, edits=a).logits, model("llama").run(ids, edits=b).logits)
    with pytest.raises(ValueError, match=r"the source kept pos=\[1, 3\] only"):
        model("llama").run(ids, edits=lk.Patch("resid_pre", part, layers=1, pos=2))


def test_rows_of_different_length_are_no_grid() -> None:
    rows = [tokens()[0].tolist(), tokens()[1, :4].tolist()]
    for edit in (lk.Mean("resid_pre", layers=1), lk.Resample("resid_pre", layers=1)):
        with pytest.raises(ValueError, match="the rows have different lengths"):
            model("llama").run(rows, edits=edit)
    source = model("llama").run([rows[1], rows[0]], keep="resid_pre")  # as many places, but other ones
    with pytest.raises(ValueError, match="does not fit"):
        model("llama").run(rows, edits=lk.Patch("resid_pre", source, layers=1))


@st.composite
def random_edit(draw: st.DrawFn) -> tuple[str, dict[str, object], list[tuple[int, int]], int | None]:
    """A site, selectors, and the same as places."""
    site = draw(st.sampled_from(list(LAYERED)))
    rows = draw(st.none() | st.lists(st.integers(0, ROWS - 1), min_size=1, unique=True))
    pos = draw(st.none() | st.lists(st.integers(0, LENGTH - 1), min_size=1, unique=True))
    head = draw(st.none() | st.integers(0, 1)) if site in HEADED else None
    places = [(r, p) for r in rows or range(ROWS) for p in pos or range(LENGTH)]
    negative = draw(st.booleans())
    asked = [p - LENGTH for p in pos] if pos and negative else pos
    return site, {"rows": rows, "pos": asked, "heads": head}, places, head


@settings(max_examples=60)
@given(random_edit(), st.integers(0, 1000), st.sampled_from(["set", "add", "scale"]))
def test_random_edits_equal_the_same_by_hand(
    case: tuple[str, dict, list[tuple[int, int]], int | None], seed: int, kind: str
) -> None:
    site, chosen, places, head = case
    size = {"q": 8, "k": 8, "v": 8, "z": 8, "scores": LENGTH, "pattern": LENGTH, "mlp_pre": 96, "mlp_post": 96}
    value = random(size.get(site, 32), seed=seed).abs() + 0.1
    edit, change = {
        "set": (lk.Set(site, value, layers=LAYER, **chosen), lambda x: value.expand_as(x)),
        "add": (lk.Add(site, value, scale=-0.5, layers=LAYER, **chosen), lambda x: x - 0.5 * value),
        "scale": (lk.Scale(site, value, layers=LAYER, **chosen), lambda x: x * value),
    }[kind]
    check("llama", site, edit, lambda x: at_places(site, x, places, head, change))
