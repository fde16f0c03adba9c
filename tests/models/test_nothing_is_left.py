"""Whatever is done to a model, and however it ends: no hook, no changed weight, no memory is left behind.

LENSKIT_ALL_RUNS=1 does all ten thousand random runs; otherwise there are some hundreds.
"""

import gc
import hashlib
import os
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor

import lenskit as lk
from lenskit.models.finding.order import SitePassed
from lenskit.models.sites import HEADED, SINGLE, Site
from tests.models.test_trace_moods import mood
from tests.models.tiny import tiny
from tests.models.traced import nothing_left

ALL = bool(os.environ.get("LENSKIT_ALL_RUNS"))
FAMILIES = ["llama", "gpt2", "phi", "granite", "falcon", "bloom"]
LENGTH, IDS = 5, torch.tensor([[5, 17, 99, 3, 8], [2, 4, 6, 8, 10]])
PROMPTS: list[Any] = [IDS, IDS[:1], [[5, 17, 99], [7]], [[3]]]


class Injected(Exception):
    """A failure of the user's own code."""


FAILURES = [Injected, KeyboardInterrupt, torch.OutOfMemoryError, SystemExit]
EXPECTED = (*FAILURES, lk.NothingEdited, lk.SiteUnavailable, SitePassed, ValueError)
"""What a random run may raise: what was injected, and a refusal."""


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family, layers=2))


@cache
def plain(family: str) -> tuple[Tensor, str]:
    _ = model(family).sites
    return logits(family), fingerprint(family)


def logits(family: str) -> Tensor:
    with torch.no_grad():
        return model(family).hf_model(input_ids=IDS).logits


def fingerprint(family: str) -> str:
    digest = hashlib.blake2b()
    for name, value in model(family).hf_model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def check(family: str) -> None:
    """As if nothing had ever happened."""
    before, hashed = plain(family)
    assert nothing_left(model(family))
    assert model(family).edits == ()
    assert fingerprint(family) == hashed
    assert all(parameter.grad is None for parameter in model(family).hf_model.parameters())
    assert torch.equal(logits(family), before)


# What is drawn


def failing(error: type[BaseException]) -> Callable[[Tensor], Tensor]:
    def fn(_: Tensor) -> Tensor:
        raise error("injected")

    return fn


@st.composite
def some_sites(draw: st.DrawFn, family: str, most: int) -> list[Site]:
    names = [*model(family).sites]
    chosen = draw(st.lists(st.tuples(st.sampled_from(names), st.integers(0, 1), st.integers(0, 3)), max_size=most))
    return [
        Site(name) if name in SINGLE else Site(name, layer, head if name in HEADED and head < 2 else None)
        for name, layer, head in chosen
    ]


@st.composite
def an_edit(draw: st.DrawFn, family: str, generating: bool, rows: int, fail: bool = False) -> lk.Edit:
    name = draw(st.sampled_from([*model(family).sites]))
    # Most of them act; some choose what is not there.
    where: dict[str, Any] = {
        "pos": draw(st.sampled_from([None, None, None, 0, -1, slice(1, None) if rows == 1 else slice(0, None), 6])),
        "rows": draw(st.sampled_from([None, None, None, 0, rows - 1, 1])),
        "steps": draw(st.sampled_from([None, None, 0, 1, slice(1, None)] if generating else [None])),
    }
    if name not in SINGLE:
        where["layers"] = draw(st.sampled_from([None, 0, 1, [0, 1]]))
    if name in HEADED:
        where["heads"] = draw(st.sampled_from([None, 0, 0, [0, 1]]))
    if fail:
        return lk.Call(name, failing(draw(st.sampled_from(FAILURES))), **where)
    kind = draw(st.sampled_from(["Zero", "Scale", "Set", "Add", "Call", "Mean", "Resample"][: 5 if rows == 1 else 7]))
    if kind in ("Set", "Add"):
        return getattr(lk, kind)(name, 0.5, **where)
    if kind == "Scale":
        return lk.Scale(name, 1.5, **where)
    if kind == "Call":
        return lk.Call(name, lambda x: x.mul_(2), **where)
    return getattr(lk, kind)(name, **where)


@contextmanager
def broken(family: str, at: int | None, error: type[BaseException]) -> Iterator[None]:
    """The n-th module fails when it is called, as if memory had run out there, or Ctrl-C had been pressed."""

    def fail(*_: object) -> None:
        raise error("injected")

    modules = list(model(family).hf_model.modules())
    handle = None if at is None else modules[at % len(modules)].register_forward_hook(fail)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def look(data: st.DataObject, family: str, t: lk.Trace) -> None:
    """Read, write and fail in a trace."""
    for site in data.draw(some_sites(family, 4)):
        act = data.draw(st.sampled_from(["read", "read", "assign", "in place", "fail", "stop"]))
        try:
            h = t[site]
            if act == "assign":
                t[site] = h * 0.5
            elif act == "in place":
                h[:, :1] = 0.25
        except SitePassed:
            continue
        if act == "stop":
            t.stop()
            return
        if act == "fail":
            raise data.draw(st.sampled_from(FAILURES))("injected")


