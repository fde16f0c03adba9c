"""What a person sees of a feature browser in Python: its selection, its spec, what fires, and its page."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traitlets

import lenskit as lk
from lenskit.models.identity import ModelMismatch
from lenskit.models.steps import finish
from lenskit.transcoders.index.feature_index import FeatureIndex
from lenskit.widgets import FeatureBrowser, FeaturePlace, LensTable, link
from tests.models.tiny import CORPUS, tiny, tiny_tokenizer
from tests.widgets.feature_wire import browser, fired_on_prompt
from tests.widgets.made_up_features import NEURONS, PROMPT, dictionary, index, model


class TestWhatPythonSees:
    def test_the_selection_and_the_spec_are_one_thing(self) -> None:
        view, seen = browser(feature=3), []
        assert view.selection == FeaturePlace(3)
        view.observe(lambda change: seen.append(change["new"]), names="selection")
        view.selection = (-1, -1)
        last = len(fired_on_prompt().ids) - 1
        assert view.selection == FeaturePlace(NEURONS - 1, last)
        assert view.spec["selection"] == {"feature": NEURONS - 1, "pos": last}
        view.spec = {**view.spec, "selection": {"feature": 4, "pos": None}}
        assert view.selection == FeaturePlace(4)
        view.selection = 5
        assert view.spec["selection"] == {"feature": 5, "pos": None}
        view.selection = None
        assert view.spec["selection"] is None
        assert len(seen) == 4

    @pytest.mark.parametrize("wrong", [NEURONS, (0, 99), "here", (1, 2, 3), ()])
    def test_a_selection_that_is_not_there_is_refused(self, wrong: Any) -> None:
        with pytest.raises(traitlets.TraitError):
            browser().selection = wrong

    @pytest.mark.parametrize(
        "change",
        [
            {"sort": "beauty"},
            {"order": 1},
            {"find": None},
            {"band": -1},
            {"window": "all"},
            {"fit": 1},
            {"steer": {"by": "set", "amount": 1}},
            {"pinned": [NEURONS]},
            {"notes": {"x": "?"}},
            {"selection": {"feature": 3}},
            {"colour": "red"},
        ],
    )
    def test_a_wrong_spec_is_refused(self, change: dict[str, Any]) -> None:
        view = browser()
        with pytest.raises(traitlets.TraitError):
            view.spec = {**view.spec, **change}

    def test_pins_and_notes_are_kept_in_the_spec(self) -> None:
        view = browser()
        view.spec = {"pinned": [3, 5], "notes": {"5": "the keys"}, "prompt": PROMPT}
        other = browser()
        other.spec = view.spec
        assert (other.spec["pinned"], other.spec["notes"]["5"]) == ([3, 5], "the keys")

    def test_fired_and_steered_are_of_the_present_spec(self) -> None:
        view = browser()
        view.prompt = "The keys to the cabinet"
        plain = finish(view._live.read("The keys to the cabinet"))
        np.testing.assert_array_equal(view.fired.of(3), plain.of(3))
        features, peaks = plain.peaks()
        view.selection = int(features[peaks.argmax()])
        assert view.steered is None
        view.spec = {**view.spec, "steer": {"by": "scale", "amount": 0}}
        steered = view.steered
        assert steered is not None
        edits = view._live.edits(view.prompt, view.spec["selection"]["feature"])
        after = model().run(view.prompt, edits=edits).logits[0, -1].softmax(-1)
        np.testing.assert_allclose(steered.after, after[steered.ids], atol=1e-5)
        assert view.steered is steered

    def test_it_follows_a_lens_table_on_position(self) -> None:
        view = browser()
        table = LensTable(model(), PROMPT)
        tied = link(table, view, on="pos")
        table.selection = (2, 4)
        assert view.spec["selection"]["pos"] == 4
        view.selection = (3, 2)
        assert table.spec["selection"]["pos"] == 2
        view.follow({"pos": 99})
        assert view.spec["selection"]["pos"] == 2
        tied.unlink()

    def test_of_a_dictionary_it_speaks_of_features_and_changes_what_it_writes(self, tmp_path: Path) -> None:
        basis = dictionary()
        built = FeatureIndex.build(model(), basis, CORPUS, tmp_path / "i", length=16, on_progress=lambda _: None)
        view = FeatureBrowser(FeatureIndex.open(built.folder), model(), PROMPT, basis=basis)
        assert (view.facts["unit"], view.facts["about"]) == ("feature", "mlp_in.1 → mlp_out.1")
        features, peaks = view.fired.peaks()
        feature = int(features[peaks.argmax()])
        view.spec = {**view.spec, "selection": {"feature": feature, "pos": None}, "steer": {"by": "scale", "amount": 0}}
        steered = view.steered
        assert steered is not None
        change = -torch.from_numpy(view.fired.of(feature))[:, None] * basis.W_dec[0, feature]
        after = model().run(PROMPT, edits=lk.Add("mlp_out", change, layers=1)).logits[0, -1].softmax(-1)
        np.testing.assert_allclose(steered.after, after[steered.ids], atol=1e-5)
        with pytest.raises(ValueError, match="basis="):
            FeatureBrowser(FeatureIndex.open(built.folder), model())

    def test_another_model_is_refused(self) -> None:
        other = lk.Model(tiny("llama", seed=1, vocab=300, layers=3), tiny_tokenizer(300), name="other")
        with pytest.raises(ModelMismatch):
            FeatureBrowser(index(), other)

    @pytest.mark.parametrize("given", [{"prompt": "x"}, {"model": model(), "prompt": 3}])
    def test_a_prompt_needs_a_model_and_is_a_text(self, given: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            FeatureBrowser(index(), **given)

    def test_it_prints_one_line_and_has_a_static_twin(self) -> None:
        view = browser()
        assert repr(view) == "FeatureBrowser(96 neurons: mlp_post.1)"
        bundle, _ = view._repr_mimebundle_()
        assert bundle["text/plain"] == repr(view)
        assert "<table" in bundle["text/html"]
        assert "application/vnd.jupyter.widget-view+json" in bundle
        again, _ = browser()._repr_mimebundle_()
        assert again["text/html"] == bundle["text/html"]

    def test_a_note_in_the_static_twin_is_text(self) -> None:
        view = browser()
        view.spec = {**view.spec, "pinned": [3], "notes": {"3": "<script>alert(1)</script>"}}
        html = view._repr_mimebundle_()[0]["text/html"]
        assert "<script" not in html
        assert "&lt;script&gt;" in html

    def test_to_html_writes_one_file_that_names_no_address_and_holds_a_bounded_part(self, tmp_path: Path) -> None:
        view = browser()
        view.spec = {**view.spec, "pinned": [90], "notes": {"91": "?"}}
        header, _ = view._frozen(20)
        held = [card["feature"] for card in header["cards"]]
        assert len(held) == len(set(held)) == 20
        assert {90, 91, view.selection.feature} <= set(held)
        assert len(header["rows"]["arrays"]) == 7
        view.to_html(tmp_path / "few.html", features=10)
        view.to_html(tmp_path / "more.html", features=40)
        few, more = ((tmp_path / name).read_text(encoding="utf-8") for name in ("few.html", "more.html"))
        assert len(few) < len(more)
        assert "https://" not in few
        assert few.count("</script>") == few.count("<script")
