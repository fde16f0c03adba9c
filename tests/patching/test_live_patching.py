"""The live source of the patch grid: its order of events, its values, and that closing it stops everything."""

from collections.abc import Generator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.models.steps import finish
from lenskit.patching.align import PromptsDiffer
from lenskit.patching.live import Asked, Begun, LivePatching
from lenskit.patching.metrics import as_metric, kl, logit_diff, prob, rank
from lenskit.patching.swept import Sweep
from tests.models.test_model import hooks
from tests.models.tiny import tiny, tiny_tokenizer

A, B = 17, 42


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


def pair() -> tuple[str, str]:
    """Two prompts of as many tokens."""
    return "The key to the store is", "The key to the capital is"


def asked(site: str = "resid_pre", direction: Any = "denoise", metric: Any = None) -> Asked:
    return Asked(*pair(), site, direction, as_metric(metric or logit_diff(A, B)))


def parts_of(steps: Generator[Any, None, Sweep]) -> tuple[list[Any], Sweep]:
    parts = []
    while True:
        try:
            part = next(steps)
        except StopIteration as end:
            return parts, end.value
        if part is not None:
            parts.append(part)


def by_hand(site: str, direction: str, layer: int, where: dict[str, int]) -> torch.Tensor:
    """The logits at the end of a patched run, through the public face."""
    clean, corrupt = pair()
    source, base = (clean, corrupt) if direction == "denoise" else (corrupt, clean)
    run = model().run(source, keep=site)
    return model().run(base, edits=lk.Patch(site, run, layers=layer, **where)).logits[0, -1]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "z"])
def test_it_tells_the_prompts_first_then_the_estimate_then_every_cell_exactly(site: str, direction: Any) -> None:
    parts, sweep = parts_of(LivePatching(model()).sweep(asked(site, direction)))
    assert isinstance(parts[0], Begun)
    estimate = parts[1]
    assert np.isfinite(estimate.values).all()
    assert estimate.done < 1
    assert sweep.exact.all()
    column = "heads" if site == "z" else "pos"
    for layer in range(model().n_layers):
        for at in range(sweep.values.shape[1]):
            logits = by_hand(site, direction, layer, {column: at})
            assert sweep.values[layer, at] == pytest.approx(float(logits[A] - logits[B]), abs=1e-4)


def test_what_begins_names_both_prompts_and_what_they_say_next() -> None:
    live = LivePatching(model(), top_k=4)
    for direction in ("denoise", "noise"):
        begun = finish(live.begun(asked(direction=direction)))
        for prompt, ids, odds in zip(
            pair(), (begun.clean_ids, begun.corrupt_ids), (begun.next_clean, begun.next_corrupt), strict=True
        ):
            assert ids.tolist() == model().batch(prompt).tokens[0].tolist()
            plain = model().run(prompt).logits[0, -1].softmax(-1)
            np.testing.assert_allclose(odds, plain[begun.next_ids].numpy(), atol=1e-5)
        assert {A, B} <= set(begun.next_ids.tolist())
        assert begun.read == len(begun.clean_ids) - 1


@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_a_region_is_patched_jointly(site: str) -> None:
    patched = finish(LivePatching(model()).patch(asked(site), [0, 2], [1, 2]))
    clean, corrupt = pair()
    run = model().run(clean, keep=site)
    where: dict[str, Any] = {"heads" if site == "z" else "pos": [1, 2]}
    logits = model().run(corrupt, edits=lk.Patch(site, run, layers=[0, 2], **where)).logits[0, -1]
    assert patched.value == pytest.approx(float(logits[A] - logits[B]), abs=1e-4)
    np.testing.assert_allclose(patched.after, logits.softmax(-1)[patched.ids].numpy(), atol=1e-5)
    before = model().run(corrupt).logits[0, -1].softmax(-1)
    np.testing.assert_allclose(patched.before, before[patched.ids].numpy(), atol=1e-5)
    assert int(logits.argmax()) in patched.ids
    assert int(before.argmax()) in patched.ids


