"""Doors: listeners before a module's own forward, in order, and gone when the last of them has left."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from lenskit.models.running.doors import Door, listener_at
from lenskit.models.taps import Hooks
from tests.models.tiny import tiny


def times_ten(_: nn.Module, args: object, output: Tensor) -> Tensor:
    return output * 10


def module() -> nn.Linear:
    made = nn.Linear(2, 2, bias=False).requires_grad_(False)
    nn.init.eye_(made.weight)
    return made


def plus(amount: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor + amount


def times(amount: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor * amount


ONE = torch.ones(1, 2)


def test_those_who_came_first_are_told_first_on_the_way_in_and_on_the_way_out() -> None:
    linear, first, second = module(), Hooks(), Hooks()
    first.on_input(linear, plus(1))
    second.on_input(linear, times(10))
    first.on_output(linear, plus(1))
    second.on_output(linear, times(10))
    assert torch.equal(linear(ONE), ((ONE + 1) * 10 + 1) * 10)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_whoever_leaves_first_nothing_is_left_and_the_others_go_on(order: tuple[int, ...]) -> None:
    linear, all_hooks = module(), [Hooks(), Hooks(), Hooks()]
    for hooks in all_hooks:
        hooks.on_output(linear, plus(1))
    left = 3
    for which in order:
        assert torch.equal(linear(ONE), ONE + left)
        all_hooks[which].remove()
        all_hooks[which].remove()
        left -= 1
    assert "forward" not in linear.__dict__
    assert torch.equal(linear(ONE), ONE)


def test_what_stands_within_a_module_and_what_listens_at_it_may_go_in_any_order() -> None:
    linear, hooks = module(), Hooks()
    hooks.on_output(linear, plus(1))
    door = Door.of(linear)
    door.within = lambda tensor: door.own(tensor) * 2
    later = Hooks()
    later.on_output(linear, plus(5))
    assert torch.equal(linear(ONE), ONE * 2 + 1 + 5)
    hooks.remove()
    assert torch.equal(linear(ONE), ONE * 2 + 5)
    door.within = None
    door.taken_away_if_idle()
    assert torch.equal(linear(ONE), ONE + 5)
    later.remove()
    assert "forward" not in linear.__dict__


def test_a_forward_of_the_module_s_own_is_called_and_given_back() -> None:
    """accelerate gives a module one, which brings its weights."""
    linear = module()

    def forward(input: Tensor) -> Tensor:  # noqa: A002 -- torch's own name
        return nn.Linear.forward(linear, input) + 100

    linear.forward = forward
    hooks = Hooks(doors={})
    hooks.on_output(linear, plus(1))
    assert torch.equal(linear(ONE), ONE + 101)
    hooks.remove()
    assert linear.__dict__["forward"] is forward


def test_a_person_s_own_hooks_keep_their_place() -> None:
    """What they change on the way in is seen, and what comes out of the module is seen after them."""
    linear, seen = module(), list[Tensor]()
    linear.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    linear.register_forward_hook(times_ten)
    assert listener_at(linear, getcurrent()) is None
    hooks = Hooks()
    hooks.awake(linear)
    hooks.on_input(linear, seen.append)
    hooks.on_output(linear, seen.append)
    linear(ONE)
    assert [float(each[0, 0]) for each in seen] == [2, 20]
    hooks.remove()
    assert len(linear._forward_hooks) == len(linear._forward_pre_hooks) == 1
    assert "forward" not in linear.__dict__


def test_only_forwards_of_the_owner_are_heard() -> None:
    linear, hooks = module(), Hooks()
    hooks.on_output(linear, plus(1))
    other = greenlet(lambda: linear(ONE))
    assert torch.equal(other.switch(), ONE)
    assert torch.equal(linear(ONE), ONE + 1)
    hooks.remove()


def test_a_door_that_was_kept_is_used_again_unless_the_class_has_another_forward_by_then() -> None:
    linear, kept = module(), dict[nn.Module, Door]()
    for _ in range(2):
        hooks = Hooks(doors=kept)
        hooks.on_output(linear, plus(1))
        assert linear.__dict__["forward"] is kept[linear]
        hooks.remove()

    class Doubling(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's own name
            return super().forward(input) * 2

    linear.__class__ = Doubling
    hooks = Hooks(doors=kept)
    hooks.on_output(linear, plus(1))
    assert torch.equal(linear(ONE), ONE * 2 + 1)
    hooks.remove()


def test_a_door_has_the_signature_of_the_forward_behind_it() -> None:
    linear, hooks = module(), Hooks()
    before = inspect.signature(linear.forward)
    hooks.on_output(linear, plus(1))
    assert inspect.signature(linear.forward) == before
    hooks.remove()


def test_a_whole_model_of_transformers_has_a_door_like_any_module_and_looks_the_same_to_it() -> None:
    """It asks for the signature of its own forward while it generates."""
    model: Any = tiny("llama")
    ids = torch.tensor([[5, 7, 9]])
    alone, before = model.generate(ids, max_new_tokens=3, do_sample=False), inspect.signature(model.forward)
    seen, hooks = list[Tensor](), Hooks()
    hooks.awake(model)
    hooks.on_output(model.model, seen.append)
    assert isinstance(model.__dict__["forward"], Door)
    assert inspect.signature(model.forward) == before
    assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), alone)
    assert [tuple(each.shape[:2]) for each in seen] == [(1, 3), (1, 1), (1, 1)]
    hooks.remove()
    assert "forward" not in model.__dict__
    assert "forward" not in model.model.__dict__


def test_two_takers_at_one_point_are_refused() -> None:
    hooks, linear = Hooks(), module()
    hooks.on_output(linear, plus(1))
    with pytest.raises(ValueError, match="put them in order first"):
        hooks.on_output(linear, plus(2))
    hooks.remove()
