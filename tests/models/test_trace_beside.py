"""A trace beside others, under a user's hooks, failing, and in another thread."""

import gc
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import lenskit as lk
from tests.models.traced import FAMILIES, hooks, ids, model, nothing_left

OTHER = ids(seed=3)


# Beside others


@pytest.mark.parametrize("other", ["the same model", "another"])
def test_traces_side_by_side_do_not_see_each_other(other: str) -> None:
    a_model, b_model = model(), model() if other == "the same model" else model("gpt2")
    a_run, b_run = (
        a_model.run(ids(), keep=["resid_post", "pattern"]),
        b_model.run(OTHER, keep=["resid_post", "pattern"]),
    )
    with a_model.trace(ids()) as a, b_model.trace(OTHER) as b:
        for layer in range(3):
            for name in ("pattern", "resid_post"):
                assert torch.equal(a[name, layer], a_run[name, layer])
                assert torch.equal(b[name, layer], b_run[name, layer])
    assert torch.equal(a.logits, a_run.logits)
    assert torch.equal(b.logits, b_run.logits)


def test_traces_end_in_any_order_and_may_stand_within_each_other() -> None:
    a = model().trace(ids()).start()
    _ = a["q", 1]
    with model().trace(OTHER) as b:
        _ = b["q", 1]
        a["resid_post", 1] = b["resid_mid", 1]
        with model().trace(ids(seed=5)) as c:
            c["z", 0] = 0
            b["resid_post", 1] *= 2
        assert torch.equal(c.logits, model().run(ids(seed=5), edits=lk.Zero("z", layers=0)).logits)
        a.finish()
    middle = model().run(OTHER, keep="resid_mid")["resid_mid", 1]
    assert torch.equal(a.logits, model().run(ids(), edits=lk.Set("resid_post", middle, layers=1)).logits)
    assert torch.equal(b.logits, model().run(OTHER, edits=lk.Scale("resid_post", 2.0, layers=1)).logits)
    assert nothing_left(model())


@pytest.mark.parametrize("site", [("resid_post", 0), ("attn_in", 1), ("scores", 1), ("logits",)])
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_what_the_user_calls_while_it_stands_is_untouched(family: str, site: tuple[Any, ...]) -> None:
    wrapped, plain = model(family), model(family).run(ids()).logits
    with wrapped.trace(ids()) as t:
        t[site if len(site) > 1 else "logits"] = 0
        with torch.no_grad():
            assert torch.equal(wrapped.hf_model(input_ids=ids()).logits, plain)
        assert torch.equal(wrapped.run(ids(), keep=["pattern", "resid_post"]).logits, plain)
        assert wrapped.generate(OTHER, 2).tokens.shape == (2, 8)
        assert wrapped.trace(ids()).logits.equal(plain)
    assert nothing_left(wrapped)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_user_s_hooks_are_called_as_often_as_in_a_plain_forward(family: str) -> None:
    wrapped, calls = model(family), list[int]()
    _ = wrapped.sites  # the model is examined once, by a few forwards
    handles = [
        m.register_forward_hook(lambda *_, n=n: calls.append(n)) for n, m in enumerate(wrapped.hf_model.modules())
    ]
    handles += [
        m.register_forward_pre_hook(lambda *_, n=n: calls.append(-n)) for n, m in enumerate(wrapped.hf_model.modules())
    ]
    before = hooks(wrapped.hf_model)
    try:
        wrapped.hf_model(input_ids=ids())
        plain = calls.copy()
        calls.clear()
        with wrapped.trace(ids()) as t:
            _ = t["q", 1]
            t["resid_post", 1] *= 2
            _ = t["pattern", 2]
        assert calls == plain
        assert hooks(wrapped.hf_model) == before
    finally:
        for handle in handles:
            handle.remove()


def test_a_user_s_hook_may_trace_and_run_a_model_itself() -> None:
    seen, plain = list[Tensor](), model().run(OTHER, keep="resid_post")

    def hook(*_: object) -> None:
        handle.remove()
        with model().trace(OTHER) as inner:
            seen.append(inner["resid_post", 1])
        seen.append(inner.logits)

    handle = model().anatomy.blocks[0].register_forward_hook(hook)
    with model().trace(ids()) as t:
        _ = t["resid_post", 1]
    assert torch.equal(seen[0], plain["resid_post", 1])
    assert torch.equal(seen[1], plain.logits)
    assert torch.equal(t.logits, model().run(ids()).logits)


