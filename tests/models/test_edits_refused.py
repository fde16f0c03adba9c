"""An edit that matches nothing, or that does not fit, is refused."""

from collections.abc import Callable

import pytest
import torch

import lenskit as lk
from tests.models.edited_by_hand import (
    model,
    random,
    tokens,
)
from tests.models.tiny import tiny


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lk.Zero("attn_out", layers=3), "layer 3 does not exist: there are 3, 0 to 2"),
        (lk.Zero("attn_out", layers=[]), "chooses nothing"),
        (lk.Zero("attn_out", layers=slice(5, None)), "chooses nothing"),
        (lk.Zero("z", layers=1, heads=4), "head 4 does not exist: there are 4"),
        (lk.Zero("k", layers=1, heads=2), "head 2 does not exist: there are 2"),
        (lk.Zero("attn_out", heads=0), "'attn_out' has no heads to choose from"),
        (lk.Zero("attn_out", rows=3), "row 3 does not exist: there are 3"),
        (lk.Zero("attn_out", rows=slice(3, 9)), "chooses nothing"),
        (lk.Zero("attn_out", pos=6), "pos 6 does not exist: there are 6"),
        (lk.Zero("attn_out", pos=-7), "pos -7 does not exist"),
        (lk.Zero("attn_out", pos=slice(6, None)), "chooses no position of a prompt of 6 tokens"),
        (lk.Zero("attn_out", steps=1), "a run has step 0 only"),
        (lk.Zero("attn_out", steps=slice(1, None)), "a run has step 0 only"),
        (lk.Mean("attn_out", rows=0), "takes the mean over one row only"),
        (lk.Mean("attn_out", over="pos", pos=0), "takes the mean over one place only"),
        (lk.Mean("attn_out", over="both", pos=0, rows=1), "takes the mean over one place only"),
        (lk.Resample("attn_out", rows=0), "needs at least two rows"),
        (lk.Zero("embed", layers=0), "exists once in a model, so it has no layers"),
    ],
)
def test_an_edit_that_matches_nothing_raises(edit: lk.Edit, error: str) -> None:
    with pytest.raises(lk.NothingEdited, match=error):
        model("llama").run(tokens(), edits=edit)


def test_an_edit_at_a_module_that_is_never_called_raises() -> None:
    hf = tiny("llama")
    hf.add_module("unused", torch.nn.Linear(2, 2))
    with pytest.raises(lk.NothingEdited, match="changed nothing at unused: the forward did not come by there"):
        lk.Model(hf).run(tokens(), edits=lk.Zero("unused"))


@pytest.mark.parametrize(
    ("edit", "kind", "error"),
    [
        (lambda: lk.Set("resid_pre", random(31), layers=1), ValueError, r"shape \(31,\) does not fit .*\(3, 6, 32\)"),
        (lambda: lk.Add("resid_pre", random(4, 6, 32), layers=1), ValueError, "does not fit"),
        (lambda: lk.Project("resid_pre", random(31), layers=1), ValueError, "31 numbers for activations of 32"),
        (lambda: lk.Project("resid_pre", torch.zeros(32)), ValueError, "and not zero"),
        (lambda: lk.Call("resid_pre", lambda x: x[:1], layers=1), ValueError, r"gave a tensor of shape \(1, 6, 32\)"),
        (lambda: lk.Call("resid_pre", lambda x: None, layers=1), TypeError, "returned NoneType"),  # pyright: ignore
        (lambda: lk.Call("resid_pre", 3), TypeError, "needs a function"),  # pyright: ignore
        (lambda: lk.Patch("resid_pre", random(3, 5, 32), layers=1), ValueError, "prompts of different length"),
        (
            lambda: lk.Patch("resid_pre", random(2, 6, 32), layers=1),
            ValueError,
            "the source has 2 rows, and this batch 3",
        ),
        (lambda: lk.Patch("resid_pre", random(3, 6, 32)), ValueError, "is the activation of one layer"),
        (lambda: lk.Patch("resid_pre", random(3, 3, 6, 32), layers=1), ValueError, r"\(batch, pos, ...\)"),
        (lambda: lk.Patch("resid_pre", {0: random(3, 6, 32)}), ValueError, "the source has nothing for layer 1"),
        (lambda: lk.Zero("attn_out", layers=[1, -2]), ValueError, "chooses 1 twice"),
        (lambda: lk.Zero("attn_out", pos=[0, -6]), ValueError, "chooses 0 twice"),
        (lambda: lk.Zero("attn_out", pos=1.5), TypeError, "chosen by an index"),  # pyright: ignore
        (lambda: lk.Zero("attn_out", rows="all"), TypeError, "chosen by an index"),  # pyright: ignore
        (lambda: lk.Zero("attn_out", layers=True), TypeError, "chosen by an index"),
        (lambda: lk.Zero("attn_out", steps=-1), ValueError, "count from 0 upwards"),
        (lambda: lk.Zero("z.1", layers=1), TypeError, "says which layer, and so does layers="),
        (lambda: lk.Mean("z", over="heads"), ValueError, "over must be"),  # pyright: ignore
        (lambda: lk.Set("model.embed_tokens.input", 0.5), ValueError, "holds whole numbers"),
        (lambda: lk.Scale("model.rotary_emb", 2.0, pos=1), ValueError, r"\(1, 6, 8\) and not \(batch, pos, ...\)"),
    ],
)
def test_what_does_not_fit_is_refused(edit: Callable[[], lk.Edit], kind: type[Exception], error: str) -> None:
    with pytest.raises(kind, match=error):
        model("llama").run(tokens(), edits=edit())
