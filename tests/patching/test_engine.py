"""The engine against one plain forward per cell: plain Hugging Face models, plain hooks, nothing of lenskit."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lenskit as lk
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engine import BATCHES, PACKED, Engine
from tests.models.architectures import build
from tests.patching.plain import FAMILIES, INSIDE, Plain

PACKABLE = ["llama", "qwen3", "mistral", "gemma2", "olmo2", "cohere", "mixtral", "gpt_oss", "starcoder2", "gpt2"]
PACKABLE += ["gpt_neox", "phi"]
HEADED = ("z", *INSIDE)
Seen = dict[tuple[str, int], Tensor]


def prompt(seed: int, length: int) -> Tensor:
    return torch.randint(3, 150, (1, length), generator=torch.Generator().manual_seed(seed))


def computed(engine: Engine, cells: list[Cell], read: list[int], **more: Any) -> Tensor:
    """(cell, read, d_model), put together from the chunks."""
    ends: list[Any] = [None] * len(cells)
    for chunk in engine.run(cells, read, **more):
        for place, index in enumerate(chunk.indices if chunk is not None else ()):
            assert ends[index] is None
            assert chunk is not None
            ends[index] = chunk.ends.values[place]
    return torch.stack(ends)


def by_plain_forwards(plain: Plain, ids: Tensor, cells: list[Cell], read: list[int]) -> Tensor:
    return torch.stack([plain.patched(ids, cell.changes)[read] for cell in cells])


def change_of(seen: Seen, site: str, layer: int, pos: tuple[int, ...], part: int | None = None) -> Change:
    """The clean activation at these positions: all of it, or of one head or some neurons."""
    value, at = seen[site, layer], list(pos)
    if site == "pattern":
        heads = None if part is None else (part % len(value),)
        return Change(site, layer, pos, value[list(heads) if heads else slice(None)][:, at], heads=heads)
    value = value[at]
    if part is None:
        return Change(site, layer, pos, value)
    if site in HEADED:
        head = part % value.shape[1]
        return Change(site, layer, pos, value[:, head : head + 1], heads=(head,))
    neurons = (part % value.shape[-1], (part + 7) % value.shape[-1])
    return Change(site, layer, pos, value[:, list(neurons)], neurons=neurons)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_is_one_plain_forward(family: str) -> None:
    hf = build(family)
    plain, clean, corrupt = Plain(hf), prompt(1, 11), prompt(2, 11)
    seen = plain.capture(clean)
    cells = [
        Cell((change_of(seen, site, layer, pos, part),))
        for site in plain.sites
        for layer in range(len(plain.blocks))
        for pos, part in (((0,), None), ((3, 4, 8), None), ((5, 10), 2))
    ]
    engine, read = Engine(lk.Model(hf), corrupt), [4, 10]
    ours, truth = computed(engine, cells, read), by_plain_forwards(plain, corrupt, cells, read)
    assert float((ours - truth).abs().max()) <= 1e-4
    effect = (truth - plain.patched(corrupt, ())[read]).abs().amax((1, 2))
    assert (effect > 1e-3).float().mean() > 0.8
    assert engine.name == (PACKED if family in PACKABLE else BATCHES), engine.why
    assert (engine.why is None) == (engine.name == PACKED)


_models: dict[str, tuple[Any, Any]] = {}


def kept(family: str) -> tuple[Plain, lk.Model]:
    if family not in _models:
        hf = build(family, seed=5)
        _models[family] = Plain(hf), lk.Model(hf)
    return _models[family]


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[str, int, list[list[tuple[str, int, tuple[int, ...], int | None]]], list[int]]:
    """A family, a length, the places that some cells change (several each, in several layers), and what is read."""
    family = draw(st.sampled_from([*PACKABLE, "bloom", "lfm2"]))
    plain, _ = kept(family)
    length = draw(st.integers(2, 13))
    layers = st.integers(0, len(plain.blocks) - 1)
    pos = st.lists(st.integers(0, length - 1), min_size=1, unique=True).map(lambda each: tuple(sorted(each)))
    place = st.tuples(st.sampled_from(plain.sites), layers, pos, st.none() | st.integers(0, 30))
    cell = st.lists(place, min_size=1, max_size=4, unique_by=lambda each: _touched(each, len(plain.blocks)))
    read = st.lists(st.integers(-length, length - 1), min_size=1, max_size=3)
    return family, length, draw(st.lists(cell, min_size=1, max_size=6)), draw(read)


def _touched(place: Any, depth: int) -> tuple[str, int]:
    """Changes of one cell must not overlap, and what leaves a layer enters the next one."""
    site, layer = place[:2]
    return ("resid_pre", layer + 1) if site == "resid_post" else (site, layer)


@settings(max_examples=40)
@given(sweeps())
def test_any_cells_of_any_prompt_are_plain_forwards(drawn: Any) -> None:
    family, length, places, read = drawn
    plain, model = kept(family)
    seen, corrupt = plain.capture(prompt(3, length)), prompt(4, length)
    cells = [Cell(tuple(change_of(seen, *place) for place in cell)) for cell in places]
    ours = computed(Engine(model, corrupt), cells, read)
    truth = by_plain_forwards(plain, corrupt, cells, read)
    assert float((ours - truth).abs().max()) <= 1e-4


@pytest.mark.parametrize("length", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_prompt_as_long_as_something_else_is_wide(family: str, length: int) -> None:
    """4 heads, 16 numbers in each, 64 in the residual stream: no argument of a block is taken for another."""
    plain, model = kept(family)
    seen, corrupt = plain.capture(prompt(3, length)), prompt(4, length)
    places = [("resid_pre", 0, (0,)), ("z", 1, (length // 2,)), ("k", 1, (0, length - 1)[: min(2, length)])]
    cells = [Cell((change_of(seen, *place),)) for place in places]
    truth = by_plain_forwards(plain, corrupt, cells, [-1])
    torch.testing.assert_close(computed(Engine(model, corrupt), cells, [-1]), truth, atol=1e-4, rtol=0)


def test_chunks_come_in_order_and_fit_the_budget() -> None:
    plain, model = kept("llama")
    seen, corrupt = plain.capture(prompt(3, 12)), prompt(4, 12)
    cells = [Cell((change_of(seen, "resid_pre", layer, (pos,)),)) for layer in range(3) for pos in range(12)]
    engine = Engine(model, corrupt)
    whole = computed(engine, cells, [11])
    budget = 60_000
    chunks = [chunk for chunk in engine.run(cells, [11], budget=budget) if chunk is not None]
    assert len(chunks) > 3
    assert [index for chunk in chunks for index in chunk.indices] == list(range(36))
    torch.testing.assert_close(computed(engine, cells, [11], budget=budget), whole, atol=1e-5, rtol=0)
    assert engine.cost(cells, budget=budget).bytes <= budget < engine.cost(cells).bytes


def test_the_prompt_itself_and_what_a_cell_cannot_reach() -> None:
    plain, model = kept("gpt2")
    corrupt = prompt(4, 9)
    engine = Engine(model, corrupt)
    itself = plain.patched(corrupt, ())
    base = engine.base([2, -1]).values
    torch.testing.assert_close(base, itself[[2, -1]][None], atol=1e-5, rtol=0)
    cell = Cell((change_of(plain.capture(prompt(3, 9)), "z", 2, (6,)),))
    assert torch.equal(computed(engine, [cell], [2, 5, 2])[0], engine.base([2, 5, 2]).values[0])
    assert engine.name == PACKED


def test_what_is_changed_after_all_that_is_read_changes_nothing() -> None:
    plain, model = kept("llama")
    seen, engine = plain.capture(prompt(3, 8)), Engine(model, prompt(4, 8))
    places = [("pattern", 0, (5,)), ("resid_pre", 1, (5, 7)), ("v", 2, (6,)), ("resid_post", 2, (4,))]
    for cells in ([Cell(tuple(change_of(seen, *place) for place in places))], [Cell((change_of(seen, *places[0]),))]):
        assert torch.equal(computed(engine, cells, [0, 3])[0], engine.base([0, 3]).values[0])
    assert engine.name == PACKED


def test_the_estimate_counts_the_rows_and_knows_the_pace() -> None:
    plain, model = kept("llama")
    seen, corrupt = plain.capture(prompt(3, 10)), prompt(4, 10)
    cells = [Cell((change_of(seen, "resid_pre", layer, (pos,)),)) for layer in (0, 2) for pos in (4, 9)]
    cost = Engine(model, corrupt).cost(cells)
    assert cost.rows == (6 + 1) * 3 + (6 + 1) * 1
    assert cost.seconds > 0
    assert cost.bytes > 0


def test_what_does_not_exist_is_refused() -> None:
    _, model = kept("cohere")
    engine, value = Engine(model, prompt(4, 6)), torch.zeros(1, 64)
    for change, error, said in (
        (Change("resid_mid", 1, (0,), value), lk.SiteUnavailable, "resid_mid"),
        (Change("resid_pre", 7, (0,), value), lk.SiteUnavailable, "layers 0 to 2"),
        (Change("resid_pre", 1, (6,), value), IndexError, "6 positions"),
        (Change("resid_pre", 1, (2, 3), value), ValueError, "shape"),
    ):
        with pytest.raises(error, match=said):
            list(engine.run([Cell((change,))], [-1]))
    with pytest.raises(IndexError, match="6 positions"):
        list(engine.run([Cell((Change("resid_pre", 1, (0,), value),))], [6]))
    with pytest.raises(ValueError, match="one prompt"):
        Engine(model, torch.zeros(2, 6, dtype=torch.long))
