"""A sweep at work: estimated first, done in a useful order, stopped anywhere, and taken up again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lenskit.models.edits import Set, Zero
from lenskit.models.model import Model
from lenskit.models.sites import SiteUnavailable
from lenskit.patching.grid import Grid
from lenskit.patching.metrics import logit_diff, prob
from lenskit.patching.sources import Means, Noised, Resampled
from lenskit.patching.sweeps import Sweep, Sweeping, sweep
from lenskit.patching.swept import Axis
from tests.models.tiny import tiny, tiny_tokenizer
from tests.patching.one_by_one import model_of

CLEAN, CORRUPT = [5, 17, 80, 3, 44, 21], [5, 18, 81, 3, 45, 22]
METRIC = logit_diff(7, 9)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows at once, so that a small sweep takes many chunks."""
    monkeypatch.setattr("lenskit.patching.engine._MOST_ROWS", 12)


def job_of(**options: object) -> Sweeping:
    return Sweeping(model_of("llama"), CLEAN, CORRUPT, metric=METRIC, **options)  # pyright: ignore[reportArgumentType]


def hooks(job: Sweeping) -> int:
    modules = job.model.hf_model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m)) for m in modules)


@pytest.mark.usefixtures("small_chunks")
def test_it_breathes_between_layers_and_shows_the_sweep_so_far() -> None:
    job = job_of()
    seen = list(job.steps())
    parts = [step for step in seen if step is not None]
    assert sum(step is None for step in seen) >= len(parts) - 1 > 2
    done = [int(part.exact.sum()) for part in parts]
    assert done == sorted(done)
    assert done[-1] == 18 == job.done == job.total
    whole = sweep(job.model, CLEAN, CORRUPT, metric=METRIC)
    for part in parts:
        np.testing.assert_allclose(part.values[part.exact], whole.values[part.exact], rtol=1e-5, atol=1e-5)
        assert np.isnan(part.values[~part.exact]).all()


@pytest.mark.usefixtures("small_chunks")
def test_ctrl_c_keeps_what_is_done_and_run_goes_on() -> None:
    job = job_of()

    def stop(done: int, total: int) -> None:
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(stop)
    done = job.done
    assert 8 < done < job.total
    assert not job.sweep.exact.all()
    assert hooks(job) == 0
    counts = list[int]()
    made = job.run(lambda done, total: counts.append(done))
    assert min(counts) >= done
    assert made.exact.all()
    np.testing.assert_allclose(made.values, sweep(job.model, CLEAN, CORRUPT, metric=METRIC).values, atol=1e-5)


@pytest.mark.usefixtures("small_chunks")
def test_closing_it_anywhere_leaves_nothing_behind_and_every_stop_can_be_gone_on_from() -> None:
    whole = sweep(model_of("llama"), CLEAN, CORRUPT, metric=METRIC).values
    logits = model_of("llama").run(CLEAN).logits
    for breaths in (1, 2, 5, 9):
        job = job_of()
        steps = job.steps()
        for _ in range(breaths):
            next(steps)
        steps.close()
        assert hooks(job) == 0
        assert bool((job.model.run(CLEAN).logits == logits).all())
        np.testing.assert_allclose(job.run().values, whole, atol=1e-5)


@pytest.mark.usefixtures("small_chunks")
def test_a_part_on_disk_is_taken_up_again(tmp_path: Path) -> None:
    job = job_of()
    steps = job.steps()
    while job.done < 8:
        next(steps)
    steps.close()
    part = Sweep.load(job.sweep.save(tmp_path / "part.json"))
    assert 0 < part.done < 1
    going_on = job_of(resume=part)
    assert going_on.done == part.exact.sum()
    np.testing.assert_allclose(going_on.run().values, job.run().values, atol=1e-5)
    assert (going_on.sweep.values[part.exact] == part.values[part.exact]).all()


def test_a_part_of_another_question_is_refused() -> None:
    part = job_of().sweep
    with pytest.raises(ValueError, match="another question, its metrics"):
        Sweeping(model_of("llama"), CLEAN, CORRUPT, metric=prob(7), resume=part)
    with pytest.raises(ValueError, match="another question, its base"):
        Sweeping(model_of("llama"), CLEAN, [*CORRUPT[:-1], 9], metric=METRIC, resume=part)
    with pytest.raises(ValueError, match=r"another question, its (direction|source)"):
        Sweeping(model_of("llama"), CLEAN, CORRUPT, metric=METRIC, direction="noise", source="zero", resume=part)
    with pytest.raises(ValueError, match="another edits"), model_of("llama").edit(Zero("attn_out", layers=0)):
        job_of(resume=part)


