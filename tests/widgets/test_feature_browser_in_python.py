"""The Python half of the feature browser: what it sends, in which order, and what it never does."""

import asyncio
from typing import Any

import numpy as np
import pytest
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st

from lenskit.models.steps import finish
from lenskit.widgets import FeatureBrowser
from lenskit.widgets.feature_order import Ordered, found
from lenskit.widgets.feature_wire import bars
from tests.widgets.feature_wire import LIST, Wire, browser, fired_on_prompt, hooks, opened, strongest
from tests.widgets.made_up_features import NEURONS, PROMPT, index, model


class TestTheList:
    def test_only_the_rows_that_are_asked_for_travel(self) -> None:
        header, arrays = Wire(browser()).ask("rows", **{**LIST, "start": 40, "count": 7})
        order = np.argsort(-index().density, kind="stable")
        assert (header["kind"], header["total"], header["start"]) == ("rows", NEURONS, 40)
        np.testing.assert_array_equal(arrays["ids"], order[40:47])
        np.testing.assert_array_equal(arrays["density"], index().density[order[40:47]])
        np.testing.assert_array_equal(arrays["tokens"], index().promoted[order[40:47], :6])
        assert {piece[0] for piece in header["pieces"]} == set(arrays["tokens"].ravel().tolist())

    def test_it_says_where_a_feature_stands_even_far_off(self) -> None:
        order = np.argsort(-index().density, kind="stable")
        header, arrays = Wire(browser()).ask("rows", **{**LIST, "count": 0, "feature": int(order[77])})
        assert header["at"] == 77
        assert len(arrays["ids"]) == 0

    @given(
        sort=st.sampled_from(["number", "density", "max", "peakedness", "prompt", "token"]),
        order=st.sampled_from(["down", "up"]),
        pinned=st.none() | st.lists(st.integers(0, NEURONS - 1), unique=True),
        pos=st.integers(1, 7),
    )
    @settings(max_examples=30, deadline=None)
    def test_every_order_is_that_of_a_plain_sort(
        self, sort: str, order: str, pinned: list[int] | None, pos: int
    ) -> None:
        ix, fired = index(), fired_on_prompt()
        fires = sort in ("prompt", "token")
        asked = {**LIST, "sort": sort, "order": order, "pos": pos if sort == "token" else None}
        asked |= {"prompt": PROMPT if fires else None}
        asked |= {} if pinned is None else {"only": "pinned", "pinned": pinned}
        got = Ordered(ix, asked, fired if fires else None)

        def value(f: int) -> float:
            on = fired.of(f)
            top = float(ix.max[f]) or 1.0
            return {
                "number": float(f),
                "density": float(ix.density[f]),
                "max": float(ix.max[f]),
                "peakedness": float(ix.max[f]) / float(ix.mean[f]) if ix.mean[f] else 0.0,
                "prompt": float(on.max()) / top,
                "token": float(on[pos]) / top,
            }[sort]

        shown = [f for f in range(NEURONS) if pinned is None or f in pinned]
        shown = [f for f in shown if not fires or value(f) > 0]
        np.testing.assert_allclose(got.values, sorted(map(value, shown), reverse=order == "down"), rtol=1e-5)
        assert sorted(got.features.tolist()) == shown
        for f, v in zip(got.features.tolist(), got.values.tolist(), strict=True):
            assert v == pytest.approx(value(f), rel=1e-5)

    @pytest.mark.parametrize("by", ["promotes", "fires"])
    @pytest.mark.parametrize("text", ["th", "KEY", "no such token"])
    def test_a_text_is_found_in_what_is_promoted_or_fired_on(self, by: str, text: str) -> None:
        ix = index()
        tokens = ix.promotes if by == "promotes" else ix.tokens_of_feature
        naive = [
            f
            for f in range(NEURONS)
            if any(text.lower() in str(ix.piece(token)).lower() for _, token, _ in tokens(f, 16))
        ]
        assert found(ix, text, by).tolist() == naive
        header, arrays = Wire(browser()).ask("rows", **{**LIST, "find": text, "by": by, "count": 100})
        assert header["total"] == len(naive)
        assert (arrays["matches"] > 0).all()
        for row, n in zip(arrays["tokens"], arrays["matches"], strict=True):
            assert all(text.lower() in str(ix.piece(int(token))).lower() for token in row[: min(n, 6)])

    def test_an_order_by_a_prompt_that_was_not_read_waits_for_it(self) -> None:
        wire = Wire(browser())
        header, _ = wire.ask("rows", **{**LIST, "sort": "prompt", "prompt": "something else"})
        assert header["kind"] == "superseded"
        wire.say("read", prompt="The keys", feature=None)
        header, arrays = wire.ask("rows", **{**LIST, "sort": "prompt", "prompt": "The keys"})
        assert header["kind"] == "rows"
        assert (np.diff(arrays["value"]) <= 0).all()

    def test_small_histograms_keep_a_lonely_count_and_an_empty_feature_is_flat(self) -> None:
        heights = bars(np.array([[100_000, 1, 0], [0, 0, 0], [5, 5, 5]], np.uint32))
        assert heights[0].tolist()[0] == 255
        assert 1 <= heights[0][1] < 30
        assert heights[0][2] == 0
        assert heights[1].tolist() == [0, 0, 0]
        assert heights[2].tolist() == [255, 255, 255]


