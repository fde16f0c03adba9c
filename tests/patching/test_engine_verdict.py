"""Never wrong: models in which packed rows would be wrong are found out, and computed in another way."""

from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.models.running.attention_ops import listened_to
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engine import BATCHES, PACKED, Engine
from lenskit.patching.engines import verdict
from tests.models.architectures import build
from tests.patching.plain import Plain
from tests.patching.test_engine import by_plain_forwards, change_of, computed, prompt


class Around(nn.Module):
    """Something planted around an MLP."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own, self.down_proj = own, own.down_proj

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.planted(hidden_states, self.own(hidden_states))

    def planted(self, given: Tensor, out: Tensor) -> Tensor:
        raise NotImplementedError


class HiddenConvolution(Around):
    """A little of the position before."""

    def planted(self, given: Tensor, out: Tensor) -> Tensor:
        return out + 0.01 * nn.functional.pad(given, (0, 0, 1, 0))[:, :-1]


class RunningMean(Around):
    """The mean of all positions so far."""

    def planted(self, given: Tensor, out: Tensor) -> Tensor:
        count = torch.arange(1, given.shape[1] + 1)[:, None]
        return out + 0.1 * given.cumsum(1) / count


class Capacity(Around):
    """An expert that takes no more than the first hundred positions it is given."""

    def planted(self, given: Tensor, out: Tensor) -> Tensor:
        return torch.cat([out[:, :100], torch.zeros_like(out[:, 100:])], 1)


class FarPosition(Around):
    """A position embedding of its own, by the place in what it is given."""

    def planted(self, given: Tensor, out: Tensor) -> Tensor:
        return out * (1 + 0.02 * torch.arange(given.shape[1])[:, None])


def planted(kind: type[Around], layer: int) -> Any:
    hf = build("llama")
    hf.model.layers[layer].mlp = kind(hf.model.layers[layer].mlp)
    return hf


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("kind", [HiddenConvolution, RunningMean, FarPosition])
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "v"])
def test_what_mixes_positions_beside_attention_is_found_out(kind: type[Around], layer: int, site: str) -> None:
    hf = planted(kind, layer)
    plain, corrupt = Plain(hf), prompt(2, 9)
    seen = plain.capture(prompt(1, 9))
    cells = [Cell((change_of(seen, site, at, (pos,)),)) for at in range(3) for pos in (1, 4, 8)]
    engine = Engine(lk.Model(hf), corrupt)
    ours, truth = computed(engine, cells, [5, 8]), by_plain_forwards(plain, corrupt, cells, [5, 8])
    assert float((ours - truth).abs().max()) <= 1e-4
    assert engine.name == BATCHES
    assert engine.why is not None
    assert "positions" in engine.why


def test_what_is_planted_later_is_found_out_too() -> None:
    hf = build("llama")
    corrupt, cells = prompt(2, 9), [Cell((Change("resid_pre", 0, (2,), torch.ones(1, 64)),))]
    engine = Engine(model := lk.Model(hf), corrupt)
    computed(engine, cells, [8])
    assert engine.name == PACKED
    hf.model.layers[1].mlp = RunningMean(hf.model.layers[1].mlp)
    engine = Engine(model, corrupt)
    truth = by_plain_forwards(Plain(hf), corrupt, cells, [8])
    torch.testing.assert_close(computed(engine, cells, [8]), truth, atol=1e-4, rtol=0)
    assert engine.name == BATCHES


def test_what_shows_among_many_rows_only_is_found_out_among_many() -> None:
    hf = planted(Capacity, 1)
    plain, corrupt = Plain(hf), prompt(2, 20)
    seen = plain.capture(prompt(1, 20))
    few = [Cell((change_of(seen, "resid_pre", 0, (18,)),))]
    many = [Cell((change_of(seen, "resid_pre", layer, (pos,)),)) for layer in range(2) for pos in range(20)]
    engine = Engine(lk.Model(hf), corrupt)
    for cells in (few, many, few):
        ours, truth = computed(engine, cells, [19]), by_plain_forwards(plain, corrupt, cells, [19])
        assert float((ours - truth).abs().max()) <= 1e-4
    assert engine.why is not None
    assert "rows" in engine.why


def test_a_check_without_an_effect_is_none() -> None:
    hf = build("llama")
    for block in hf.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
    engine = Engine(lk.Model(hf), prompt(2, 9))
    cell = Cell((Change("v", 1, (3,), torch.ones(1, 2, 16)),))
    ends = computed(engine, [cell], [8])
    torch.testing.assert_close(ends[0], engine.base([8]).values[0])
    assert engine.name == BATCHES
    assert engine.why is not None
    assert "too little effect" in engine.why


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("bloom", "attention function"),
        ("mamba", "attention function"),
        ("lfm2", "mixes its positions"),
        ("qwen3_next", "mixes its positions"),
    ],
)
def test_why_not_is_said_in_words(family: str, said: str) -> None:
    model = lk.Model(build(family))
    engine = Engine(model, prompt(2, 9))
    value = model.run(prompt(1, 9), keep=("resid_pre", 1))["resid_pre", 1][0, 2:3]
    computed(engine, [Cell((Change("resid_pre", 1, (2,), value),))], [8])
    assert engine.name == BATCHES
    assert engine.why is not None
    assert said in engine.why
    assert "\n" not in engine.why


def test_it_is_measured_once() -> None:
    hf: Any = build("gpt2")
    model, forwards = lk.Model(hf), list[int]()
    hf.transformer.wte.register_forward_hook(lambda *_: forwards.append(1))
    seen = Plain(hf).capture(prompt(1, 9))
    cells = [Cell((change_of(seen, "z", 1, (4,), 2),))]
    computed(Engine(model, prompt(2, 9)), cells, [8])
    forwards.clear()
    for seed in (3, 4):
        engine = Engine(model, prompt(seed, 9))
        computed(engine, cells, [8])
        assert engine.name == PACKED
    assert len(forwards) == 2  # the prompts' own runs


def test_staying_edits_and_hooks_of_somebody_else_are_honoured() -> None:
    hf = build("llama")
    plain, corrupt = Plain(hf), prompt(2, 9)
    cells = [Cell((change_of(plain.capture(prompt(1, 9)), "resid_pre", 1, (pos,)),)) for pos in (2, 5)]
    model = lk.Model(hf)
    unedited = computed(Engine(model, corrupt), cells, [8])
    with model.edit(lk.Scale("mlp_out", 0.5, layers=2)):
        engine = Engine(model, corrupt)
        edited = computed(engine, cells, [8])
        assert engine.why is not None
        assert "edits" in engine.why
    handle = hf.model.layers[2].mlp.register_forward_hook(lambda module, args, out: out * 0.5)
    engine = Engine(model, corrupt)
    torch.testing.assert_close(computed(engine, cells, [8]), edited)
    assert engine.why is not None
    assert "hooks" in engine.why
    torch.testing.assert_close(edited, by_plain_forwards(plain, corrupt, cells, [8]), atol=1e-4, rtol=0)
    handle.remove()
    torch.testing.assert_close(computed(Engine(model, corrupt), cells, [8]), unedited)


def test_edits_that_change_in_the_midst_are_refused() -> None:
    model = lk.Model(build("llama"))
    cells = [Cell((Change("resid_pre", layer, (1,), torch.zeros(1, 64)),)) for layer in (0, 1)]
    running = Engine(model, prompt(2, 9)).run(cells, [8], budget=1)
    while next(running) is None:
        pass
    with model.edit(lk.Zero("mlp_out", layers=2)), pytest.raises(RuntimeError, match="edits changed"):
        list(running)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_wherever_it_is_stopped_nothing_is_left(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at each breath a call of the model by whoever waits is untouched."""
    hf = build(family)
    plain, corrupt = Plain(hf), prompt(2, 9)
    seen = plain.capture(prompt(1, 9))
    cells = [Cell((change_of(seen, "resid_pre", layer, (pos,)),)) for layer in range(3) for pos in (2, 5)]
    cells += [Cell((change_of(seen, "attn_out", 1, (3,)),))]
    with torch.no_grad():
        logits = hf(input_ids=corrupt).logits
    forwards = {module: module.__dict__.get("forward") for module in hf.modules()}

    def running() -> Any:
        # So that what is measured the first time is stopped in its midst as well.
        monkeypatch.setattr(verdict, "_verdicts", WeakKeyDictionary())
        return Engine(lk.Model(hf), corrupt).run(cells, [8])

    breaths = len(list(running()))
    assert breaths > 12
    for stop in range(0, breaths, 3):
        steps = running()
        for _ in range(stop):
            next(steps)
            with torch.no_grad():
                assert torch.equal(hf(input_ids=corrupt).logits, logits)
        steps.close()
        assert torch.is_grad_enabled()
        assert not listened_to()
        for module, forward in forwards.items():
            assert module.__dict__.get("forward") is forward
            assert not module._forward_hooks
            assert not module._forward_pre_hooks


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_two_at_once_do_not_meet(family: str) -> None:
    """Begun, stepped and ended in turns: what a view does when a newer request overtakes an older one."""
    hf = build(family)
    model, plain = lk.Model(hf), Plain(hf)
    seen, forwards = plain.capture(prompt(1, 9)), {module: module.__dict__.get("forward") for module in hf.modules()}
    cells = [Cell((change_of(seen, "resid_pre", layer, (4,)),)) for layer in range(3)]
    for closed_after in (3, 7, 14, 1000):
        older, newer = (Engine(model, prompt(seed, 9)).run(cells, [8]) for seed in (2, 5))
        ends: list[Any] = [None] * 3
        next(older)
        for step, chunk in enumerate(newer):
            for place, index in enumerate(chunk.indices if chunk is not None else ()):
                assert chunk is not None
                ends[index] = chunk.ends.values[place]
            next(older, None)
            if step == closed_after:
                older.close()
        older.close()
        truth = by_plain_forwards(plain, prompt(5, 9), cells, [8])
        torch.testing.assert_close(torch.stack(ends), truth, atol=1e-4, rtol=0)
        assert {module: module.__dict__.get("forward") for module in hf.modules()} == forwards


def test_half_precision_takes_packed_rows_as_well() -> None:
    hf: Any = build("llama").bfloat16()
    plain, corrupt = Plain(hf), prompt(2, 9)
    cells = [Cell((change_of(plain.capture(prompt(1, 9)), site, 1, (4,)),)) for site in ("resid_pre", "z", "pattern")]
    engine = Engine(lk.Model(hf), corrupt)
    ours, truth = computed(engine, cells, [8]), by_plain_forwards(plain, corrupt, cells, [8])
    assert float((ours - truth).abs().max()) <= 0.02 * float(truth.abs().max())
    assert engine.name == PACKED, engine.why
