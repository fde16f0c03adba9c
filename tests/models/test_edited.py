"""Edits that stay on a model, and modules spliced into it."""

import pytest
import torch
from torch import Tensor

import lenskit as lk
from tests.models.edited_by_hand import close, edited, layer_of, model, random, tokens
from tests.models.tiny import tiny


def test_edits_that_stay_are_listed_and_taken_off_again() -> None:
    ids, mine = tokens(), lk.Model(tiny("llama"))
    plain = mine.run(ids).logits
    zero, add = lk.Zero("attn_out", layers=1), lk.Add("mlp_out", random(32), layers=2)
    on = mine.edit(zero)
    assert mine.edits == (zero,)
    once = mine.run(ids)
    assert once.provenance["edits"] == ["Zero('attn_out', layers=1)"]
    assert torch.equal(once.logits, edited(ids, zero))
    with mine.edit(add) as inner:
        assert mine.edits == (zero, add)
        assert torch.equal(mine.run(ids).logits, edited(ids, zero, add))
        assert "on" in repr(inner)
    assert mine.edits == (zero,)
    on.remove()
    on.remove()
    assert mine.edits == ()
    assert torch.equal(mine.run(ids).logits, plain)
    with torch.no_grad():
        assert torch.equal(mine.hf_model(input_ids=ids).logits, plain)


def test_equal_edits_are_taken_off_one_by_one() -> None:
    mine, edit = lk.Model(tiny("llama")), lk.Scale("attn_out", 2.0, layers=1)
    first, second = mine.edit(edit), mine.edit(edit)
    first.remove()
    assert mine.edits == (edit,)
    second.remove()
    assert mine.edits == ()


def test_an_edit_that_cannot_be_is_refused_when_put_on() -> None:
    mine = lk.Model(tiny("llama"))
    with pytest.raises(lk.NothingEdited, match="layer 7 does not exist"):
        mine.edit(lk.Zero("attn_out", layers=7))
    with pytest.raises(lk.SiteUnavailable):
        mine.edit(lk.Zero("attn_uot"))
    with pytest.raises(TypeError, match="is no edit"):
        mine.edit("attn_out")  # pyright: ignore[reportArgumentType]
    assert mine.edits == ()


def test_the_hugging_face_model_itself_is_never_edited() -> None:
    ids, mine = tokens(), lk.Model(tiny("llama"))
    with torch.no_grad():
        plain = mine.hf_model(input_ids=ids).logits
        with mine.edit(lk.Zero("attn_out")):
            assert torch.equal(mine.hf_model(input_ids=ids).logits, plain)


def test_an_exception_in_a_call_leaves_nothing_behind() -> None:
    ids, mine = tokens(), lk.Model(tiny("llama"))
    plain = mine.run(ids).logits

    def fail(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    for site in ("resid_mid", "k", "pattern", "logits"):
        with pytest.raises(KeyboardInterrupt):
            mine.run(ids, edits=lk.Call(site, fail, **layer_of(site)))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in mine.hf_model.modules())
        assert not any("forward" in m.__dict__ for m in mine.hf_model.modules())
        assert torch.equal(mine.run(ids).logits, plain)


def test_a_splice_puts_a_module_between_two_sites() -> None:
    ids, mlp = tokens(), model("llama").hf_model.model.layers[1].mlp
    plain = model("llama").run(ids, keep=["mlp_in", "mlp_out"])
    itself = model("llama").run(ids, edits=lk.Splice("mlp_in", "mlp_out", mlp, layers=1))
    assert torch.equal(itself.logits, plain.logits)
    half = lk.Splice("mlp_in", "mlp_out", lambda x: 0.5 * mlp(x), layers=1)
    close(model("llama").run(ids, edits=half).logits, edited(ids, lk.Scale("mlp_out", 0.5, layers=1)))
    error = {1: plain["mlp_out", 1] * 0.5}
    whole = lk.Splice("mlp_in", "mlp_out", lambda x: 0.5 * mlp(x), layers=1, error=error)
    close(model("llama").run(ids, edits=whole).logits, plain.logits)
    at_one = lk.Splice("mlp_in", "mlp_out", torch.zeros_like, layers=1, pos=2, rows=1)
    assert torch.equal(
        model("llama").run(ids, edits=at_one).logits, edited(ids, lk.Zero("mlp_out", layers=1, pos=2, rows=1))
    )
    same_site = lk.Splice("resid_post", "resid_post", lambda x: 2 * x)
    assert torch.equal(model("llama").run(ids, edits=same_site).logits, edited(ids, lk.Scale("resid_post", 2.0)))


def test_a_spliced_module_is_given_what_the_edits_before_it_have_made_and_a_copy_of_it() -> None:
    ids, given = tokens(), list[Tensor]()

    def fn(x: Tensor) -> Tensor:
        given.append(x.clone())
        return x.zero_()

    twice = lk.Scale("resid_mid", 2.0, layers=1)
    run = model("llama").run(
        ids,
        keep=[("resid_mid", 1), ("mlp_out", 1)],
        edits=[twice, lk.Splice("resid_mid", "mlp_out", fn, layers=1), lk.Add("resid_mid", 1.0, layers=1)],
    )
    plain = model("llama").run(ids, keep=("resid_mid", 1))["resid_mid", 1]
    assert torch.equal(given[0], plain * 2)
    assert torch.equal(run["resid_mid", 1], plain * 2 + 1)
    assert not run["mlp_out", 1].any()


def test_a_function_may_call_the_model_itself() -> None:
    """What it calls passes by no tap: neither is it edited, nor does it change what is kept."""
    ids, mine = tokens(), model("llama")
    block = mine.hf_model.model.layers[1].mlp
    plain = mine.run(ids, keep=["mlp_out", "final_norm"])
    seen = list[Tensor]()

    def fn(x: Tensor) -> Tensor:
        seen.extend([block(x), mine.unembed(x), mine.run(ids, keep="mlp_out")["mlp_out", 1]])
        return x * 1

    call = lk.Call("resid_mid", fn, layers=1)
    run = mine.run(ids, keep=["mlp_out", "final_norm"], edits=[call, lk.Scale("mlp_out", 1.0, layers=1)])
    assert torch.equal(run["mlp_out"], plain["mlp_out"])
    assert torch.equal(run["final_norm"], plain["final_norm"])
    assert torch.equal(seen[2], plain["mlp_out", 1])


def test_a_splice_that_cannot_be_is_refused() -> None:
    ids = tokens()
    with pytest.raises(ValueError, match="'mlp_out' comes after 'mlp_in', so it cannot be read for it"):
        model("llama").run(ids, edits=lk.Splice("mlp_out", "mlp_in", lambda x: x, layers=1))
    with pytest.raises(ValueError, match=r"gave a tensor of shape \(3, 6, 96\)"):
        model("llama").run(ids, edits=lk.Splice("mlp_post", "mlp_out", lambda x: x, layers=1))
    with pytest.raises(ValueError, match="error has nothing for layer 1"):
        model("llama").run(ids, edits=lk.Splice("mlp_in", "mlp_out", lambda x: x, layers=1, error={0: ids}))
    with pytest.raises(TypeError, match="say the layers of a Splice once"):
        lk.Splice("mlp_in", "mlp_out.1", lambda x: x)
