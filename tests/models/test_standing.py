"""A computation that stands still: what goes in and out, how it ends, and that each side keeps its own torch."""

import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenskit.models.running.standing import Standing
from tests.models.test_trace_moods import MOODS, mood

variable = contextvars.ContextVar("variable", default=0)


def standing(compute: Callable[[Standing], Any]) -> Standing:
    made = Standing(lambda: compute(made))
    return made


def test_values_go_in_and_out() -> None:
    it = standing(lambda s: s.pause("first") + s.pause("second"))
    assert not it.over
    assert it.resume() == "first"
    assert it.resume(1) == "second"
    assert it.resume(2) is None
    assert it.over
    assert it.result == 3


def test_what_it_raises_comes_out_of_resume() -> None:
    def compute(s: Standing) -> None:
        s.pause()
        raise KeyboardInterrupt

    it = standing(compute)
    it.resume()
    with pytest.raises(KeyboardInterrupt):
        it.resume()
    assert it.over


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_unwinding_closes_its_contexts_once(after: int) -> None:
    closed = list[str]()

    @contextmanager
    def context() -> Generator[None]:
        try:
            yield
        finally:
            closed.append("closed")

    def compute(s: Standing) -> None:
        with context():
            s.pause()
            s.pause()

    it = standing(compute)
    for _ in range(after):
        it.resume()
    it.unwind()
    it.unwind()
    assert closed == ([] if after == 0 else ["closed"])
    assert it.over is (after > 0)


def test_one_that_never_began_holds_nothing_once_it_is_unwound() -> None:
    class Thing:
        pass

    thing = Thing()
    watch = weakref.ref(thing)
    it = Standing(lambda thing=thing: thing)
    it.unwind()
    del thing
    gc.collect()
    assert watch() is None


def test_context_variables_are_each_side_s_own() -> None:
    def compute(s: Standing) -> int:
        variable.set(variable.get() + 1)
        s.pause()
        return variable.get()

    token = variable.set(5)
    it = standing(compute)
    it.resume()
    assert variable.get() == 5
    variable.set(9)
    it.resume()
    assert it.result == 6
    variable.reset(token)


def test_one_may_stand_within_another_and_an_exception_that_is_being_handled_stays_with_its_side() -> None:
    def inner(s: Standing) -> str:
        try:
            raise ValueError("inner")
        except ValueError as error:
            s.pause()
            return str(error)

    def outer(s: Standing) -> str:
        it = standing(inner)
        it.resume()
        s.pause()
        it.resume()
        return it.result

    it = standing(outer)
    it.resume()
    try:
        raise KeyError("mine")
    except KeyError:
        it.resume()
        with pytest.raises(KeyError, match="mine"):
            raise
    assert it.result == "inner"


def test_it_belongs_to_its_thread() -> None:
    it, errors = standing(lambda s: s.pause()), list[BaseException]()
    it.resume()

    def elsewhere() -> None:
        try:
            it.resume()
        except RuntimeError as error:
            errors.append(error)
        it.unwind()  # put off

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "another thread" in str(errors[0])
    assert not it.over
    standing(lambda s: None).resume()
    assert it.over


def test_the_stance_of_the_compiler_is_each_side_s_own() -> None:
    from torch._dynamo import eval_frame

    def stance() -> str:
        return eval_frame._stance.stance

    def compute(s: Standing) -> None:
        with torch.compiler.set_stance("force_eager"):
            s.pause()
            assert stance() == "force_eager"

    it = standing(compute)
    it.resume()
    assert stance() == "default"
    with torch.compiler.set_stance("fail_on_recompile"):
        it.resume()
        assert stance() == "fail_on_recompile"
    assert stance() == "default"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["in", "out"]), st.sampled_from([*MOODS, "leave", "switch"])), max_size=14))
def test_however_moods_are_entered_and_left_each_side_finds_its_own(acts: list[tuple[str, str]]) -> None:
    """Both sides enter and leave modes as they like; what each sees is what it would have seen alone."""

    def side(todo: list[str], switch: Callable[[], object], seen: list[Any]) -> None:
        stack = list[Any]()
        for what in todo:
            if what == "switch":
                switch()
            elif what == "leave":
                if stack:
                    stack.pop().__exit__(None, None, None)
            else:
                stack.append(MOODS[what]())
                stack[-1].__enter__()
            seen.append(mood()[:-1])
        while stack:
            stack.pop().__exit__(None, None, None)
        seen.append(mood()[:-1])

    ins, outs = ([what for where, what in acts if where == side_] for side_ in ("in", "out"))
    alone_in, alone_out, within, without = (list[Any]() for _ in range(4))
    side(ins, lambda: None, alone_in)
    side(outs, lambda: None, alone_out)
    it = standing(lambda s: side(ins, s.pause, within))
    side(outs, lambda: None if it.over else it.resume(), without)
    before = mood()
    while not it.over:
        it.resume()
        assert mood() == before
    assert within == alone_in
    assert without == alone_out


def test_the_next_computation_takes_over_the_greenlet_of_one_that_has_ended_and_nothing_else_of_it() -> None:
    first = standing(lambda s: (variable.set(3), s.pause(), variable.get()))
    theirs = first.greenlet
    first.resume()
    beside = standing(lambda s: s.pause("beside"))
    assert beside.greenlet is not theirs, "one that stands still is not to be had"
    first.resume()
    second = standing(lambda s: (s.pause("second"), variable.get()))
    assert second.greenlet is theirs
    assert first.greenlet is not theirs, "it is no longer the greenlet of what is over"
    assert second.resume() == "second"
    first.unwind()
    assert first.resume() is None
    assert beside.resume() == "beside"
    second.resume()
    assert second.result == (None, 0)
    beside.unwind()


@pytest.mark.parametrize("end", ["fails", "gives up"])
def test_a_greenlet_whose_computation_did_not_come_to_its_end_is_not_taken_over(end: str) -> None:
    def compute(s: Standing) -> None:
        s.pause()
        raise KeyError("inside")

    it = standing(compute)
    theirs = it.greenlet
    it.resume()
    if end == "fails":
        with pytest.raises(KeyError, match="inside"):
            it.resume()
    else:
        it.unwind()
    assert it.over
    assert theirs.dead
    assert standing(lambda s: None).greenlet is not theirs


def test_nothing_of_a_computation_is_held_once_it_is_over() -> None:
    anything: Any = variable

    class Thing:
        pass

    def compute(s: Standing) -> Thing:
        thing = Thing()
        anything.set(thing)
        watches.append(weakref.ref(thing))
        s.pause()
        return thing

    watches = list[weakref.ref[Thing]]()
    gc.disable()
    try:
        it = standing(compute)
        it.resume()
        it.resume()
        assert isinstance(it.result, Thing)
        it.result = None
        assert watches[0]() is None
    finally:
        gc.enable()


def test_each_thread_has_its_own_greenlets() -> None:
    def work() -> None:
        for number in range(6):
            it = standing(lambda s, number=number: s.pause(number) * 2)
            results.append(it.resume())
            it.resume(number)
            results.append(it.result)

    results = list[int]()
    work()
    expected = results.copy()
    for _ in range(3):
        results.clear()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        gc.collect()
        assert results == expected
    results.clear()
    work()
    assert results == expected == [each for number in range(6) for each in (number, number * 2)]