def test_a_sweep_that_was_stopped_keeps_what_is_exact_and_goes_on() -> None:
    live = LivePatching(model())
    steps = live.sweep(asked())
    next(part for part in steps if isinstance(part, Sweep))
    steps.close()
    assert hooks(model().hf_model) == 0
    assert live.holds(asked())
    assert finish(live.sweep(asked())).exact.all()
    assert not live.holds(asked("mlp_out"))


def test_it_breathes_before_every_block_and_may_be_closed_at_any_breath() -> None:
    whole = sum(1 for _ in LivePatching(model()).sweep(asked("attn_out")))
    assert whole > 4 * model().n_layers  # three forwards of the prompts, the packed rows, and the engine's own checks
    plain = model().run([1, 2, 3]).logits
    for count in range(0, whole, 3):
        steps = LivePatching(model()).sweep(asked("attn_out"))
        for _ in range(count):
            next(steps)
        # Meanwhile a cell of the notebook uses the same model.
        assert torch.equal(model().run([1, 2, 3]).logits, plain)
        steps.close()
        assert hooks(model().hf_model) == 0


def test_an_edit_of_the_model_makes_another_sweep() -> None:
    live = LivePatching(model())
    first = finish(live.sweep(asked()))
    with model().edit(lk.Zero("mlp_out", layers=1)):
        assert not live.holds(asked())
        second = finish(live.sweep(asked()))
    assert not np.allclose(first.values, second.values)
    assert not live.holds(asked())


@pytest.mark.parametrize("metric", [prob(A), kl(), rank(A)], ids=repr)
def test_any_metric_is_swept_and_a_rank_has_no_estimate(metric: Any) -> None:
    parts, sweep = parts_of(LivePatching(model()).sweep(asked(metric=metric)))
    estimated = np.isfinite(parts[1].values[~parts[1].exact])
    assert estimated.any() != (metric == rank(A))
    assert sweep.exact.all()


def test_a_function_that_leaves_the_graph_has_no_estimate_and_one_that_stays_has() -> None:
    for fn, there in ((lambda run: run.logits[0, -1, A].item(), False), (lambda run: run.logits[0, -1, A], True)):
        parts, sweep = parts_of(LivePatching(model()).sweep(asked(metric=fn)))
        assert np.isfinite(parts[1].values).all() == there
        assert sweep.exact.all()


def test_prompts_that_do_not_line_up_are_refused_with_the_first_difference() -> None:
    clean, corrupt = pair()
    live = LivePatching(model())
    longer = Asked(clean, corrupt + " so it is", "resid_pre", "denoise", logit_diff(A, B))
    for refuse in (lambda: live.check(longer), lambda: finish(live.sweep(longer))):
        with pytest.raises(PromptsDiffer, match=r"do not line up: the clean one has .* first differ at position"):
            refuse()


def test_a_region_outside_the_grid_is_refused() -> None:
    with pytest.raises(IndexError, match=r"layers \[9\]: this grid has layers 0 to 2"):
        finish(LivePatching(model()).patch(asked(), [9], [0]))
    with pytest.raises(IndexError, match="heads"):
        finish(LivePatching(model()).patch(asked("z"), [0], [99]))


def test_the_first_paint_takes_at_most_three_forwards_and_backwards(demo: lk.Model) -> None:
    """Measured in forwards through the model's blocks, not in seconds: two plain ones, and one with its way back."""
    texts = [f"When Mary and John went to the store,{name} gave a drink to" for name in (" John", " Mary")]
    question = Asked(texts[0], texts[1], "resid_pre", "denoise", logit_diff(" Mary", " John"))
    finish(LivePatching(demo).estimate(question))  # what is found out about a model once
    blocks = demo.anatomy.blocks
    counted: list[int] = []
    taps = [block.register_forward_hook(lambda *_: counted.append(1)) for block in blocks]
    try:
        painted = next(part for part in LivePatching(demo).sweep(question) if isinstance(part, Sweep))
    finally:
        for tap in taps:
            tap.remove()
    assert painted.done < 1
    assert len(counted) <= 3 * len(blocks) + 1  # what enters the first layer is compared, too