def _doubled(module: object, args: object, out: Tensor) -> Tensor:
    return out * 2


def test_a_user_s_hook_changes_what_is_seen() -> None:
    handle = model().anatomy.blocks[1].register_forward_hook(_doubled)
    try:
        with model().trace(ids()) as t:
            seen = t["resid_post", 1].clone()
        assert torch.equal(seen, model().run(ids(), keep="resid_post")["resid_post", 1])
    finally:
        handle.remove()
    assert torch.equal(seen, 2 * model().run(ids(), keep="resid_post")["resid_post", 1])


# Failing


def test_an_exception_in_the_block_unwinds_the_forward_and_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), model().trace(ids()) as t:  # noqa: PT012 -- the block is what fails
        _ = t["pattern", 1]
        _ = 1 / 0
    assert nothing_left(model())
    assert repr(t) == "Trace(2 x 6 tokens, stopped, Llama)"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory"), SystemExit])
@pytest.mark.parametrize("site", [("resid_post", 0), ("pattern", 1)])
def test_an_error_or_an_interrupt_in_the_forward_reaches_the_user(error: Any, site: tuple[str, int]) -> None:
    def fail(*_: object) -> None:
        raise error

    handle = model().anatomy.blocks[2].register_forward_hook(fail)
    kind = error if isinstance(error, type) else type(error)
    try:
        t = model().trace(ids()).start()
        _ = t[site]
        with pytest.raises(kind):
            _ = t["logits"]
        with pytest.raises(ValueError, match="has no logits: it is ended by an error"):
            _ = t.logits
        with pytest.raises(kind), model().trace(ids()):
            pass
    finally:
        handle.remove()
    assert nothing_left(model())
    assert torch.is_grad_enabled()


def test_the_traceback_points_at_the_line_that_asked_and_at_the_assignment_that_broke_it() -> None:
    with pytest.raises(IndexError) as caught, model().trace(ids()) as t:  # noqa: PT012 -- the block is what fails
        t["model.embed_tokens.input"] = 10_000  # no such token
        _ = t["resid_post", 1]  # here it comes up
    shown = "".join(traceback.format_exception(caught.value))
    lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert '_ = t["resid_post", 1]  # here it comes up' in lines
    assert "This forward went on with what was assigned to model.embed_tokens.input" in shown
    assert 't["model.embed_tokens.input"] = 10_000  # no such token' in shown
    assert nothing_left(model())


def test_a_trace_in_another_thread_is_refused_and_goes_on_in_its_own() -> None:
    t, errors = model().trace(ids()).start(), list[BaseException]()
    _ = t["resid_post", 0]

    def elsewhere() -> None:
        for act in (lambda: t["resid_post", 1], t.finish, t.stop):
            try:
                act()
            except RuntimeError as error:
                errors.append(error)

    run_in_thread(elsewhere)
    assert len(errors) == 3
    assert all("started in another thread" in str(error) for error in errors)
    _ = t["resid_post", 1]
    assert torch.equal(t.finish().logits, model().run(ids()).logits)


def test_a_trace_may_be_made_and_used_in_any_thread() -> None:
    found = list[Tensor]()

    def elsewhere() -> None:
        with model().trace(ids()) as t:
            t["z", 1] = 0
        found.append(t.logits)

    run_in_thread(elsewhere)
    assert torch.equal(found[0], model().run(ids(), edits=lk.Zero("z", layers=1)).logits)


def test_one_that_is_dropped_in_another_thread_is_unwound_in_its_own() -> None:
    holder = [model().trace(ids()).start()]
    _ = holder[0]["pattern", 0]
    run_in_thread(holder.clear)
    gc.collect()
    assert torch.equal(model().run(ids()).logits, model("llama", 0).trace(ids()).logits)  # switches in this thread
    assert nothing_left(model())


def run_in_thread(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