@pytest.mark.usefixtures("small_chunks")
def test_the_strongest_by_an_estimate_come_first_and_show_it_until_they_are_exact() -> None:
    whole = sweep(model_of("llama"), CLEAN, CORRUPT, metric=METRIC)
    estimate = replace(whole, values=whole.values + 0.5, exact=np.zeros(whole.values.shape))
    job = job_of(estimate=estimate)
    begun, part = (step for step, _ in zip(filter(None, job.steps()), range(2), strict=False))
    strength = np.abs(estimate.effect)
    assert strength[part.exact & ~begun.exact].min() >= strength[~part.exact].max()
    assert (part.values[~part.exact] == estimate.values[~part.exact]).all()
    with pytest.raises(ValueError, match=r"the estimate has shape \(2, 2\), and this sweep \(3, 6\)"):
        job_of(estimate=np.zeros((2, 2)))


def test_without_an_estimate_the_first_cells_are_spread_over_the_layers() -> None:
    layers, pos = Axis("layer", tuple(range(12)), ()), Axis("pos", (0, 1), ("a", "b"))
    order = (Grid("resid_pre", (layers, pos), tuple(range(12)), (0, 1)).coarse_first() // 2).tolist()
    assert sorted(order) == sorted([*range(12)] * 2)
    assert order[:8] == [11, 11, 3, 3, 7, 7, 9, 9]


def test_the_cost_is_estimated_before_and_what_does_not_fit_is_refused() -> None:
    job = job_of()
    assert job.cost.rows > 0
    assert job.cost.seconds > 0
    assert job.cost.bytes > 0
    assert job.done == 0
    job.run()
    assert job.cost.rows == 0
    with pytest.raises(MemoryError, match=r"the 'pattern' of all layers swept would take .* and memory= allows .*"):
        Sweeping(model_of("llama"), CLEAN, CORRUPT, "pattern", METRIC, memory=100)


def test_it_follows_no_edit_that_was_made_after_it_began() -> None:
    job = job_of()
    with model_of("llama").edit(Zero("attn_out", layers=0)), pytest.raises(RuntimeError, match="edits have changed"):
        job.run()
    job.run()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"site": "resid_pre", "over": ("layer", "head")}, ValueError, "cannot be swept over .* It can be over"),
        ({"site": "embed"}, SiteUnavailable, "none of the sites in each layer"),
        ({"layers": [7]}, IndexError, "layer 7 does not exist"),
        ({"positions": [9]}, IndexError, "position 9 does not exist"),
        ({"heads": [1]}, ValueError, "'resid_pre' has no heads to choose"),
        ({"site": "z", "heads": [4]}, IndexError, "head 4 does not exist"),
        ({"over": ("layer", "span")}, ValueError, "a sweep over spans needs them"),
        ({"window": 0}, ValueError, "window=0"),
        ({"direction": "sideways"}, ValueError, "direction='sideways'"),
        ({"source": "ones"}, TypeError, "source='ones'"),
        ({"source": Means(([1, 2],))}, ValueError, "prompt 0 of the source has 2 tokens, the patched one 6"),
        ({"source": Noised([1])}, TypeError, "leave corrupt= out"),
        ({"source": "zero", "align": {0: 0}}, TypeError, "align= pairs the positions of two prompts"),
        ({"metric": None}, TypeError, "a sweep measures something"),
        ({"corrupt": None}, TypeError, "give corrupt=; or what else to put in"),
        ({"clean": [[1, 2], [3, 4]]}, ValueError, "2 clean prompts and 1 corrupt"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], error: type[Exception], says: str) -> None:
    asked = {"clean": CLEAN, "corrupt": CORRUPT, "site": "resid_pre", "metric": METRIC, **options}
    with pytest.raises(error, match=says):
        Sweeping(model_of("llama"), **asked)


def test_a_source_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="draws=3: at least 1, and at most the 2 prompts"):
        Resampled(([1], [2]), draws=3)
    with pytest.raises(ValueError, match=r"a mean is over 'position', or over 'all'"):
        Means(over="pos")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="noise has a scale above 0"):
        Noised([1], scale=0)
    with pytest.raises(TypeError, match="Means takes a list of prompts"):
        Means("one prompt")  # pyright: ignore[reportArgumentType]


def test_spans_are_parts_of_the_text_or_positions() -> None:
    model = Model(tiny("llama", vocab=300), tiny_tokenizer())
    ids = model.text.ids("When Mary went to the store")
    other = [*ids[:2], 40, *ids[3:]]
    spans = {"start": " went", "end": [-1], "all": slice(None)}
    made = sweep(model, ids, other, "attn_out", METRIC, ("layer", "span"), spans=spans)
    assert made.axes[1].labels == ("start", "end", "all")
    where = [range(*model.text.span(other, " went").indices(len(ids))), [len(ids) - 1], range(len(ids))]
    kept = model.run(ids, keep="attn_out")["attn_out"]
    for layer in range(3):
        for n, pos in enumerate(where):
            put = Set("attn_out", kept[layer, 0, list(pos)], layers=layer, pos=list(pos))
            logits = model.run(other, edits=put).logits[0, -1]
            assert made.values[layer, n] == pytest.approx(float(logits[7] - logits[9]), abs=1e-4)
    assert made.best(1)[0].where["span"] in spans
    with pytest.raises(ValueError, match="' nowhere' is not in this prompt"):
        sweep(model, ids, other, "attn_out", METRIC, ("layer", "span"), spans=[" nowhere"])
