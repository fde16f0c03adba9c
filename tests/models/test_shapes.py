"""The shapes of every site, without running the model: they are the real ones, and cost and leave nothing."""

import gc
import tracemalloc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

import lenskit as lk
from lenskit.models.running.shapes import Shapes
from tests.models.tiny import tiny
from tests.models.traced import FAMILIES, ids, model, nothing_left, sites


def shapes(of: lk.Model, prompt: object) -> Shapes:
    return of.trace(prompt).shapes  # pyright: ignore[reportArgumentType]


def fakes() -> int:
    gc.collect()
    return sum(isinstance(each, FakeTensor) for each in gc.get_objects())


@pytest.mark.parametrize("prompt", [ids(), [[1, 2, 3, 4], [5, 6]], [7]], ids=["two rows", "padded", "one token"])
@pytest.mark.parametrize("family", [*FAMILIES, "mistral", "mpt"])
def test_they_are_the_real_ones(family: str, prompt: object) -> None:
    found, there = shapes(model(family), prompt), sites(family)
    run = model(family).run(prompt, keep=[s for s in there if s.name != "logits"])  # pyright: ignore[reportArgumentType]
    assert set(found) == set(there)
    for site in there:
        assert found[site] == run[site].shape, site


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_fake_stays_in_the_model(family: str) -> None:
    """Not in its rotary tables, masks, or whatever else a module stores; nor is a user's hook shown anything fake."""
    fresh, seen = lk.Model(tiny(family)), list[object]()
    handle = fresh.anatomy.blocks[1].register_forward_hook(lambda m, a, out: seen.append(out))
    _ = fresh.sites
    seen.clear()
    there = fakes()  # torch.compile may have left some
    before = {id(value) for module in fresh.hf_model.modules() for value in module.__dict__.values()}
    plain = model(family).run(ids(9)).logits
    _ = shapes(fresh, ids(9))
    assert seen == []
    assert {id(value) for module in fresh.hf_model.modules() for value in module.__dict__.values()} == before
    assert torch.equal(fresh.run(ids(9)).logits, plain)
    handle.remove()
    assert nothing_left(fresh)
    assert fakes() == there


def test_nothing_to_speak_of_is_allocated() -> None:
    """For a prompt whose pattern alone would be 64 MB in each layer."""
    long = lk.Model(tiny("llama", max_position_embeddings=2048))
    tokens = ids(2048, rows=1)
    _ = shapes(long, ids())
    tracemalloc.start()
    with torch.profiler.profile(profile_memory=True) as profile:
        found = shapes(long, tokens)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["pattern", 1] == (1, 4, 2048, 2048)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert allocated < 2**20
    assert peak < 20 * 2**20


def test_a_mixture_of_experts_is_refused_with_the_reason() -> None:
    experts = lk.Model(tiny("mixtral", num_local_experts=4, num_experts_per_tok=2))
    reason = r"cannot be found without its numbers \(.*\): run it to see them"
    with pytest.raises(lk.SiteUnavailable, match=reason):  # PyTorch has no shapes for its grouped products in float32
        shapes(experts, ids())
    assert nothing_left(experts)
    assert experts.run(ids()).logits.shape == (2, 6, 131)


def test_a_trace_that_stands_is_not_disturbed() -> None:
    with model().trace(ids()) as t:
        t["pattern", 1] *= 0.5
        assert t.shapes["z", 1] == (2, 6, 4, 8)
        t["resid_post", 1] *= 2
    want = model().run(ids(), edits=[lk.Scale("pattern", 0.5, layers=1), lk.Scale("resid_post", 2.0, layers=1)])
    torch.testing.assert_close(t.logits, want.logits, atol=1e-6, rtol=1e-5)
    assert nothing_left(model())


def test_they_print_as_a_table_and_name_what_is_missing() -> None:
    found = shapes(model("phi"), ids())
    lines = repr(found).splitlines()
    assert lines[0] == "Shapes"
    assert "  z           (2, 6, 4, 8)" in lines
    assert not any("resid_mid" in line for line in lines)
    with pytest.raises(KeyError, match=r"'resid_mid.1' has no shape here"):
        _ = found["resid_mid", 1]
    with pytest.raises(KeyError, match="say the layer too"):
        _ = found["z"]
    assert len(found) == len(list(found))
