"""A forward in steps: it stands still before each block, and leaves no trace when it is given up."""

import gc
from collections.abc import Generator
from typing import TypeVar

import pytest
import torch

import lenskit as lk
from lenskit.models.steps import in_steps
from tests.models.test_model import hooks
from tests.models.tiny import tiny

T = TypeVar("T")

MODEL = lk.Model(tiny("llama"))
IDS = torch.tensor([[5, 17, 99, 3]])


def forward() -> torch.Tensor:
    return MODEL.run(IDS).logits


def finish(steps: Generator[None, None, T]) -> tuple[int, T]:
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as stop:
            return count, stop.value


def test_it_pauses_once_before_each_block_and_gives_the_same_result() -> None:
    count, logits = finish(in_steps(forward, MODEL.anatomy.blocks))
    assert count == MODEL.n_layers
    assert torch.equal(logits, forward())
    assert hooks(MODEL.hf_model) == 0


def test_a_user_s_own_call_while_a_forward_stands_still_is_bit_equal() -> None:
    plain = forward()
    steps = in_steps(forward, MODEL.anatomy.blocks)
    next(steps)
    assert torch.equal(forward(), plain)
    assert torch.equal(MODEL.run(IDS, keep="resid_post").logits, plain)
    _, logits = finish(steps)
    assert torch.equal(logits, plain)


def test_two_forwards_may_stand_still_side_by_side() -> None:
    other = torch.tensor([[9, 8, 7]])
    a = in_steps(forward, MODEL.anatomy.blocks)
    b = in_steps(lambda: MODEL.run(other).logits, MODEL.anatomy.blocks)
    for steps in (a, b, a, b):
        next(steps)
    assert torch.equal(finish(b)[1], MODEL.run(other).logits)
    assert torch.equal(finish(a)[1], forward())


@pytest.mark.parametrize("after", [0, 1, 3])
def test_closing_it_unwinds_the_forward_and_takes_the_hooks_off(after: int) -> None:
    steps = in_steps(forward, MODEL.anatomy.blocks)
    for _ in range(after):
        next(steps)
    steps.close()
    assert hooks(MODEL.hf_model) == 0
    assert torch.is_grad_enabled()


def test_dropping_it_unwinds_it_too() -> None:
    steps = in_steps(forward, MODEL.anatomy.blocks)
    next(steps)
    assert hooks(MODEL.hf_model) > 0
    del steps
    gc.collect()
    assert hooks(MODEL.hf_model) == 0


@pytest.mark.parametrize("user", [True, False])
def test_gradients_are_as_the_caller_left_them_between_the_steps(user: bool) -> None:
    with torch.set_grad_enabled(user):
        steps = in_steps(forward, MODEL.anatomy.blocks)
        for _ in steps:
            assert torch.is_grad_enabled() is user
    assert not finish(in_steps(forward, MODEL.anatomy.blocks))[1].requires_grad


def test_an_exception_of_the_model_reaches_the_caller() -> None:
    failing = lk.Model(tiny("llama"))

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    failing.anatomy.blocks[1].register_forward_hook(fail)
    steps = in_steps(lambda: failing.run(IDS), failing.anatomy.blocks)
    with pytest.raises(RuntimeError, match="no memory"):
        finish(steps)
    assert hooks(failing.hf_model) == 1  # the user's own
