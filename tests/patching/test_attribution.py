"""Attribution: the slope of the metric towards the source, in every site, and what integrated gradients sum to."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.models.sites import LAYERED, axes_of
from lenskit.patching.attribution_patching import attribution, estimated
from lenskit.patching.metrics import kl, log_prob, logit_diff, rank
from lenskit.patching.sources import Resampled
from lenskit.patching.sweeping import Sweeping
from lenskit.patching.sweeps import sweep
from tests.models import by_hand
from tests.models.tiny import tiny
from tests.patching.test_edges import default_weights

CLEAN = torch.tensor([[17, 42, 99, 5, 23, 42, 8]])
CORRUPT = torch.tensor([[17, 42, 31, 5, 64, 42, 8]])
METRIC = logit_diff(7, 11)
OTHERS = ["falcon", "qwen3", "cohere", "phi", "olmo2", "bloom"]
EPS = 1e-3


def wide(run: Any) -> Tensor:
    """The metric without a cast to float32."""
    return diff(run.logits)


def diff(logits: Tensor) -> Tensor:
    return logits[0, -1, 7] - logits[0, -1, 11]


def double(family: str) -> Any:
    return tiny(family, layers=2).double()


# The gradient is the slope towards the source


def moved(site: str, tensor: Tensor, source: Tensor, pos: int, by: float) -> Tensor:
    """A tensor moved at one position towards another one, where they differ."""
    axis = axes_of(site).pos
    at = [slice(None)] * axis + [pos]
    new, there = tensor.clone(), source[tuple(at)]
    step = torch.where(new[tuple(at)] == there, 0.0, there - new[tuple(at)])
    new[tuple(at)] += by * step
    return new


def some_cells(model: lk.Model, site: str) -> Iterator[tuple[int, int]]:
    for layer in model.anatomy.layers_of(site):
        yield from ((layer, pos) for pos in (2, 6))


@pytest.mark.parametrize("family", by_hand.FAMILIES)
def test_an_estimate_is_the_slope_of_the_model_written_out_by_hand(family: str) -> None:
    hf = double(family)
    model = lk.Model(hf)
    with torch.no_grad():
        source = dict[tuple[str, int | None], Tensor]()
        by_hand.by_hand(hf, CLEAN, lambda site, layer, x: source.setdefault((site, layer), x))

        def metric_when_moved(site: str, layer: int, pos: int, by: float) -> float:
            def touch(name: str, at: int | None, x: Tensor) -> Tensor:
                return moved(site, x, source[site, layer], pos, by) if (name, at) == (site, layer) else x

            return float(diff(by_hand.by_hand(hf, CORRUPT, touch)))

        for site in (name for name in LAYERED if name in model.sites):
            with torch.enable_grad():
                found = attribution(model, CLEAN, CORRUPT, site, wide)
            for layer, pos in some_cells(model, site):
                ends = (metric_when_moved(site, layer, pos, by) for by in (EPS, -EPS))
                slope = (next(ends) - next(ends)) / (2 * EPS)
                assert found.effect[layer, pos] == pytest.approx(slope, rel=2e-3, abs=3e-4), (site, layer, pos)


@pytest.mark.parametrize("family", OTHERS)
def test_an_estimate_is_the_slope_in_other_families_too(family: str) -> None:
    model = lk.Model(double(family))
    sites = [name for name in LAYERED if name in model.sites]
    source, base = (model.run(ids, keep=sites) for ids in (CLEAN, CORRUPT))
    for site in sites:
        found = attribution(model, CLEAN, CORRUPT, site, wide)
        for layer, pos in some_cells(model, site):
            values = (moved(site, base[site, layer], source[site, layer], pos, by) for by in (EPS, -EPS))
            ends = [float(wide(model.run(CORRUPT, edits=lk.Set(site, value, layers=layer)))) for value in values]
            slope = (ends[0] - ends[1]) / (2 * EPS)
            assert found.effect[layer, pos] == pytest.approx(slope, rel=2e-3, abs=3e-4), (site, layer, pos)


# Integrated gradients


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox"])
def test_gradients_along_a_sites_activations_sum_to_the_exact_effect_of_all_of_it(family: str) -> None:
    model = lk.Model(double(family))
    sites = [name for name in LAYERED if name in model.sites]
    source, base = model.run(CLEAN, keep=sites), wide(model.run(CORRUPT))
    for site in sites:
        errors = dict[int, float]()
        for steps in (3, 24):
            found = attribution(model, CLEAN, CORRUPT, site, wide, method="ig_activations", steps=steps, layers=[1])
            whole = model.run(CORRUPT, edits=lk.Set(site, source[site, 1], layers=1))
            errors[steps] = abs(found.effect.sum() - float(wide(whole) - base))
        assert errors[24] < 2e-3, (site, errors)
        assert errors[24] < max(errors[3], 1e-4), (site, errors)


@pytest.mark.parametrize("family", ["gpt2", "llama", "granite", "gemma2"])
def test_gradients_along_the_inputs_sum_to_the_whole_difference_at_the_first_layer(family: str) -> None:
    model = lk.Model(double(family))
    found = attribution(model, CLEAN, CORRUPT, "resid_pre", wide, method="ig", steps=60, layers=[0])
    whole = wide(model.run(CLEAN)) - wide(model.run(CORRUPT))
    assert found.effect.sum() == pytest.approx(float(whole), abs=2e-3)


def test_gradients_along_the_inputs_are_the_mean_of_gradients_there() -> None:
    model = lk.Model(double("llama"))
    ends = [model.run(ids, keep=["embed", "z"]) for ids in (CORRUPT, CLEAN)]
    total = torch.zeros_like(ends[0]["z", 1])
    for share in (0.25, 0.75):
        at = lk.Set("embed", ends[0]["embed"] + share * (ends[1]["embed"] - ends[0]["embed"]))
        total += model.run(CORRUPT, edits=at, keep="z", grads=wide).grad["z", 1] / 2
    expected = ((ends[1]["z", 1] - ends[0]["z", 1]) * total).sum((0, 1, 3))
    found = attribution(model, CLEAN, CORRUPT, "z", wide, ("layer", "head"), method="ig", steps=2)
    np.testing.assert_allclose(found.effect[1], expected.numpy(), atol=1e-6)


# Cell by cell with the sweep


OVER: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("resid_pre", ("layer", "pos"), {}),
    ("resid_mid", ("layer", "pos"), {"layers": [1], "positions": [2, 4, 6]}),
    ("attn_out", ("layer", "span"), {"spans": {"first": [2], "rest": slice(3, None)}}),
    ("z", ("layer", "head"), {}),
    ("v", ("layer", "head", "pos"), {}),
    ("q", ("layer", "pos"), {"heads": [0, 3]}),
    ("pattern", ("layer", "head"), {}),
    ("scores", ("layer", "head", "pos"), {"heads": [1]}),
    ("mlp_post", ("layer", "neuron"), {"positions": [4, 5, 6]}),
    ("mlp_pre", ("layer", "neuron", "pos"), {"neurons": range(5)}),
]


@pytest.mark.parametrize(("site", "over", "choice"), OVER, ids=[f"{site} {'-'.join(over)}" for site, over, _ in OVER])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_an_estimate_has_the_cells_of_the_sweep(site: str, over: Any, choice: Any, direction: Any) -> None:
    model = lk.Model(default_weights("gpt2", seed=0))  # with small weights, so that slopes say something
    found = attribution(model, CLEAN, CORRUPT, site, METRIC, over, direction=direction, **choice)
    exact = sweep(model, CLEAN, CORRUPT, site, METRIC, over, direction=direction, **choice)
    assert found.axes == exact.axes
    assert (found.clean, found.corrupt, found.direction) == (exact.clean, exact.corrupt, direction)
    assert exact.exact.all()
    assert not found.exact.any()
    assert (found.engine, found.provenance["estimate"]) == (None, {"method": "gradient"})
    assert found.correlation(exact) > 0.9


def test_what_a_cell_covers_adds_up() -> None:
    model = lk.Model(tiny("llama", layers=2))

    def effect(over: tuple[str, ...], **choice: Any) -> np.ndarray:
        return attribution(model, CLEAN, CORRUPT, "z", METRIC, over, **choice).effect

    each = effect(("layer", "head", "pos"))
    np.testing.assert_allclose(each.sum(2), effect(("layer", "head")), atol=1e-6)
    np.testing.assert_allclose(each.sum(1), effect(("layer", "pos")), atol=1e-6)
    np.testing.assert_allclose(each[:, [0, 2]].sum(1), effect(("layer", "pos"), heads=[0, 2]), atol=1e-6)
    span = effect(("layer", "span"), spans={"some": [2, 4]})
    np.testing.assert_allclose(each[:, :, [2, 4]].sum((1, 2)), span[:, 0], atol=1e-6)


def test_before_the_prompts_differ_nothing_has_an_effect() -> None:
    found = attribution(lk.Model(tiny("gpt2", layers=2)), CLEAN, CORRUPT, "resid_pre", METRIC)
    assert (found.effect[:, :2] == 0).all()
    assert (found.effect[:, 2] != 0).all()


def test_several_pairs_are_estimated_one_by_one() -> None:
    model = lk.Model(tiny("gpt2", layers=2))
    both = attribution(model, [[1, 2, 3], [4, 5, 6]], [[1, 9, 3], [4, 8, 6]], "z", METRIC, ("layer", "head"))
    second = attribution(model, [4, 5, 6], [4, 8, 6], "z", METRIC, ("layer", "head"))
    assert both.over == ("pair", "layer", "head")
    np.testing.assert_allclose(both.values[1], second.values, atol=1e-5)


def test_prompts_of_different_length_go_by_their_alignment() -> None:
    model = lk.Model(tiny("gpt2", layers=2))
    found = attribution(model, [1, 2, 3, 4], [1, 9, 4], "resid_pre", METRIC, align={0: 0, 2: 3})
    exact = sweep(model, [1, 2, 3, 4], [1, 9, 4], "resid_pre", METRIC, align={0: 0, 2: 3})
    assert found.axes == exact.axes
    with pytest.raises(ValueError, match="'ig' goes from one prompt to another of its length"):
        attribution(model, [1, 2, 3, 4], [1, 9, 4], "resid_pre", METRIC, align={0: 0, 2: 3}, method="ig")


def test_edits_of_the_models_own_act_in_both_runs() -> None:
    model = lk.Model(double("gpt2"))
    with model.edit(lk.Scale("attn_out", 0.5, layers=0), lk.Add("resid_pre", 0.3, layers=1)):
        for method in ("gradient", "ig", "ig_activations"):
            found = attribution(model, CLEAN, CORRUPT, "resid_pre", wide, method=method, steps=40)
            if method != "gradient":
                whole = wide(model.run(CLEAN)) - wide(model.run(CORRUPT))
                assert found.effect[0].sum() == pytest.approx(float(whole), abs=2e-3)
            assert found.provenance["edits"]


# What it takes, and what it refuses


def test_a_gradient_takes_one_backward_and_a_forward_of_each_prompt() -> None:
    hf: Any = tiny("gpt2", layers=2)
    model = lk.Model(hf)
    attribution(model, CLEAN, CORRUPT, "z", METRIC)  # measures the model once
    calls = list[bool]()
    handle = hf.transformer.ln_f.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    job = Sweeping(model, CLEAN, CORRUPT, "z", METRIC)
    estimated(job)
    handle.remove()
    assert calls.count(True) == 1
    assert len(calls) <= 3


def test_a_metric_of_your_own_and_one_that_measures_from_the_clean_prompt() -> None:
    model = lk.Model(default_weights("llama", seed=0))
    own = attribution(model, CLEAN, CORRUPT, "z", lambda run: diff(run.logits))
    np.testing.assert_allclose(own.values, attribution(model, CLEAN, CORRUPT, "z", METRIC).values, atol=1e-5)
    for metric in (kl(), log_prob(7)):
        found = attribution(model, CLEAN, CORRUPT, "z", metric)
        assert found.correlation(sweep(model, CLEAN, CORRUPT, "z", metric)) > 0.8


def test_what_has_no_estimate_is_refused() -> None:
    model = lk.Model(tiny("gpt2", layers=2))
    with pytest.raises(TypeError, match="has no gradient"):
        attribution(model, CLEAN, CORRUPT, "z", rank(7))
    with pytest.raises(ValueError, match="'gradient', 'ig' or 'ig_activations'"):
        attribution(model, CLEAN, CORRUPT, "z", METRIC, method="shapley")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least one step"):
        attribution(model, CLEAN, CORRUPT, "z", METRIC, method="ig", steps=0)
    with pytest.raises(ValueError, match="several layers at once has no gradient estimate"):
        estimated(Sweeping(model, CLEAN, CORRUPT, "z", METRIC, window=2))
    with pytest.raises(ValueError, match="a source that draws has several"):
        estimated(Sweeping(model, CLEAN, None, "z", METRIC, source=Resampled((CORRUPT, CLEAN), draws=2)))


def test_nothing_is_left_behind() -> None:
    hf = tiny("llama", layers=2)
    before = hf(CLEAN).logits
    for method in ("gradient", "ig", "ig_activations"):
        attribution(lk.Model(hf), CLEAN, CORRUPT, "pattern", METRIC, method=method)
    assert torch.equal(hf(CLEAN).logits, before)
    assert all(parameter.grad is None for parameter in hf.parameters())
    assert not any(_hooks(module) for module in hf.modules())


def _hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def test_which_heads_matter_for_an_indirect_object(demo: lk.Model) -> None:
    clean = "When Mary and John went to the store, John gave a drink to"
    corrupt = "When Mary and John went to the store, Mary gave a drink to"
    metric = logit_diff(" Mary", " John")
    found = attribution(demo, clean, corrupt, "z", metric, ("layer", "head"))
    exact = sweep(demo, clean, corrupt, "z", metric, ("layer", "head"))
    assert found.correlation(exact) > 0.95
    assert found.best(1)[0].where == exact.best(1)[0].where
