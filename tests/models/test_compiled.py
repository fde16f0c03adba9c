"""Compiled models: lenskit runs them as they are written, and leaves the person's own compiled calls compiled."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lenskit as lk
from lenskit.models.finding.wrapped import is_compiled
from tests.models.exercise import IDS, called, exercise, generated_as_itself, gradient
from tests.models.tiny import tiny


class Counting:
    """A backend of torch.compile that compiles nothing, and counts what it was asked to run."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    """What one test compiled is not the next one's."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    assert stance() == "default"


def stance() -> str:
    return torch._dynamo.eval_frame._stance.stance


def compiled(how: str, backend: Any) -> Any:
    hf_model: Any = tiny("llama")
    if how == "torch.compile(model)":
        return torch.compile(hf_model, backend=backend)
    if how == "model.compile()":
        hf_model.compile(backend=backend)
    elif how == "a layer in its place":
        hf_model.model.layers[1].compile(backend=backend)
    elif how == "a layer wrapped":
        hf_model.model.layers[1] = torch.compile(hf_model.model.layers[1], backend=backend)
    else:
        hf_model.model.layers[1].self_attn = torch.compile(hf_model.model.layers[1].self_attn, backend=backend)
    return hf_model


WAYS = [
    "torch.compile(model)",
    "model.compile()",
    "a layer in its place",
    "a layer wrapped",
    "an attention wrapped",
]


@pytest.mark.parametrize("how", WAYS)
def test_a_compiled_model_does_everything_and_nothing_of_it_is_compiled_for_that(how: str) -> None:
    backend = Counting()
    hf_model = compiled(how, backend)
    model = lk.Model(hf_model)
    assert model.hf_model is hf_model
    assert model.anatomy.family == "Llama"
    exercise(model, called(tiny("llama")))
    generated_as_itself(model, tiny("llama"))
    assert torch.equal(gradient(model), gradient(lk.Model(tiny("llama"))))
    assert backend.runs == 0

    called(hf_model)  # the person's own call is compiled as ever
    assert backend.runs > 0
    before = backend.runs
    kept = model.run(IDS, keep=["resid_post", "pattern"])
    assert backend.runs == before
    assert torch.equal(kept["resid_post"], lk.Model(tiny("llama")).run(IDS, keep="resid_post")["resid_post"])


def test_while_a_trace_stands_still_the_persons_own_code_is_compiled() -> None:
    backend = Counting()
    hf_model = compiled("model.compile()", backend)
    own, model = torch.compile(lambda x: x.sin() + 1, backend=backend), lk.Model(hf_model)
    with model.trace(IDS) as t:
        seen = t["resid_post", 0].clone()
        assert stance() == "default"
        own(torch.ones(3))
        assert backend.runs == 1
        called(hf_model)
        assert backend.runs > 1
        runs = backend.runs
        t["resid_post", 1] *= 2
        assert stance() == "default"
    assert backend.runs == runs
    assert torch.equal(seen, model.run(IDS, keep="resid_post")["resid_post", 0])
    t = model.trace(IDS).start()
    _ = t["z", 1]
    t.stop()
    assert stance() == "default"


def test_a_stance_of_the_persons_own_comes_back() -> None:
    model = lk.Model(compiled("a layer in its place", "eager"))
    with torch.compiler.set_stance("eager_on_recompile"):
        with model.trace(IDS) as t:
            _ = t["resid_post", 1]
            assert stance() == "eager_on_recompile"
        with pytest.raises(RuntimeError, match="on the way"):
            model.run(IDS, edits=lk.Call("resid_post", failing, layers=1))
        assert stance() == "eager_on_recompile"


def failing(tensor: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("on the way")


def test_a_model_that_is_not_compiled_leaves_the_stance_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "set_stance", lambda *_: pytest.fail("set"))
    lk.Model(tiny("llama")).run(IDS, keep="resid_post")


def test_it_may_be_compiled_after_it_was_wrapped() -> None:
    backend, hf_model = Counting(), tiny("llama")
    model = lk.Model(hf_model)
    plain = model.run(IDS, keep="resid_post")
    hf_model.compile(backend=backend)
    assert is_compiled(hf_model)
    assert torch.equal(model.run(IDS, keep="resid_post")["resid_post"], plain["resid_post"])
    assert backend.runs == 0


def test_module_paths_are_those_of_the_model_as_it_was_written() -> None:
    model = lk.Model(compiled("a layer wrapped", "eager"))
    paths = ["model.layers.1.mlp", "model.layers.1._orig_mod.mlp"]
    run = model.run(IDS, keep=[*paths, "mlp_out"])
    assert torch.equal(run[paths[0]], run["mlp_out", 1])
    assert torch.equal(run[paths[1]], run["mlp_out", 1])
    whole = lk.Model(torch.compile(tiny("llama"), backend="eager"))  # pyright: ignore[reportArgumentType]
    run = whole.run(IDS, keep=["_orig_mod.model.layers.1.mlp", "model.layers.1.mlp"])
    assert torch.equal(run["_orig_mod.model.layers.1.mlp"], run["model.layers.1.mlp"])


def test_a_compiled_plain_module() -> None:
    backend = Counting()
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model: Any = lk.Model(torch.compile(module, backend=backend))  # pyright: ignore[reportArgumentType]
    x = torch.randn(3, 4)
    run = model.run(x, keep="1", edits=lk.Call("0", torch.neg))
    assert torch.equal(run["1"], (-module[0](x)).relu())
    assert backend.runs == 0
