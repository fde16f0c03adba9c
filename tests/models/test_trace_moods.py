"""A trace under a user's modes and moods, which each side finds as it left them; and gradients."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import lenskit as lk
from tests.models.traced import ids, model, nothing_left

# Moods


def mood() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch._C._len_torch_function_stack(),
        tuple(_get_current_dispatch_mode_stack()),
    )


class Counting(TorchFunctionMode):
    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class CountingOperations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


MOODS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "grad off": lambda: torch.set_grad_enabled(False),
    "inference": torch.inference_mode,
    "not inference": lambda: torch.inference_mode(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast without cache": lambda: torch.autocast("cpu", torch.float16, cache_enabled=False),
    "functions": Counting,
    "operations": CountingOperations,
    "device": lambda: torch.device("cpu"),
}
each_mood = pytest.mark.parametrize("name", MOODS)


@each_mood
@pytest.mark.parametrize("site", ["resid_post", "pattern", "mlp_out"])
def test_each_side_finds_its_own_mood(name: str, site: str) -> None:
    inside, outside, before = list[Any](), list[Any](), mood()
    handles = [block.register_forward_hook(lambda *_: inside.append(mood())) for block in model().anatomy.blocks]
    try:
        with model().trace(ids()) as t:
            _ = t[site, 0]
            with MOODS[name]():
                outside.append(mood())
                _ = t[site, 1]
                outside.append(mood())
                t[site, 1] = t[site, 1] * 1.0
                assert t[site, 2] is not None
                outside.append(mood())
            assert mood() == before
        assert mood() == before
        assert outside[0] == outside[1] == outside[2]
        assert inside[0] == inside[1] == inside[2]
        assert inside[0][0] is False
        assert inside[0][1:] == before[1:]
    finally:
        for handle in handles:
            handle.remove()


@each_mood
def test_a_mood_entered_before_and_left_in_the_middle_stays_with_the_forward(name: str) -> None:
    inside, before = list[Any](), mood()
    handles = [block.register_forward_hook(lambda *_: inside.append(mood())) for block in model().anatomy.blocks]
    try:
        with MOODS[name]():
            within = mood()
            t = model().trace(ids()).start()
            _ = t["resid_post", 0]
            assert mood() == within
        assert mood() == before
        _ = t["resid_post", 1]
        assert mood() == before
        t.finish()
        assert mood() == before
        assert [each[1:] for each in inside] == [within[1:]] * 3
    finally:
        for handle in handles:
            handle.remove()


@each_mood
@pytest.mark.parametrize("end", ["stop", "exception", "drop", "error"])
def test_however_it_ends_the_mood_is_the_user_s(name: str, end: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    handle = model().anatomy.blocks[2].register_forward_hook(fail) if end == "error" else None
    with MOODS[name]():
        before = mood()
        t = model().trace(ids()).start()
        _ = t["resid_post", 0]
        if end == "stop":
            t.stop()
        elif end == "error":
            with pytest.raises(RuntimeError, match="no memory"):
                t.finish()
        elif end == "exception":
            with pytest.raises(ZeroDivisionError), t:
                _ = 1 / 0
        del t
        gc.collect()
        assert mood() == before
    if handle is not None:
        handle.remove()
    assert nothing_left(model())


@pytest.mark.parametrize("name", ["inference", "autocast", "functions", "operations", "no_grad"])
@pytest.mark.parametrize("site", ["resid_post", "mlp_in", "k", "scores"])
def test_a_trace_in_a_mood_reads_what_a_run_keeps_there_and_writes_what_an_edit_does(name: str, site: str) -> None:
    with MOODS[name]():
        run = model().run(ids(), keep=[site, "resid_post"])
        with model().trace(ids()) as t:
            assert torch.equal(t[site, 1], run[site, 1])
            t[site, 1][:, 1] *= 0.5
        with model().trace(ids()) as u:
            part = u[site, 1].clone()
            part[:, 1] *= 0.5
            u[site, 1] = part
        assert torch.equal(t.logits, u.logits)
        assert not torch.equal(t.logits, run.logits)
        assert t.logits.dtype == run.logits.dtype


@pytest.mark.parametrize("site", ["resid_post", "mlp_in", "k", "scores"])
def test_a_tensor_made_in_inference_mode_can_be_assigned(site: str) -> None:
    with model().trace(ids()) as t, torch.inference_mode():
        t[site, 1] = torch.zeros_like(t[site, 1])
        t[site, 1] += 1
    edit = lk.Call(site, torch.ones_like, layers=1)
    assert torch.equal(t.logits, model().run(ids(), edits=edit).logits)
    with model().trace(ids(), grads=True) as t, torch.inference_mode():
        t["resid_post", 1] = torch.ones(32)
    assert t.logits.requires_grad


def test_modes_inside_see_the_forward_and_those_in_the_block_do_not() -> None:
    for kind in (Counting, CountingOperations):
        with kind() as around, model().trace(ids()) as t:
            _ = t["resid_post", 1]
        assert around.count > 50
        with model().trace(ids()) as t, kind() as within:
            _ = t["resid_post", 1]
        assert within.count == 0


# Gradients


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "site", ["embed", "resid_pre", "q", "v", "scores", "pattern", "z", "attn_out", "mlp_post", "final_norm"]
)
@pytest.mark.parametrize("family", ["llama", "granite", "gpt2", "bloom"])
def test_gradients_at_a_site_equal_those_of_a_run(family: str, site: str, frozen: bool) -> None:
    wrapped = model(family, 7 if frozen else 0)
    if frozen:
        wrapped.hf_model.requires_grad_(False)
    asked = site if site in ("embed", "final_norm") else (site, 1)
    run = wrapped.run(ids(), keep=asked, grads=lambda run: run.logits[:, -1, 42].sum())
    with wrapped.trace(ids(), grads=True) as t:
        h = t[asked]
    loss = t.logits[:, -1, 42].sum()
    plain = wrapped.run(ids()).logits
    if site in ("scores", "pattern") and family != "bloom":  # gradients through them take another way than the kernel
        torch.testing.assert_close(t.logits.detach(), plain)
    else:
        assert torch.equal(t.logits.detach(), plain)
    (grad,) = torch.autograd.grad(loss, h)
    torch.testing.assert_close(grad, run.grad[asked], atol=1e-6, rtol=1e-4)
    assert nothing_left(wrapped)


def test_backward_reaches_the_parameters_and_what_was_written_in_between() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    with model().trace(ids(), grads=True) as t:
        t["mlp_post", 1][:, 2] *= 1.5
        t["resid_post", 1] = t["resid_post", 1] * scale
        t["pattern", 2][:, 0] *= 0.5
        t["z", 2, 1] = t["z", 2, 0]
    t.logits.sum().backward()
    assert scale.grad is not None
    assert bool(scale.grad != 0)
    weight = model().hf_model.model.layers[0].self_attn.q_proj.weight
    assert weight.grad is not None
    assert bool(weight.grad.abs().sum() > 0)
    model().hf_model.zero_grad(set_to_none=True)


def test_without_grads_nothing_is_recorded_and_with_grads_inference_mode_is_refused() -> None:
    with model().trace(ids()) as t:
        assert not t["resid_post", 1].requires_grad
    assert not t.logits.requires_grad
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode no gradients are recorded"):
        model().trace(ids(), grads=True)


def test_in_a_user_s_no_grad_a_trace_with_grads_records_all_the_same() -> None:
    with torch.no_grad(), model().trace(ids(), grads=True) as t:
        h = t["resid_post", 0]
        assert not torch.is_grad_enabled()
        _ = t["resid_post", 1]
        assert not torch.is_grad_enabled()
    (grad,) = torch.autograd.grad(t.logits.sum(), h)
    assert bool(grad.abs().sum() > 0)


def test_a_plain_module_can_be_traced_with_gradients() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    x = torch.randn(4, 3)
    with lk.Model(net).trace(x, grads=True) as t:
        h = t["1"]
    (grad,) = torch.autograd.grad(t.logits.sum(), h)
    torch.testing.assert_close(grad, net[2].weight.expand(4, 3).detach())  # pyright: ignore -- the linear's