class TestTheCard:
    def test_has_what_the_index_knows(self) -> None:
        ix = index()
        header, arrays = Wire(browser()).ask("card", feature=7)
        assert header["max"] == float(ix.max[7])
        np.testing.assert_allclose(arrays["edges"], ix.histogram(7)[0], rtol=1e-6)
        np.testing.assert_array_equal(arrays["counts"], ix.histogram(7)[1])
        assert arrays["promotes_ids"].tolist() == [token for _, token, _ in ix.promotes(7)]
        assert arrays["similar_ids"].tolist() == [f for f, _ in ix.similar(7)]
        np.testing.assert_array_equal(arrays["similar_promotes"], ix.promoted[arrays["similar_ids"], :4])
        assert [head[:2] for head in header["heads"]] == [[*head] for head, _ in ix.best_heads(7, 3)]

    def test_examples_come_whole_and_say_their_band_and_their_peak(self) -> None:
        ix = index()
        header, arrays = Wire(browser()).ask("card", feature=7)
        tops = ix.examples(7, window=ix.window)
        assert (arrays["example_bands"] == -1).sum() == len(tops)
        assert len(header["bands"]) == 5
        starts = arrays["example_offsets"]
        for i, band in enumerate(arrays["example_bands"].tolist()):
            peak = arrays["example_activations"][starts[i] : starts[i + 1]][arrays["example_peaks"][i]]
            low, high = header["bands"][band] if band >= 0 else (0, header["max"])
            assert low - 0.02 * header["max"] <= peak <= high * 1.02
        assert set(arrays["example_ids"].tolist()) <= {piece[0] for piece in header["pieces"]}

    def test_the_tokens_of_a_head_come_when_they_are_asked_for(self) -> None:
        header, arrays = Wire(browser()).ask("through", feature=7, layer=0, head=1)
        expected = index().de_embedding(7, 10, head=(0, 1), model=model())
        assert (header["kind"], header["layer"], header["head"]) == ("through", 0, 1)
        assert arrays["ids"].tolist() == [token for _, token, _ in expected]

    def test_of_a_feature_that_does_not_exist_is_an_error_in_words(self) -> None:
        header, _ = Wire(browser()).ask("card", feature=NEURONS)
        assert header["kind"] == "error"
        assert f"features 0 to {NEURONS - 1}" in header["message"]


