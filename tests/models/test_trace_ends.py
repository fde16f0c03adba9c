"""What a trace does before the look, and the ways in which it ends: finished, stopped, across cells, dropped."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from tests.models.traced import ids, model, nothing_left

# Edits


@pytest.mark.parametrize("site", ["resid_post", "z", "pattern", "attn_out", "mlp_in"])
@pytest.mark.parametrize("staying", [False, True])
def test_edits_act_before_the_look(site: str, staying: bool) -> None:
    edit = lk.Scale(site, 0.5, layers=1)
    run = model().run(ids(), keep=site, edits=edit)
    on = model().edit(edit) if staying else None
    try:
        with model().trace(ids(), edits=[] if staying else edit) as t:
            assert torch.equal(t[site, 1], run[site, 1])
    finally:
        if on is not None:
            on.remove()
    assert torch.equal(t.logits, run.logits)


def test_edits_of_the_logits_act_before_the_look() -> None:
    with model().trace(ids(), edits=lk.Zero("logits")) as t:
        assert not t["logits"].any()
        t["logits"] = 3
    assert bool((t.logits == 3).all())


def test_an_edit_that_does_nothing_raises_at_the_end() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    t = lk.Model(Plain()).trace(torch.randn(2, 3), edits=lk.Zero("b"))
    with pytest.raises(lk.NothingEdited, match="changed nothing"):
        t.finish()
    with pytest.raises(lk.NothingEdited), model().trace(ids(), edits=lk.Zero("z", pos=17)):
        pass


# Ending


def counting(of: lk.Model) -> tuple[list[int], list[Any]]:
    calls = list[int]()
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: calls.append(layer))
        for layer, block in enumerate(of.anatomy.blocks)
    ]
    return calls, handles


def test_stopping_computes_nothing_after_and_leaves_nothing() -> None:
    calls, handles = counting(model())
    with model().trace(ids()) as t:
        _ = t["resid_post", 1]
        t.stop()
        with pytest.raises(ValueError, match="this trace is stopped: begin a new one"):
            _ = t["resid_post", 2]
        t.stop()
    assert calls == [0, 1]
    with pytest.raises(ValueError, match="this trace has no logits: it is stopped"):
        _ = t.logits
    assert repr(t) == "Trace(2 x 6 tokens, stopped, Llama)"
    for handle in handles:
        handle.remove()
    assert nothing_left(model())


def test_stopping_before_anything_computes_nothing_at_all() -> None:
    calls, handles = counting(model())
    with model().trace(ids()) as t:
        t.stop()
    with pytest.raises(ValueError, match="stopped"):
        _ = t.logits
    assert t.finish() is t
    for handle in handles:
        handle.remove()
    assert calls == []


def test_a_finished_trace_keeps_its_logits_and_nothing_else() -> None:
    with model().trace(ids()) as t:
        assert repr(t) == "Trace(2 x 6 tokens, not begun, Llama)"
    assert repr(t) == "Trace(2 x 6 tokens, finished, Llama)"
    with pytest.raises(ValueError, match="this trace is finished: begin a new one"):
        _ = t["resid_post", 2]
    with pytest.raises(ValueError, match="this trace is finished"), t:
        pass
    with pytest.raises(ValueError, match="generates nothing"):
        _ = t.generated
    with pytest.raises(ValueError, match="has one step"):
        next(iter(t.steps))


def test_asking_for_the_logits_in_the_block_runs_to_the_end() -> None:
    with model().trace(ids()) as t:
        t["resid_post", 1] = 0
        assert torch.equal(t.logits, model().run(ids(), edits=lk.Zero("resid_post", layers=1)).logits)


def test_it_is_usable_across_cells() -> None:
    t = model().trace(ids()).start()
    h = t["resid_post", 0]
    model().run(ids(seed=4))
    h += 1
    t["resid_post", 2] *= 2
    assert t.finish() is t
    want = model().run(ids(), edits=[lk.Add("resid_post", 1.0, layers=0), lk.Scale("resid_post", 2.0, layers=2)])
    assert torch.equal(t.logits, want.logits)
    assert nothing_left(model())


@pytest.mark.parametrize("site", [("resid_post", 1), ("pattern", 1), ("attn_in", 1)])
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_dropping_it_unwinds_it(family: str, site: tuple[str, int]) -> None:
    t = model(family).trace(ids()).start()
    _ = t[site]
    assert not nothing_left(model(family))
    del t
    gc.collect()
    assert nothing_left(model(family))
    t = model(family).trace(ids()).start()
    del t
    gc.collect()
    assert nothing_left(model(family))


def test_shapes_are_there_without_running() -> None:
    calls, handles = counting(model())
    with model().trace(ids()) as t:
        assert t.shapes["z", 1] == (2, 6, 4, 8)
        assert calls == []
        assert repr(t).startswith("Trace(2 x 6 tokens, not begun")
    for handle in handles:
        handle.remove()
