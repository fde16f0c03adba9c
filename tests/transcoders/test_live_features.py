"""LiveFeatures: what fires on a prompt as it is typed, and what changing one feature does, against plain runs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.models.identity import ModelMismatch
from lenskit.models.steps import finish
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.index.feature_index import FeatureIndex
from lenskit.transcoders.live import LiveFeatures, Steered
from lenskit.transcoders.splicing import spliced
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import CORPUS, tiny, tiny_tokenizer

PROMPT = "The key to the cabinet is the key"
D, FEATURES = 32, 64


def model(kind: str = "llama") -> lk.Model:
    return made(kind)


@cache
def made(kind: str) -> lk.Model:
    return lk.Model(tiny(kind, vocab=300, layers=3), tiny_tokenizer(300), name="tiny")


def dictionary(normalise: Any = "none", writes: tuple[int, ...] = (1,), site: str = "mlp_out") -> Transcoder:
    noise = torch.Generator().manual_seed(0)
    return Transcoder(
        torch.randn(FEATURES, D, generator=noise) / D**0.5,
        torch.randn(FEATURES, generator=noise) / 4,
        torch.randn(len(writes), FEATURES, D, generator=noise) / 4,
        None,
        TopK(6),
        reads=("mlp_in", 1),
        writes=[(site, layer) for layer in writes],
        normalise=normalise,
        restores=normalise != "layer norm",
    )


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], FeatureIndex]:
    """The index of a basis, made once."""
    made: dict[str, FeatureIndex] = {}

    def index(basis: Any, kind: str = "llama") -> FeatureIndex:
        name = f"{kind} {basis!r} {getattr(basis, 'normalise', '')}"
        if name not in made:
            folder = tmp_path_factory.mktemp("index") / "here"
            made[name] = FeatureIndex.build(
                model(kind), basis, CORPUS * 4, folder, length=16, top=4, per_band=2, on_progress=lambda _: None
            )
        return made[name]

    return index


def distribution(edits: Any = (), prompt: str = PROMPT, kind: str = "llama") -> torch.Tensor:
    return model(kind).run(prompt, edits=edits).logits[0, -1].softmax(-1)


def active_feature(live: LiveFeatures, prompt: str = PROMPT) -> int:
    """The one that is strongest on the prompt."""
    fired = finish(live.read(prompt))
    features, peaks = fired.peaks()
    return int(features[peaks.argmax()])


class TestWhatFires:
    @pytest.mark.parametrize("basis", [("mlp_post", 1), "dictionary"])
    def test_is_what_the_index_says_of_the_prompt(self, indexed: Any, basis: Any) -> None:
        basis = dictionary() if basis == "dictionary" else basis
        index = indexed(basis)
        fired = finish(LiveFeatures(index, model()).read(PROMPT))
        plain = index.firing(model(), PROMPT)
        assert fired.ids.tolist() == list(plain.ids)
        for feature in range(index.n_features):
            np.testing.assert_allclose(fired.of(feature), plain.of(feature), atol=1e-5)

    def test_typing_on_runs_the_new_positions_only_and_gives_the_same(self, indexed: Any) -> None:
        index = indexed(("mlp_post", 1))
        live = LiveFeatures(index, model())
        finish(live.read(PROMPT))
        longer = finish(live.read(PROMPT + " to"))
        whole = finish(LiveFeatures(index, model()).read(PROMPT + " to"))
        assert longer.ran < len(longer.ids)
        assert whole.ran == len(whole.ids)
        for feature in range(index.n_features):
            np.testing.assert_allclose(longer.of(feature), whole.of(feature), atol=1e-5)
        shorter = finish(live.read(PROMPT[:20]))
        again = finish(LiveFeatures(index, model()).read(PROMPT[:20]))
        for feature in range(index.n_features):
            np.testing.assert_allclose(shorter.of(feature), again.of(feature), atol=1e-5)

    def test_the_same_prompt_is_not_run_again_unless_the_model_was_edited(self, indexed: Any) -> None:
        live = LiveFeatures(indexed(("mlp_post", 1)), model())
        before = finish(live.read(PROMPT))
        assert finish(live.read(PROMPT)).ran == 0
        with model().edit(lk.Scale("resid_post", 2.0, layers=0)):
            edited = finish(live.read(PROMPT))
            assert edited.ran == len(edited.ids)
        assert finish(live.read(PROMPT)).ran == len(before.ids)
        assert edited.values.shape != before.values.shape or not np.allclose(edited.values, before.values)

    def test_its_views_agree_with_each_other(self, indexed: Any) -> None:
        fired = finish(LiveFeatures(indexed(dictionary()), model()).read(PROMPT))
        dense = np.stack([fired.of(feature) for feature in range(FEATURES)])
        features, peaks = fired.peaks()
        np.testing.assert_array_equal(features, np.flatnonzero(dense.max(1)))
        np.testing.assert_array_equal(peaks, dense.max(1)[features])
        for pos in range(len(fired.ids)):
            here, values = fired.at(pos)
            np.testing.assert_array_equal(dense[here, pos], values)
            assert len(here) == (dense[:, pos] > 0).sum()

    def test_nothing_fires_where_the_index_does_not_look(self, indexed: Any) -> None:
        fired = finish(LiveFeatures(indexed(("mlp_post", 1)), model()).read(PROMPT))
        assert len(fired.at(0)[0]) == 0

    def test_another_model_is_refused(self, indexed: Any) -> None:
        other = lk.Model(tiny("llama", seed=1, vocab=300, layers=3), tiny_tokenizer(300), name="other")
        with pytest.raises(ModelMismatch):
            LiveFeatures(indexed(("mlp_post", 1)), other)


class TestAChange:
    def test_ablating_a_neuron_is_setting_it_to_zero_wherever_it_is_active(self, indexed: Any) -> None:
        live = LiveFeatures(indexed(("mlp_post", 1)), model())
        neuron = active_feature(live)
        on = torch.from_numpy(finish(live.read(PROMPT)).of(neuron) > 0)

        def without(x: torch.Tensor) -> torch.Tensor:
            x[0, on, neuron] = 0
            return x

        expected = distribution(lk.Call("mlp_post", without, layers=1))
        torch.testing.assert_close(distribution(live.edits(PROMPT, neuron)), expected)
        assert not torch.allclose(expected, distribution(), atol=1e-7)

    @pytest.mark.parametrize("normalise", ["none", "norm", "layer norm"])
    def test_of_a_dictionary_is_splicing_it_in_with_its_error(self, indexed: Any, normalise: Any) -> None:
        basis = dictionary(normalise)
        live = LiveFeatures(indexed(basis), model(), basis)
        feature = active_feature(live)
        plain = spliced(basis, errors_on=(model(), PROMPT))
        skip = live.index.skip
        weight = basis.W_dec.clone()

        # The same dictionary with its feature turned up by 3, from the first position that is looked at.
        def amplified(x: torch.Tensor) -> torch.Tensor:
            ordinary = plain[0].fn(x)
            basis.W_dec[0, feature] = 3 * weight[0, feature]
            louder = plain[0].fn(x)
            basis.W_dec[0, feature] = weight[0, feature]
            louder[:, :skip] = ordinary[:, :skip]
            return louder

        edit = lk.Splice("mlp_in", "mlp_out", amplified, layers=1, error=plain[0].error)
        expected = distribution(edit)
        got = distribution(live.edits(PROMPT, feature, by="scale", amount=3.0))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)

    def test_of_a_cross_layer_dictionary_writes_every_site(self, indexed: Any) -> None:
        basis = dictionary(writes=(1, 2))
        live = LiveFeatures(indexed(basis), model(), basis)
        feature = active_feature(live)
        edits = live.edits(PROMPT, feature)
        on = torch.from_numpy(finish(live.read(PROMPT)).of(feature))
        assert [(edit.site, edit.layers) for edit in edits] == [("mlp_out", 1), ("mlp_out", 2)]
        for write, edit in enumerate(edits):
            torch.testing.assert_close(torch.as_tensor(edit.value), -on[:, None] * basis.W_dec[write, feature])

    def test_adding_makes_it_stronger_by_a_share_of_its_maximum_at_one_token(self, indexed: Any) -> None:
        index = indexed(("mlp_post", 1))
        live = LiveFeatures(index, model())
        (edit,) = live.edits(PROMPT, 5, by="add", amount=2.0, pos=3)
        value = torch.as_tensor(edit.value)
        assert value[3, 5] == pytest.approx(2 * float(index.max[5]))
        assert torch.count_nonzero(value) == 1
        (last,) = live.edits(PROMPT, 5, by="add", amount=2.0)
        assert torch.as_tensor(last.value)[-1, 5] > 0

    @pytest.mark.parametrize(
        ("wrong", "error", "said"),
        [
            ({"feature": 999}, IndexError, "feature 999 does not exist: there are features 0 to 95"),
            ({"pos": 99, "by": "add"}, IndexError, "position 99 does not exist"),
            ({"by": "set"}, ValueError, "'scale' or by 'add', not 'set'"),
            ({"amount": 1.0}, ValueError, "that is no change"),
            ({"by": "add", "amount": 0.0}, ValueError, "that is no change"),
        ],
    )
    def test_that_does_not_exist_or_changes_nothing_is_refused(
        self, indexed: Any, wrong: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        live = LiveFeatures(indexed(("mlp_post", 1)), model())
        with pytest.raises(error, match=said):
            live.edits(PROMPT, **{"feature": active_feature(live), **wrong})

    def test_of_a_feature_that_is_silent_says_so(self, indexed: Any) -> None:
        live = LiveFeatures(indexed(dictionary()), model())
        features, _ = finish(live.read(PROMPT)).peaks()
        silent = next(f for f in range(FEATURES) if f not in features)
        with pytest.raises(ValueError, match="it is silent on this prompt"):
            live.edits(PROMPT, silent)


class TestSteering:
    @pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
    def test_before_and_after_are_those_of_plain_runs(self, indexed: Any, kind: str) -> None:
        live = LiveFeatures(indexed(("mlp_post", 1), kind), model(kind), draws=3)
        neuron = active_feature(live)
        steered = finish(live.steer(PROMPT, neuron, "scale", 0.0))
        before, after = distribution(kind=kind), distribution(live.edits(PROMPT, neuron), kind=kind)
        np.testing.assert_allclose(steered.before, before[steered.ids], atol=1e-5)
        np.testing.assert_allclose(steered.after, after[steered.ids], atol=1e-5)
        kl = (before.double() * (before.double().log() - after.double().log())).sum()
        assert steered.kl == pytest.approx(float(kl), abs=1e-6)

    @pytest.mark.parametrize("basis", [("mlp_post", 1), ("resid_post", 0), "dictionary"])
    def test_a_placebo_is_as_long_as_the_change_at_every_position(self, indexed: Any, basis: Any) -> None:
        basis = dictionary() if basis == "dictionary" else basis
        live = LiveFeatures(indexed(basis), model(), draws=4)
        feature = active_feature(live)
        site = live.written[0]
        moved = []

        def spy(held: Any, edits: Any, rows: int, keep: Any = (), forward: Any = live._forward) -> Any:
            plain = model().run(PROMPT, keep=site)[site]
            moved.append((model().run([PROMPT] * rows, keep=site, edits=edits)[site] - plain).flatten(2).norm(dim=-1))
            return (yield from forward(held, edits, rows, keep))

        live._forward = spy
        finish(live.steer(PROMPT, feature, "scale", 0.0))
        change, placebo = moved
        assert change.shape[0] == 1
        assert placebo.shape[0] == 4
        torch.testing.assert_close(placebo, change.expand_as(placebo), atol=1e-4, rtol=1e-3)

    def test_random_directions_are_the_same_each_time_and_differ_from_each_other(self, indexed: Any) -> None:
        live = LiveFeatures(indexed(("mlp_post", 1)), model(), draws=5)
        neuron = active_feature(live)
        one, two = (finish(live.steer(PROMPT, neuron, "scale", 0.0)) for _ in range(2))
        np.testing.assert_array_equal(one.placebo, two.placebo)
        assert len(np.unique(one.placebo_kl)) == 5
        assert one.placebo.shape == (5, len(one.ids))

    def test_the_change_comes_first_and_the_placebos_follow_a_few_at_a_time(self, indexed: Any) -> None:
        live = LiveFeatures(indexed(("mlp_post", 1)), model(), draws=20)
        parts = [p for p in live.steer(PROMPT, active_feature(live), "scale", 0.0) if isinstance(p, Steered)]
        counts = [len(part.placebo_kl) for part in parts]
        assert counts[0] == 0
        assert counts == sorted(counts)
        assert counts[-1] == 20

    def test_given_up_half_way_it_leaves_nothing_behind(self, indexed: Any) -> None:
        live = LiveFeatures(indexed(("mlp_post", 1)), model())
        neuron = active_feature(live)
        before = distribution()
        for stop in (1, 3, 5):
            steps = live.steer(PROMPT, neuron, "scale", 0.0)
            for _ in range(stop):
                next(steps)
            steps.close()
            hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model().hf_model.modules())
            assert hooks == 0
        torch.testing.assert_close(distribution(), before, atol=0, rtol=0)

    def test_an_edited_model_is_steered_as_it_is(self, indexed: Any) -> None:
        live = LiveFeatures(indexed(("mlp_post", 1)), model(), draws=2)
        with model().edit(lk.Scale("attn_out", 0.5, layers=0)):
            neuron = active_feature(live)
            steered = finish(live.steer(PROMPT, neuron, "scale", 0.0))
            after = distribution(live.edits(PROMPT, neuron))
        np.testing.assert_allclose(steered.after, after[steered.ids], atol=1e-5)


def test_an_index_of_an_object_needs_it_again_when_it_is_opened(indexed: Any, tmp_path: Path) -> None:
    basis = dictionary()
    opened = FeatureIndex.open(indexed(basis).folder)
    with pytest.raises(ValueError, match="Transcoder"):
        LiveFeatures(opened, model())
    assert len(finish(LiveFeatures(opened, model(), basis).read(PROMPT)).values)