def one_run(data: st.DataObject, family: str) -> None:
    kind = data.draw(
        st.sampled_from(["run", "run", "stop at", "grads", "trace", "trace", "across", "generate", "steps"])
    )
    prompt = data.draw(st.sampled_from(PROMPTS))
    how = data.draw(st.sampled_from(["well", "well", "call", "hook"]))
    edit = partial(an_edit, family, kind in ("generate", "steps"), len(prompt))
    edits = data.draw(st.lists(edit(), max_size=2))
    if how == "call":
        edits.append(data.draw(edit(fail=True)))
    at = data.draw(st.integers(0, 40)) if how == "hook" else None
    of, keep = model(family), data.draw(some_sites(family, 3))
    with broken(family, at, data.draw(st.sampled_from(FAILURES))):
        if kind == "run":
            of.run(prompt, keep=keep, edits=edits)
        elif kind == "stop at":
            of.run(
                prompt, keep=keep, edits=edits, stop_at=data.draw(st.sampled_from([("z", 0), ("pattern", 1), "embed"]))
            )
        elif kind == "grads":
            of.run(prompt, keep=["resid_post", *keep], edits=edits, grads=lambda run: run.logits.sum())
        elif kind == "generate":
            of.generate(prompt, 3, keep=keep, edits=edits)
        elif kind == "steps":
            with of.trace(prompt, generate=3, edits=edits) as t:
                for _ in t.steps:
                    look(data, family, t)
        elif kind == "trace":
            with of.edit(*edits), of.trace(prompt, grads=data.draw(st.booleans())) as t:
                look(data, family, t)
        else:  # started, and never finished
            look(data, family, of.trace(prompt, edits=edits).start())


@settings(
    max_examples=10_000 if ALL else 400,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(st.data(), st.sampled_from(FAMILIES), st.integers(0, 2**16))
def test_after_any_run_however_it_ends_the_model_is_as_it_was(data: st.DataObject, family: str, seed: int) -> None:
    plain(family)
    torch.manual_seed(seed)
    before = mood()
    try:
        one_run(data, family)
        event("went well")
    except EXPECTED as error:
        event(type(error).__name__)
    gc.collect(0)  # a traceback may have held the last of a trace
    assert mood() == before
    check(family)


# Memory


def run() -> None:
    model("llama").run(IDS, keep=["resid_post", "pattern"], edits=lk.Scale("z", 0.5, layers=1))


def trace() -> None:
    with model("llama").trace(IDS) as t:
        t["pattern", 0] *= 0.5
        _ = t["resid_post", 1]


def generate() -> None:
    model("llama").generate(IDS, 2, keep="resid_post", edits=lk.Zero("z", layers=0, steps=1))


def failed_run() -> None:
    with pytest.raises(Injected):
        model("llama").run(IDS, keep="resid_post", edits=lk.Call("mlp_out", failing(Injected), layers=1))


def failed_trace() -> None:
    with pytest.raises(Injected), model("bloom").trace(IDS) as t:  # noqa: PT012 -- the block is what fails
        _ = t["scores", 1]
        raise Injected


def stopped_trace() -> None:
    with model("llama").trace(IDS, grads=True) as t:
        _ = t["pattern", 1]
        t.stop()


def dropped_trace() -> None:
    t = model("llama").trace(IDS, generate=3).start()
    _ = t["pattern", 1]


def tensors() -> int:
    return sum(isinstance(each, Tensor) for each in gc.get_objects())


@pytest.mark.parametrize("act", [run, trace, generate, failed_run, failed_trace, stopped_trace, dropped_trace])
def test_memory_does_not_grow(act: Callable[[], None]) -> None:
    """More runs take no more memory: neither at the end nor at the most.

    A leak grows every time, so it is the least growth that counts: once, some table of Python's own may double. (And
    its free lists come under tracemalloc little by little, some bytes a run, with a plain forward as well.)
    """
    n = 500 if ALL else 30
    ends, peaks, counts = list[int](), list[int](), list[int]()
    tracemalloc.start()
    try:
        for times in (30, n, n, n, n):  # the first ones fill caches
            tracemalloc.reset_peak()
            for _ in range(times):
                act()
            gc.collect()
            end, peak = tracemalloc.get_traced_memory()
            ends.append(end)
            peaks.append(peak)
            counts.append(tensors())
    finally:
        tracemalloc.stop()
    assert len(set(counts[1:])) == 1
    assert min(b - a for a, b in pairwise(ends[1:])) < 16_000 + 64 * n
    assert min(b - a for a, b in pairwise(peaks[1:])) < 50_000 + 64 * n


@pytest.mark.parametrize("generate", [None, 2])
def test_a_finished_trace_is_freed_at_once_with_all_it_holds(generate: int | None) -> None:
    """Without waiting for the garbage collector: on a large model it would hold gigabytes until then."""
    gc.collect()
    gc.disable()
    try:
        with model("llama").trace(IDS, generate=generate) as t:
            _ = t["pattern", 1]
            _ = t["resid_post", 1]
        watch = [weakref.ref(t), weakref.ref(t._forward), weakref.ref(t.logits)]
        del t
        assert [each() for each in watch] == [None] * 3
    finally:
        gc.enable()
