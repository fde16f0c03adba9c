"""A sweep equals one whole forward for each of its cells, whatever is patched, from where, and how it is measured."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lenskit.models.edits import Add, Edit, Scale, Set
from lenskit.patching.metrics import Metric, kl, log_prob, logit_diff, prob, rank
from lenskit.patching.sources import Means, Noised, Resampled
from lenskit.patching.sweeps import Sweep, Sweeping, sweep
from lenskit.patching.swept import Direction
from tests.models.by_hand import FAMILIES
from tests.patching.one_by_one import everything, model_of, one_by_one

SITES = {
    "resid_pre": [("layer", "pos")],
    "resid_mid": [("layer", "pos")],
    "resid_post": [("layer", "pos")],
    "attn_out": [("layer", "pos")],
    "mlp_out": [("layer", "pos")],
    "q": [("layer", "pos"), ("layer", "head")],
    "k": [("layer", "head"), ("layer", "head", "pos")],
    "v": [("layer", "pos"), ("layer", "head", "pos")],
    "z": [("layer", "pos"), ("layer", "head"), ("layer", "head", "pos")],
    "pattern": [("layer", "pos"), ("layer", "head"), ("layer", "head", "pos")],
    "mlp_post": [("layer", "pos"), ("layer", "neuron")],
    "mlp_pre": [("layer", "pos")],
}
prompts = st.lists(st.integers(1, 130), min_size=5, max_size=5)


def numbers_of(metric: Metric, clean: Tensor) -> Callable[[Tensor], float]:
    """The metric by its definition, of logits (pos, vocab)."""
    definitions: dict[Metric, Callable[[Tensor], Tensor]] = {
        logit_diff(7, 9): lambda x: x[-1, 7] - x[-1, 9],
        logit_diff([7, 4], [9, 2], pos=3): lambda x: (x[3, 7] - x[3, 9] + x[3, 4] - x[3, 2]) / 2,
        prob(11): lambda x: x[-1].softmax(-1)[11],
        log_prob(11, pos=-2): lambda x: x[-2].log_softmax(-1)[11],
        rank(5): lambda x: (x[-1] > x[-1, 5]).sum(),
        kl(): lambda x: (clean[-1].softmax(-1) * (clean[-1].log_softmax(-1) - x[-1].log_softmax(-1))).sum(),
    }
    definition = definitions[metric]
    return lambda logits: float(definition(logits))


DIRECTIONS: list[Direction] = ["denoise", "noise"]
METRICS = [
    logit_diff(7, 9),
    logit_diff([7, 4], [9, 2], pos=3),
    prob(11),
    log_prob(11, pos=-2),
    rank(5),
    kl(),
]


def near(made: Any, expected: Any) -> None:
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


def close(sweep: Sweep, expected: np.ndarray, metric: Metric | None = None) -> None:
    assert sweep.exact.all()
    if metric == rank(5):  # two logits that are equal but for noise may change places
        assert (np.abs(sweep.values - expected) <= 1).all()
        assert np.mean(sweep.values != expected) < 0.1
    else:
        near(sweep.values, expected)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8)
@given(data=st.data())
def test_patching_another_prompt_in(family: str, data: st.DataObject) -> None:
    model = model_of(family)
    site = data.draw(st.sampled_from([site for site in SITES if site in model.sites]))
    over = data.draw(st.sampled_from(SITES[site]))
    metric, direction = data.draw(st.sampled_from(METRICS)), data.draw(st.sampled_from(DIRECTIONS))
    clean, corrupt = data.draw(prompts), data.draw(prompts)
    shared = data.draw(st.integers(0, 4))
    corrupt = clean[:shared] + corrupt[shared:]

    made = sweep(model, clean, corrupt, site, metric, over, direction=direction)

    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    values, _ = everything(model.hf_model, source)
    number = numbers_of(metric, everything(model.hf_model, clean)[1])
    close(made, one_by_one(model.hf_model, base, site, over, values, number), metric)
    assert made.clean == pytest.approx(number(everything(model.hf_model, clean)[1]), abs=1e-4)
    assert made.corrupt == pytest.approx(number(everything(model.hf_model, corrupt)[1]), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(data=st.data())
def test_windows_of_layers(family: str, data: st.DataObject) -> None:
    model, metric = model_of(family), logit_diff(7, 9)
    site, window = data.draw(st.sampled_from(["attn_out", "mlp_out", "resid_pre"])), data.draw(st.integers(2, 4))
    clean, corrupt = data.draw(prompts), data.draw(prompts)
    made = sweep(model, clean, corrupt, site, metric, window=window)
    values, logits = everything(model.hf_model, clean)
    expected = one_by_one(
        model.hf_model, corrupt, site, ("layer", "pos"), values, numbers_of(metric, logits), window=window
    )
    close(made, expected)


@pytest.mark.parametrize("site", ["resid_pre", "z", "mlp_post", "pattern"])
@settings(max_examples=4)
@given(data=st.data())
def test_ablations(site: str, data: st.DataObject) -> None:
    model, metric = model_of(data.draw(st.sampled_from(FAMILIES))), prob(11)
    over = data.draw(st.sampled_from([over for over in SITES[site] if "neuron" not in over]))
    prompt, others = data.draw(prompts), data.draw(st.lists(prompts, min_size=2, max_size=3))
    kept, logits = everything(model.hf_model, prompt)
    number = numbers_of(metric, logits)
    seen = [everything(model.hf_model, other)[0] for other in others]
    mean = {key: torch.stack([each[key] for each in seen]).mean(0) for key in kept if key[0] == site}
    zero = {key: torch.zeros_like(value) for key, value in kept.items()}

    def expected(values: Any) -> np.ndarray:
        return one_by_one(model.hf_model, prompt, site, over, values, number)

    close(sweep(model, prompt, site=site, metric=metric, over=over, source="zero"), expected(zero))
    close(sweep(model, prompt, site=site, metric=metric, over=over, source=Means(tuple(others))), expected(mean))
    # Of all prompts drawn, the mean of what each of them gives; of one, what one of them gives.
    each = np.stack([expected(values) for values in seen])
    every = Resampled(tuple(others), draws=len(others))
    close(sweep(model, prompt, site=site, metric=metric, over=over, source=every), each.mean(0))
    one = sweep(model, prompt, site=site, metric=metric, over=over, source=Resampled(tuple(others), seed=4))
    assert (np.abs(each - one.values).min(0) < 1e-4).all()
    again = sweep(model, prompt, site=site, metric=metric, over=over, source=Resampled(tuple(others), seed=4))
    assert (again.values == one.values).all()
    if site != "pattern":
        flat = {key: value.mean(0, keepdim=True).expand_as(value) for key, value in kept.items() if key[0] == site}
        close(sweep(model, prompt, site=site, metric=metric, over=over, source="mean"), expected(flat))
        total = {key: torch.cat([each[key] for each in seen]).mean(0).expand_as(kept[key]) for key in mean}
        means = Means(tuple(others), over="all")
        close(sweep(model, prompt, site=site, metric=metric, over=over, source=means), expected(total))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("site", "window"), [("resid_pre", 1), ("mlp_out", 2)])
def test_causal_tracing(family: str, site: str, window: int) -> None:
    model, prompt, metric = model_of(family), [5, 17, 80, 3, 44], prob(11)
    hf, draws, scale, pos = model.hf_model, 2, 3.0, [1, 2]
    source = Noised(pos, scale=scale, draws=draws, seed=5)
    made = sweep(model, prompt, site=site, metric=metric, source=source, window=window)

    kept, logits = everything(hf, prompt)
    number = numbers_of(metric, logits)
    generator = torch.Generator().manual_seed(5)
    size = scale * float(hf.get_input_embeddings()(torch.arange(131)).detach().std())
    expected, noised = [], []
    for _ in range(draws):
        noise = torch.zeros_like(kept["embed", None])
        noise[pos] = size * torch.randn(len(pos), noise.shape[1], generator=generator)
        noised.append(number(everything(hf, prompt, noise)[1]))
        expected.append(one_by_one(hf, prompt, site, ("layer", "pos"), kept, number, window=window, noise=noise))
    close(made, np.mean(expected, 0))
    assert made.clean == pytest.approx(number(logits), abs=1e-5)
    assert made.corrupt == pytest.approx(np.mean(noised), abs=1e-5)
    assert made.direction == "denoise"


def test_prompts_of_different_length_with_a_map() -> None:
    model, metric = model_of("llama"), logit_diff(7, 9)
    clean, corrupt = [5, 17, 80, 3, 44, 2], [5, 90, 3, 44, 2]
    align = {0: 0, 1: 2, 2: 3, 3: 4, 4: 5}
    made = sweep(model, clean, corrupt, "resid_mid", metric, align=align)
    values, logits = everything(model.hf_model, clean)
    number = numbers_of(metric, logits)
    over = ("layer", "pos")
    close(made, one_by_one(model.hf_model, corrupt, "resid_mid", over, values, number, align=align))

    some = {b: s for b, s in align.items() if b != 1}
    made = sweep(model, clean, corrupt, "z", metric, ("layer", "head"), align=some)
    pos = sorted(some)
    close(made, one_by_one(model.hf_model, corrupt, "z", ("layer", "head"), values, number, align=some, pos=pos))
    assert sweep(model, clean, corrupt, metric=metric, align=some).axes[1].ticks == tuple(pos)


def test_only_some_layers_positions_heads_and_neurons() -> None:
    model, metric = model_of("llama"), logit_diff(7, 9)
    clean, corrupt = [5, 17, 80, 3, 44], [9, 18, 81, 4, 45]
    whole = sweep(model, clean, corrupt, "z", metric, ("layer", "head", "pos"))
    some = sweep(
        model, clean, corrupt, "z", metric, ("layer", "head", "pos"), layers=[2, 0], heads=[1], positions=[-1, 1]
    )
    assert [axis.ticks for axis in some.axes] == [(0, 2), (1,), (1, 4)]
    near(some.values, whole.values[np.ix_([0, 2], [1], [1, 4])])
    # What is no axis is patched together.
    values, logits = everything(model.hf_model, clean)
    number = numbers_of(metric, logits)
    made = sweep(model, clean, corrupt, "mlp_post", metric, ("layer", "neuron"), positions=[2, 3], neurons=range(5))
    expected = one_by_one(model.hf_model, corrupt, "mlp_post", ("layer", "neuron"), values, number, pos=[2, 3])
    close(made, expected[:, :5])


def test_a_function_of_a_run_sees_the_logits_of_every_cell_at_all_positions() -> None:
    model, clean, corrupt = model_of("gemma2"), [5, 17, 80, 3, 44], [5, 17, 81, 3, 44]

    def loss(run: Any) -> Tensor:
        assert run.tokens.shape == (1, 5)
        return run.loss

    made = sweep(model, clean, corrupt, "attn_out", loss)
    values, _ = everything(model.hf_model, clean)

    def number(logits: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(corrupt[1:])))

    close(made, one_by_one(model.hf_model, corrupt, "attn_out", ("layer", "pos"), values, number))
    assert "loss" in made.metric


@pytest.mark.parametrize(
    "other", [Scale("mlp_out", 0.5, layers=2), Add("final_norm", torch.linspace(-2, 1, 32))], ids=repr
)
def test_edits_that_stay_act_in_both_runs(other: Edit) -> None:
    model, clean, corrupt = model_of("gpt2"), [5, 17, 80, 3, 44], [5, 17, 81, 3, 44]
    metric = logit_diff(7, 9)
    steering = Add("resid_post", torch.linspace(-1, 1, 32), layers=0)
    with model.edit(steering, other):
        made = sweep(model, clean, corrupt, "attn_out", metric)
        kept = model.run(clean, keep="attn_out")["attn_out"]
        expected = [
            [
                float(x[0, -1, 7] - x[0, -1, 9])
                for pos in range(5)
                for x in [model.run(corrupt, edits=Set("attn_out", kept[layer, 0, pos], layers=layer, pos=pos)).logits]
            ]
            for layer in range(3)
        ]
    near(made.values, expected)
    assert len(made.provenance["edits"]) == 2
    assert not np.allclose(made.values, sweep(model, clean, corrupt, "attn_out", metric).values)


def test_several_pairs_are_swept_as_each_by_itself() -> None:
    model = model_of("llama")
    cleans, corrupts = [[5, 17, 80, 3, 44], [1, 2, 3, 4, 5]], [[5, 17, 81, 3, 44], [1, 9, 3, 4, 5]]
    metrics = [logit_diff(7, 9), logit_diff(9, 7)]
    both = sweep(model, cleans, corrupts, metric=metrics)
    alone = [sweep(model, a, b, metric=m) for a, b, m in zip(cleans, corrupts, metrics, strict=True)]
    assert both.over == ("pair", "layer", "pos")
    near(both.values, [each.values for each in alone])
    near(both.clean, [each.clean for each in alone])
    near(both.normalised, [each.normalised for each in alone])
    mean = both.mean()
    near(mean.values, np.mean([each.values for each in alone], 0))
    assert mean.clean == pytest.approx(np.asarray(both.clean).mean())
    # Of other lengths only where positions are no axis.
    with pytest.raises(ValueError, match="5, 4 tokens: position 5 of one is not position 5 of another"):
        sweep(model, [cleans[0], [1, 2, 3, 4]], [corrupts[0], [1, 9, 3, 4]], metric=metrics)
    heads = sweep(model, [cleans[0], [1, 2, 3, 4]], [corrupts[0], [1, 9, 3, 4]], "z", metrics, ("layer", "head"))
    second = sweep(model, [1, 2, 3, 4], [1, 9, 3, 4], "z", metrics[1], ("layer", "head"))
    near(heads.values[1], second.values)


def test_where_the_two_runs_are_the_same_nothing_is_computed_and_the_effect_is_exactly_zero() -> None:
    model, clean, corrupt = model_of("llama"), [5, 17, 80, 3, 44], [5, 17, 81, 3, 44]
    job = Sweeping(model, clean, corrupt, metric=logit_diff(7, 9))
    begun = next(job.steps())
    assert begun is not None
    same = begun.exact
    assert same[:, :2].all()
    assert not same[1:, 2:].any()
    assert same[0].tolist() == [True, True, False, True, True]  # of what enters the first block, one token's alone
    made = job.run()
    assert (made.effect[same] == 0).all()
    assert sweep(model, clean, clean, metric=logit_diff(7, 9)).effect.tolist() == [[0.0] * 5] * 3
