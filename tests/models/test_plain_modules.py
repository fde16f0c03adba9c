"""Any plain `nn.Module`: its modules are its sites, by their paths, and there are no others."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import lenskit as lk


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


@dataclass(frozen=True)
class Answer:
    name: str
    scores: Tensor


class Pair(NamedTuple):
    scores: Tensor
    n: int


class Returning(nn.Module):
    """Gives its scores inside of something else, from the whole and from the module within."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind, self.inner, self.out = kind, Wrapping(kind), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.kind(self.out(scores_in(self.inner(x))))


class Wrapping(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        return self.kind(self.linear(x))


def scores_in(value: Any) -> Tensor:
    if isinstance(value, dict):
        return value["scores"]
    return value[0] if isinstance(value, tuple) else value if isinstance(value, Tensor) else value.scores


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)


def given(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


CASES = {
    "mlp": (Mlp, (3, 8), "layers.0"),
    "cnn": (Cnn, (2, 3, 9, 9), "conv"),
    "encoder": (lambda: encoder().eval(), (2, 5, 8), "layers.0"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[lk.Model, Tensor, str]:
    make, shape, path = CASES[request.param]
    return lk.Model(make()), given(*shape), path


def test_what_goes_in_and_comes_out_of_a_module_is_kept(case: tuple[lk.Model, Tensor, str]) -> None:
    model, x, path = case
    seen = list[Tensor]()
    handle = model.hf_model.get_submodule(path).register_forward_hook(lambda m, a, out: seen.extend([a[0], out]))
    with torch.no_grad():
        plain = model.hf_model(x)
    handle.remove()
    run = model.run(x, keep=[path, f"{path}.input"])
    torch.testing.assert_close(run.logits, plain)  # torch's encoder takes another kernel when it is looked at
    assert torch.equal(run[f"{path}.input"], seen[0])
    torch.testing.assert_close(run[path], seen[1])
    with torch.no_grad():
        assert torch.equal(model.run(x).logits, model.hf_model(x))


def test_edits_act_on_rows_and_positions(case: tuple[lk.Model, Tensor, str]) -> None:
    model, x, path = case
    before = model.run(x, keep=path)
    row = model.run(x, keep=path, edits=lk.Zero(path, rows=1))
    assert not row[path][1].any()
    torch.testing.assert_close(row[path][0], before[path][0])
    torch.testing.assert_close(row.logits[0], before.logits[0])
    assert not torch.equal(row.logits[1], before.logits[1])
    # Positions are the second axis, where there is one.
    column = model.run(x, keep=path, edits=lk.Scale(path, 3.0, pos=-1))[path]
    torch.testing.assert_close(column[:, -1], 3 * before[path][:, -1])
    torch.testing.assert_close(column[:, :-1], before[path][:, :-1])
    set_ = model.run(x, keep=path, edits=lk.Set(path, before[path][0], rows=[1]))[path]
    torch.testing.assert_close(set_[1], before[path][0])
    with pytest.raises(lk.NothingEdited, match="row 7 does not exist"):
        model.run(x, edits=lk.Zero(path, rows=7))


def test_a_trace_stands_still_in_it(case: tuple[lk.Model, Tensor, str]) -> None:
    model, x, path = case
    with model.trace(x) as t:
        t[path][:] = 0
    torch.testing.assert_close(t.logits, model.run(x, edits=lk.Zero(path)).logits)
    with model.trace(x) as t:
        _ = t[path]
        with pytest.raises(lk.SiteUnavailable, match="was not reached"):
            _ = t[f"{path}.input"]
    assert " numbers, finished" in repr(t)


def test_it_stops_and_has_gradients_and_shapes(case: tuple[lk.Model, Tensor, str]) -> None:
    model, x, path = case
    stopped = model.run(x, keep=f"{path}.input", stop_at=path)
    with pytest.raises(ValueError, match=f"stopped at {path}, before"):
        _ = stopped.logits
    graph = model.run(x, keep=path, grads=lambda run: run.logits[0].square().sum())
    leaf = model.run(x, keep=path)[path].requires_grad_()
    loss = model.hf_model
    handle = loss.get_submodule(path).register_forward_hook(lambda *_: leaf)
    loss(x)[0].square().sum().backward()
    handle.remove()
    torch.testing.assert_close(graph.grad[path], leaf.grad)
    assert model.trace(x).shapes[path] == graph[path].shape
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf_model.modules())


@pytest.mark.parametrize(
    "kind",
    [
        lambda y: {"name": "dict", "scores": y},
        lambda y: (y, "tuple"),
        lambda y: Pair(y, 1),
        lambda y: Answer("dataclass", y),
    ],
    ids=["dict", "tuple", "named tuple", "frozen dataclass"],
)
def test_a_tensor_is_found_and_replaced_in_what_a_module_gives(kind: Any) -> None:
    module, x = Returning(kind), given(3, 8)
    model = lk.Model(module)
    run = model.run(x, keep="inner")
    assert torch.equal(run["inner"], module.inner.linear(x))
    assert torch.equal(run.logits, module.out(module.inner.linear(x)))
    zeroed = model.run(x, edits=lk.Zero("inner"))
    assert torch.equal(zeroed.logits, module.out.bias.expand(3, 3))
    with model.trace(x) as t:
        t["inner"] = 0.0
    assert torch.equal(t.logits, zeroed.logits)


def test_a_module_that_gives_no_tensor_can_still_be_looked_into() -> None:
    module = Returning(lambda y: {"scores": y})
    module.kind = lambda y: "done"
    run = lk.Model(module).run(given(2, 8), keep="out")
    assert run["out"].shape == (2, 3)
    with pytest.raises(TypeError, match="Returning returned no tensor: keep one of its modules instead"):
        _ = run.logits


def test_named_sites_are_refused_and_the_paths_are_told() -> None:
    model, x = lk.Model(Mlp()), given(3, 8)
    said = r"no language model: only the paths of its modules are sites, here 'layers', 'layers.0'.*each with '.input'"
    asked: list[Any] = [
        lambda: model.run(x, keep="resid_post"),
        lambda: model.run(x, edits=lk.Zero("mlp_out")),
        lambda: model.run(x, start_at=1, resid=x),
        lambda: model.unembed(x),
        lambda: lk.LogitLens(model).read(x),
    ]
    for ask in asked:
        with pytest.raises(lk.SiteUnavailable, match=said):
            ask()
    with pytest.raises(lk.SiteUnavailable, match="no list of blocks"):
        _ = model.weights.W_E.shape
    with pytest.raises(lk.SiteUnavailable, match="a plain module: its sites are the paths of its modules"):
        model.run(x, keep=("z", 1))
    with pytest.raises(lk.SiteUnavailable, match="no language model"):
        _ = model.trace(x)["z", 1]
    assert not list(model.sites)
    assert "Sites of Mlp" in repr(model.sites)
    assert "'layers.2'" in repr(model.sites)
    with pytest.raises(lk.SiteUnavailable, match=r"'layrs.0' is not a site.*Did you mean 'layers.0'"):
        model.run(x, keep="layrs.0")


def test_what_is_for_texts_is_refused() -> None:
    model, x = lk.Model(Mlp()), given(3, 8)
    with pytest.raises(TypeError, match="reads no text"):
        model.run("hello")
    with pytest.raises(TypeError, match="cannot generate"):
        model.generate(x)
    run = model.run(x)
    with pytest.raises(TypeError, match=r"no loss of a next token: it read 3 x 8 numbers, and no token ids"):
        _ = run.loss
    with pytest.raises(TypeError, match="no text"):
        _ = run.str_tokens


def test_check_compares_the_output_on_what_it_is_given() -> None:
    model, x = lk.Model(Mlp()), given(3, 8)
    assert model.check(x).passed
    assert "ok     output = the module's, bit by bit" in repr(model.check(x))
    with pytest.raises(TypeError, match=r"plain module: give check\(\) a tensor"):
        model.check()
    random = lk.Model(encoder().train()).check(given(2, 5, 8))
    assert "n/a    output = the module's, bit by bit: two calls of it differ: where dropout is active" in repr(random)


def test_it_says_what_it_is() -> None:
    assert repr(lk.Model(Mlp())) == "Model(Mlp, Mlp, float32 on cpu)"
    assert repr(lk.Model(Mlp().double())) == "Model(Mlp, Mlp, float64 on cpu)"
    assert repr(lk.Model(nn.ReLU())) == "Model(ReLU, ReLU, float32 on cpu)"
    assert lk.Model(encoder()).n_layers == 0
    assert repr(lk.Model(Cnn()).run(given(2, 3, 9, 9), keep="conv")) == "Run(2 x 3 x 9 x 9 numbers, kept: conv, Cnn)"
    assert torch.equal(lk.Model(nn.ReLU()).run(torch.tensor([-1.0, 2.0])).logits, torch.tensor([0.0, 2.0]))


def test_ids_are_given_to_a_plain_module_as_they_are() -> None:
    module = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))
    model, ids = lk.Model(module), torch.tensor([[1, 2, 3]])
    run = model.run(ids, keep="0", edits=lk.Zero("0", pos=1))
    assert not run["0"][0, 1].any()
    assert run["0"][0, 2].any()
    assert run.loss.shape == ()