class TestLive:
    def test_a_sentence_is_answered_with_what_fires_at_each_token(self) -> None:
        wire = Wire(browser())
        header, arrays = wire.ask("read", prompt="The keys to the cabinet", feature=3)
        fired = wire.view._fired
        assert fired is not None
        assert header["prompt"] == fired[0] == "The keys to the cabinet"
        np.testing.assert_array_equal(arrays["on"], fired[1].of(3))
        np.testing.assert_array_equal(arrays["counts"], np.diff(fired[1].offsets))
        share = fired[1].of(int(arrays["top_ids"][2, 0]))[2] / index().max[arrays["top_ids"][2, 0]]
        assert arrays["top_shares"][2, 0] == pytest.approx(share)
        assert (np.diff(arrays["top_shares"][1:]) <= 1e-7).all()

    def test_one_more_feature_on_the_same_prompt_needs_no_forward(self) -> None:
        wire = Wire(browser())
        _, arrays = wire.ask("on", prompt=PROMPT, feature=9)
        np.testing.assert_array_equal(arrays["on"], fired_on_prompt().of(9))
        assert wire.ask("on", prompt="another", feature=9)[0]["kind"] == "superseded"

    def test_the_last_sentence_wins_and_each_gets_one_answer(self) -> None:
        async def type_quickly() -> list[tuple[str, str]]:
            wire = Wire(browser())
            for n, text in enumerate(["The", "The key", "The key to"]):
                wire.say("read", f"t:{n}", prompt=text, feature=None)
                await asyncio.sleep(0)
            for _ in range(60):
                await asyncio.sleep(0)
            return [kind for kind in wire.kinds() if kind[1] != "progress"]

        assert asyncio.run(type_quickly()) == [("t:0", "superseded"), ("t:1", "superseded"), ("t:2", "fired")]
        assert hooks() == 0

    def test_a_change_is_told_first_alone_and_then_beside_random_directions(self) -> None:
        wire = Wire(browser())
        neuron = strongest()
        wire.say("steer", prompt=PROMPT, feature=neuron, by="scale", amount=0, pos=None)
        kinds = [kind for _, kind in wire.kinds()]
        assert kinds[0] == "steering"
        assert kinds[-1] == "steered"
        assert kinds.count("steered") == 1
        first, last = opened(*wire.replies[0]), opened(*wire.replies[-1])
        assert first[0]["draws"] == 0
        assert np.isnan(first[1]["placebo"]).all()
        assert last[0]["draws"] == last[0]["of"] == 20
        steered = finish(wire.view._change(last[0]))
        np.testing.assert_allclose(last[1]["placebo"], steered.placebo.mean(0), rtol=1e-5)
        np.testing.assert_allclose(last[1]["spread"], steered.placebo.std(0, ddof=1), rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(last[1]["after"], steered.after, rtol=1e-5)

    def test_a_change_waits_while_a_sentence_is_read(self) -> None:
        async def both() -> list[tuple[str, str]]:
            wire = Wire(browser())
            wire.say("read", "t:1", prompt="The key to it", feature=None)
            wire.say("steer", "t:2", prompt="The key to it", feature=3, by="scale", amount=0, pos=None)
            for _ in range(40):
                await asyncio.sleep(0)
            return [kind for kind in wire.kinds() if kind[1] != "progress"]

        assert asyncio.run(both()) == [("t:2", "superseded"), ("t:1", "fired")]

    @pytest.mark.parametrize(
        ("kind", "fields", "said"),
        [
            ("read", {"prompt": "", "feature": None}, "the prompt is empty"),
            ("steer", {"prompt": PROMPT, "feature": 3, "by": "scale", "amount": 1, "pos": None}, "that is no change"),
            ("steer", {"prompt": PROMPT, "feature": 3, "by": "add", "amount": 1, "pos": 99}, "position 99 does not"),
        ],
    )
    def test_what_cannot_be_done_is_answered_in_words(self, kind: str, fields: dict[str, Any], said: str) -> None:
        wire = Wire(browser())
        header, _ = wire.ask(kind, **fields)
        assert header["kind"] == "error"
        assert said in header["message"]
        assert wire.ask("read", prompt="The key", feature=None)[0]["kind"] == "fired"

    def test_closing_it_stops_everything(self) -> None:
        async def close() -> int:
            wire = Wire(browser())
            neuron = strongest()
            wire.say("steer", prompt=PROMPT, feature=neuron, by="scale", amount=0, pos=None)
            await asyncio.sleep(0)
            wire.view.close()
            await asyncio.sleep(0)
            count = len(wire.replies)
            for _ in range(40):
                await asyncio.sleep(0)
            return len(wire.replies) - count

        assert asyncio.run(close()) <= 1
        assert hooks() == 0

    def test_what_is_no_message_of_this_wire_raises(self) -> None:
        with pytest.raises(ValueError, match="version 1 of the wire"):
            Wire(browser()).say("everything")

    def test_without_a_model_it_browses_and_refuses_sentences(self) -> None:
        view = FeatureBrowser(index())
        wire = Wire(view)
        assert wire.ask("card", feature=3)[0]["kind"] == "card"
        assert "without a model" in wire.ask("read", prompt="x", feature=None)[0]["message"]
        assert "give one" in wire.ask("through", feature=3, layer=0, head=0)[0]["message"]
        with pytest.raises(traitlets.TraitError, match="without a model"):
            view.prompt = "The key"
        with pytest.raises(ValueError, match="give a model"):
            view.fired  # noqa: B018
        assert view.steered is None
