"""Steering, swapping and ablating along a lens's directions give what plain hooks give."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lenskit as lk
from lenskit.lenses.lens_directions import lens_directions
from lenskit.models.edit_files import load_edits, save_edits
from lenskit.models.steering import Ablate, Along, Steer, Swap
from tests.lenses.matrix_lens import MatrixLens, random_lens
from tests.models.tiny import tiny, tiny_tokenizer

MODEL = lk.Model(tiny("llama", vocab=300, layers=4), tiny_tokenizer(300), name="tiny")
LENS = random_lens(MODEL, layers=3)
IDS = torch.randint(1, 300, (3, 7), generator=torch.Generator().manual_seed(1))
LAYERS = [1, 2]


def by_hand(ids: Tensor, change: Any) -> Tensor:
    """The logits where `change(layer, left)` takes the place of what leaves a block, by plain hooks."""
    handles = [
        block.register_forward_hook(lambda _, args, out, layer=layer: change(layer, out))
        for layer, block in enumerate(MODEL.hf_model.model.layers)
        if layer in LAYERS
    ]
    try:
        with torch.no_grad():
            return MODEL.hf_model(input_ids=ids).logits
    finally:
        for handle in handles:
            handle.remove()


def after_the_first(layer: int, h: Tensor, new: Tensor) -> Tensor:
    return torch.cat([h[:, :1], new[:, 1:]], 1)


def vectors(layer: int, *tokens: int) -> Tensor:
    return lens_directions(LENS, tokens, layer)[layer]


def test_steering_adds_the_direction_and_leaves_the_first_position_alone() -> None:
    edit = Steer(LENS, 5, layers=LAYERS, strength=0.7, scale="unit")

    def change(layer: int, h: Tensor) -> Tensor:
        v = vectors(layer, 5)[0]
        return after_the_first(layer, h, h + 0.7 * v / v.norm())

    torch.testing.assert_close(MODEL.run(IDS, edits=edit).logits, by_hand(IDS, change), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("strength", [1.0, 2.0, 0.5])
def test_a_clamped_swap_sets_the_exchanged_coordinates_of_the_clean_run(strength: float) -> None:
    clean = MODEL.run(IDS, keep="resid_post")

    def change(layer: int, h: Tensor) -> Tensor:
        v = vectors(layer, 5, 9).double()
        there = torch.linalg.lstsq(v.T, clean["resid_post", layer].double().flatten(0, 1).T).solution.T
        here = torch.linalg.lstsq(v.T, h.double().flatten(0, 1).T).solution.T
        wanted = there + strength * (there[:, [1, 0]] - there)
        return after_the_first(layer, h, (h.double().flatten(0, 1) + (wanted - here) @ v).float().view(h.shape))

    run = MODEL.run(IDS, edits=Swap(LENS, 5, 9, layers=LAYERS, strength=strength), keep="resid_post")
    torch.testing.assert_close(run.logits, by_hand(IDS, change), atol=1e-3, rtol=1e-3)
    for layer in LAYERS:
        inverse = torch.linalg.pinv(vectors(layer, 5, 9).double())
        before, after = (each["resid_post", layer][:, 1:].double() @ inverse for each in (clean, run))
        torch.testing.assert_close(after, before + strength * (before.flip(-1) - before), atol=1e-4, rtol=1e-4)


def test_a_live_swap_exchanges_what_is_there_and_twice_is_nothing() -> None:
    live = Swap(LENS, 5, 9, layers=LAYERS, clamped=False)

    def change(layer: int, h: Tensor) -> Tensor:
        v = vectors(layer, 5, 9)
        c = h @ torch.linalg.pinv(v)
        return after_the_first(layer, h, h + (c[..., [1, 0]] - c) @ v)

    torch.testing.assert_close(MODEL.run(IDS, edits=live).logits, by_hand(IDS, change), atol=1e-3, rtol=1e-3)
    one = Swap(LENS, 5, 9, layers=1, clamped=False)
    torch.testing.assert_close(MODEL.run(IDS, edits=[one, one]).logits, MODEL.run(IDS).logits, atol=1e-3, rtol=1e-3)


def test_ablating_leaves_nothing_along_the_directions_and_all_else() -> None:
    clean = MODEL.run(IDS, keep=("resid_post", 1))["resid_post", 1]
    for tokens in ([5], [5, 9, 11]):
        run = MODEL.run(IDS, edits=Ablate(LENS, tokens, layers=1), keep=("resid_post", 1))["resid_post", 1]
        v = vectors(1, *tokens)
        assert float((run[:, 1:] @ v.T).abs().max()) < 1e-3
        q, _ = torch.linalg.qr(v.T)
        torch.testing.assert_close((clean - clean @ q @ q.T)[:, 1:], run[:, 1:], atol=1e-4, rtol=1e-4)
        assert torch.equal(run[:, 0], clean[:, 0])
    assert Ablate(LENS, 5, layers=1) == Ablate(LENS, [5], layers=1)


EDITS = [
    Steer(LENS, 5, layers=LAYERS, scale="unit"),
    Steer(LENS, [5, 9], layers=1, strength=-2, scale="raw", pos=-1),
    Swap(LENS, 5, 9, layers=LAYERS),
    Swap(LENS, 5, [9, 11], layers=[0, 2], pos=[2, 4], strength=2, folded=False),
    Swap(LENS, 5, 9, clamped=False, rows=[0]),
    Ablate(LENS, [5, 9], layers=LAYERS, centred=False),
]


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_a_trace_goes_on_with_what_a_run_has(edit: Along) -> None:
    run = MODEL.run(IDS, edits=edit, keep="resid_post")
    with MODEL.trace(IDS, edits=edit) as t:
        held = [t["resid_post", layer].clone() for layer in range(4)]
    assert torch.equal(torch.stack(held), run["resid_post"])
    assert torch.equal(t.logits, run.logits)
    assert not torch.equal(run.logits, MODEL.run(IDS).logits)


@pytest.mark.parametrize("edit", EDITS, ids=repr)
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_padded_batch_are_as_if_alone(edit: Along, side: Any) -> None:
    rows = [IDS[0].tolist(), IDS[1, :5].tolist()]
    batch = MODEL.run(rows, edits=edit, padding_side=side)
    assert batch.mask is not None
    for row, ids in enumerate(rows):
        if edit.rows is not None and row not in edit.rows:  # pyright: ignore[reportOperatorIssue]
            continue
        alone = MODEL.run([ids], edits=edit).logits[0]
        torch.testing.assert_close(batch.logits[row, batch.mask[row].bool()], alone, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("edit", [EDITS[0], EDITS[2], EDITS[5]], ids=repr)
def test_each_step_of_a_generation_equals_a_run_of_the_text_so_far(edit: Along, cache: bool) -> None:
    """So a clamped swap sees, at a new token, what the text so far holds there without it."""
    prompts = [IDS[0].tolist(), IDS[1, :4].tolist()]
    made = MODEL.generate(prompts, 4, edits=edit, use_cache=cache, keep="logits")
    for row, prompt in enumerate(prompts):
        text = made.tokens[row, -len(prompt) - 4 :].tolist()
        for step in range(4):
            alone = MODEL.run(text[: len(prompt) + step], edits=edit).logits[0, -1]
            torch.testing.assert_close(made.steps[step].logits[row, -1], alone, atol=1e-3, rtol=1e-3)
            assert int(alone.argmax()) == text[len(prompt) + step]


def test_a_swap_may_be_kept_to_the_prompt_or_to_later_steps() -> None:
    plain = MODEL.generate(IDS[:1], 4, keep="resid_post")
    for steps in (0, slice(2, None)):
        made = MODEL.generate(IDS[:1], 4, edits=Swap(LENS, 5, 9, layers=1, strength=9, steps=steps), keep="resid_post")
        acted = [n for n in range(4) if (steps == 0) == (n == 0) and (steps == 0 or n >= 2)]
        v = torch.linalg.pinv(vectors(1, 5, 9))
        for n in range(4):
            text = made.tokens[:, : 7 + n]
            clean = MODEL.run(text, keep=("resid_post", 1))["resid_post", 1][:, -made.steps[n].tokens.shape[1] :]
            moved = (made.steps[n]["resid_post", 1] - clean) @ v
            assert bool((moved[:, -1].abs() > 1e-3).any()) == (n in acted)
    assert plain.tokens.shape == (1, 11)


def test_several_texts_written_from_one_prompt_have_one_clean_run_each() -> None:
    torch.manual_seed(0)
    edit = Swap(LENS, 5, 9, layers=LAYERS)
    made = MODEL.generate(IDS[:1], 3, edits=edit, do_sample=True, num_return_sequences=3, keep="logits")
    for row in range(3):
        for step in range(3):
            alone = MODEL.run(made.tokens[row, : 7 + step], edits=edit).logits[0, -1]
            torch.testing.assert_close(made.steps[step].logits[row, -1], alone, atol=1e-3, rtol=1e-3)


def test_a_traced_generation_writes_what_a_plain_one_does() -> None:
    edit = Swap(LENS, 5, 9, layers=LAYERS)
    with MODEL.trace(IDS[:1], edits=edit, generate=4) as t:
        seen = [t["resid_post", 2].shape[1] for _ in t.steps]
    assert seen == [7, 1, 1, 1]
    assert torch.equal(t.generated.tokens, MODEL.generate(IDS[:1], 4, edits=edit).tokens)


def test_edits_that_stay_act_too_and_the_clean_run_is_without_them() -> None:
    edit = Swap(LENS, 5, 9, layers=LAYERS)
    expected = MODEL.run(IDS, edits=edit).logits
    with MODEL.edit(edit):
        assert torch.equal(MODEL.run(IDS).logits, expected)
        assert torch.equal(MODEL.run([*IDS[0].tolist()]).logits, MODEL.run(IDS[:1]).logits)
    assert not torch.equal(MODEL.run(IDS).logits, expected)
    pushed = MODEL.run(IDS, edits=[lk.Add("resid_post", 3.0, layers=0), edit], keep="resid_post")
    clean = MODEL.run(IDS, keep="resid_post")
    inverse = torch.linalg.pinv(vectors(1, 5, 9))
    after, before = (each["resid_post", 1][:, 1:] @ inverse for each in (pushed, clean))
    torch.testing.assert_close(after, before.flip(-1), atol=1e-3, rtol=1e-3)


def test_a_run_that_begins_in_the_middle_has_a_clean_run_that_does() -> None:
    edit = Swap(LENS, 5, 9, layers=2)
    resid = MODEL.run(IDS, keep=("resid_pre", 1))["resid_pre", 1] + 1
    run = MODEL.run(IDS, edits=edit, start_at=1, resid=resid, keep=("resid_post", 2))
    clean = MODEL.run(IDS, start_at=1, resid=resid, keep=("resid_post", 2))
    inverse = torch.linalg.pinv(vectors(2, 5, 9))
    after, before = (each["resid_post", 2][:, 1:] @ inverse for each in (run, clean))
    torch.testing.assert_close(after, before.flip(-1), atol=1e-3, rtol=1e-3)


def test_gradients_flow_through_a_swap_but_not_into_the_clean_run() -> None:
    run = MODEL.run(
        IDS, edits=Swap(LENS, 5, 9, layers=2), keep=("resid_post", 1), grads=lambda run: run.logits[0, -1, 7]
    )
    # What lies along the two words in layer 2 is clamped, so moving it there changes nothing.
    assert bool(run.grad["resid_post", 1].isfinite().all())
    assert float(run.grad["resid_post", 1].abs().max()) > 0
    last = MODEL.run(IDS, edits=Swap(LENS, 5, 9, layers=2), keep=("mlp_out", 2), grads=lambda run: run.logits[0, -1, 7])
    along = last.grad["mlp_out", 2][:, 1:] @ vectors(2, 5, 9).T
    assert float(along.abs().max()) < 1e-4


def test_nothing_is_left_behind_even_when_the_forward_fails() -> None:
    before = MODEL.run(IDS).logits
    edit = Swap(LENS, 5, 9, layers=LAYERS)

    def fails(_: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        MODEL.run(IDS, edits=[edit, lk.Call("resid_post", fails, layers=3)])
    trace = MODEL.trace(IDS, edits=edit).start()
    _ = trace["resid_post", 1]
    trace.stop()
    assert torch.equal(MODEL.run(IDS).logits, before)
    assert not any("forward" in module.__dict__ for module in MODEL.hf_model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in MODEL.hf_model.modules())


def test_a_placebo_has_the_same_lengths_and_does_something_else() -> None:
    edit = Swap(LENS, 5, 9, layers=LAYERS, strength=2, clamped=False, rows=[1])
    placebo = edit.placebo(3)
    assert type(placebo) is Swap
    assert (placebo.strength, placebo.clamped, placebo.rows, placebo.layers) == (2, False, [1], range(1, 3))
    for layer in LAYERS:
        ours, theirs = edit.directions[layer], placebo.directions[layer]
        torch.testing.assert_close(theirs @ theirs.T, ours @ ours.T, atol=1e-4, rtol=1e-4)
    assert placebo == edit.placebo(3)
    assert placebo != edit.placebo(4)
    assert "turned at random (3)" in repr(placebo)


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_they_are_saved_with_their_directions_and_come_back_without_the_lens(edit: Along, tmp_path: Path) -> None:
    (again,) = load_edits(save_edits(edit, tmp_path / "edits.json"))
    assert again == edit
    assert repr(again) == repr(edit)
    assert torch.equal(MODEL.run(IDS, edits=again).logits, MODEL.run(IDS, edits=edit).logits)


def test_every_position_is_saved_as_every_position(tmp_path: Path) -> None:
    edit = Steer(LENS, 5, layers=1, scale="unit", pos=None)
    (again,) = load_edits(save_edits(edit, tmp_path / "edits.json"))
    assert again == edit
    clean = MODEL.run(IDS, keep=("resid_post", 1))["resid_post", 1]
    moved = MODEL.run(IDS, edits=again, keep=("resid_post", 1))["resid_post", 1]
    assert bool(((moved - clean).norm(dim=-1) > 0.9).all())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda along: along.pop("lens"), "directions have layers, concepts, tokens, lens, scale, folded, centred"),
        (lambda along: along.update(lens=3), "lens: 3 is of the wrong type"),
        (lambda along: along.update(layers={"x": along["layers"]["1"]}), "layers whole numbers"),
        (lambda along: along.update(tokens=[["a"]]), "for each concept the ids of its tokens"),
        (lambda along: along.update(concepts=["a"]), "for each concept the ids of its tokens"),
        (lambda along: along.update(concepts=[1, 2]), "concepts are texts"),
        (lambda along: along["layers"].update({"2": {"tensor": "no"}}), "names no tensor that was saved"),
        (lambda along: along.update(layers={}), "in at least one layer"),
    ],
)
def test_a_file_that_says_anything_else_of_directions_is_refused(change: Any, error: str, tmp_path: Path) -> None:
    path = save_edits(Swap(LENS, 5, 9, layers=1), tmp_path / "edits.json")
    read = json.loads(path.read_text())
    change(read["edits"][0]["along"])
    path.write_text(json.dumps(read))
    with pytest.raises(ValueError, match=error):
        load_edits(path)


def test_nearly_parallel_words_are_warned_of_and_the_same_are_refused() -> None:
    v = torch.randn(32, generator=torch.Generator().manual_seed(1))
    other = torch.randn(32, generator=torch.Generator().manual_seed(2))

    def two(share: float) -> lk.Edit:
        made = lens_directions(LENS, [5, 9], 1)
        made.vectors[1].copy_(torch.stack([v, v + share * other]))
        return Swap(made)

    with pytest.warns(UserWarning, match="are nearly one in layer 1 .* mostly noise"):
        two(0.1)
    with pytest.raises(ValueError, match="no coordinates along them can be told apart"):
        two(0.01)
    with pytest.raises(ValueError, match="can be told apart"):
        Swap(LENS, 5, 5)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a lens or its directions, and 5 is neither"):
        Steer(5, 9)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Swap acts along two concepts, and these are 1"):
        Swap(LENS, 5)
    with pytest.raises(ValueError, match="Steer acts along one concept, and these are 2"):
        Steer(LENS.directions([5, 9]))
    with pytest.raises(TypeError, match="are directions already: name no words"):
        Steer(LENS.directions([5]), 9)
    with pytest.raises(ValueError, match="acts there, not at 'mlp_out'"):
        Steer(LENS, 5, site="mlp_out")
    with pytest.raises(KeyError, match="not of 2"):
        Steer(LENS.directions([5], layers=1), layers=2)
    with pytest.raises(lk.NothingEdited, match="chooses no position of a prompt of 1 tokens"):
        MODEL.run(IDS[:1, :1], edits=Steer(LENS, 5, layers=1))
    wide = lk.Model(tiny("llama", d_model=16))
    with pytest.raises(ValueError, match="directions of 32 numbers for activations of 16"):
        wide.run(IDS[:, :4] % 131, edits=Steer(LENS, 5, layers=1))


@given(st.integers(2, 6), st.integers(0, 1000), st.floats(-3, 3))
def test_swapping_moves_a_state_within_the_span_of_the_two_only(width: int, seed: int, strength: float) -> None:
    noise = torch.Generator().manual_seed(seed)
    v, h = (torch.randn(2, width, generator=noise) for _ in range(2))
    if float(torch.nn.functional.cosine_similarity(v[0], v[1], dim=0)) > 0.98:
        return
    made = lens_directions(LENS, [5, 9], 1)
    edit = Swap(type(made)({1: v}, made.concepts, made.tokens, "own", "raw", True, True), strength=strength)
    from lenskit.models.edits import At
    from lenskit.models.sites import Site

    new = edit.new(h[None], At(Site("resid_post", 1), True, 1, edit))[0]
    c = torch.linalg.lstsq(v.T.double(), h.T.double()).solution
    expected = h.double() + (strength * (c.flip(0) - c)).T @ v.double()
    torch.testing.assert_close(new.double(), expected, atol=1e-2, rtol=1e-3)
    off = torch.eye(width) - torch.linalg.pinv(v) @ v
    torch.testing.assert_close(new @ off, h @ off, atol=1e-2, rtol=1e-2)


def test_any_lens_with_directions_will_do() -> None:
    tuned = lk.TunedLens(MODEL)
    tuned.translators.weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.02)  # pyright: ignore
    for lens in (lk.LogitLens(MODEL), tuned, MatrixLens(MODEL, LENS.matrices)):
        run = MODEL.run(IDS, edits=Swap(lens, 5, 9, layers=[1, 2]))
        assert not torch.equal(run.logits, MODEL.run(IDS).logits)
