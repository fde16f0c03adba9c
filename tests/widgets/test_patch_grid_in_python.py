"""The Python half of the patch grid: its spec, its selection, and one reply to every request."""

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traitlets
from playwright.sync_api import Browser

import lenskit as lk
from lenskit.models.steps import finish
from lenskit.patching.align import PromptsDiffer
from lenskit.patching.metrics import kl, log_prob, logit_diff, prob, rank
from lenskit.patching.sweeps import sweep as sweep_of
from lenskit.widgets.patch_grid import PatchedCell, PatchGrid
from lenskit.widgets.patch_wire import QUESTION
from tests.models.test_model import hooks
from tests.models.tiny import tiny, tiny_tokenizer
from tests.widgets.view import new_context

CLEAN, CORRUPT, OTHER = "The key to the store is", "The key to the capital is", "The key to John store is"
A, B = 17, 42


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


def grid(site: str = "resid_pre", metric: Any = None, **more: Any) -> PatchGrid:
    return PatchGrid(model(), CLEAN, CORRUPT, site, metric or logit_diff(A, B), **more)


class Wire:
    """A view of the grid, played by the test: it sends requests and collects what comes back."""

    def __init__(self, shown: Any) -> None:
        self.grid, self.replies, self.count = shown, [], 0
        shown.send = lambda content, buffers=None: self.replies.append((content, buffers))

    def say(self, kind: str, **fields: Any) -> str:
        self.count += 1
        question = {key: self.grid.spec[key] for key in ("clean", "corrupt", "site", "direction")}
        question |= {key: self.grid.spec[key] for key in ("metric", "answer", "against")}
        message = {"v": 1, "kind": kind, "id": f"t:{self.count}", **question, **fields}
        json.dumps(message)  # it can be sent
        self.grid._receive(self.grid, message, [])
        return message["id"]

    def kinds(self) -> list[tuple[str, str]]:
        return [(reply["id"], reply["kind"]) for reply, _ in self.replies]

    def finals(self) -> list[tuple[str, str]]:
        return [(i, kind) for i, kind in self.kinds() if kind not in ("pair", "cells")]


def arrays(reply: dict[str, Any], buffers: list[bytes]) -> dict[str, np.ndarray]:
    """The buffers as WIRE.md says they are to be read."""
    pairs = zip(reply["arrays"], buffers, strict=True)
    return {a["name"]: np.frombuffer(bytearray(b), np.dtype(a["dtype"])).reshape(a["shape"]) for a, b in pairs}


class TestAnswers:
    def test_a_sweep_is_answered_by_the_pair_the_estimate_the_cells_and_the_whole(self) -> None:
        wire = Wire(grid())
        identity = wire.say("sweep")
        assert [kind for _, kind in wire.kinds()][:2] == ["pair", "cells"]
        assert wire.finals() == [(identity, "swept")]
        sweep = sweep_of(model(), CLEAN, CORRUPT, "resid_pre", logit_diff(A, B))

        pair, buffers = wire.replies[0]
        told = arrays(pair, buffers)
        assert told["clean_ids"].tolist() == model().batch(CLEAN).tokens[0].tolist()
        assert told["corrupt_ids"].tolist() == model().batch(CORRUPT).tokens[0].tolist()
        assert (pair["base"], pair["target"]) == pytest.approx((sweep.corrupt, sweep.clean), abs=1e-5)
        assert {A, B} <= set(told["next_ids"].tolist())
        assert {*told["clean_ids"], *told["corrupt_ids"], *told["next_ids"]} <= {i for i, _ in pair["pieces"]}

        values, exact = np.full(sweep.values.size, np.nan), np.zeros(sweep.values.size, bool)
        for reply, more in wire.replies[1:-1]:
            new = arrays(reply, more)
            assert not exact[new["index"]].any()  # nothing exact is sent twice
            values[new["index"]], exact[new["index"]] = new["value"], new["exact"] > 0
            assert reply["done"] == exact.sum()
        assert exact.all()
        np.testing.assert_allclose(values, sweep.values.ravel(), atol=1e-4)
        whole = arrays(*wire.replies[-1])
        np.testing.assert_allclose(whole["values"], sweep.values.ravel(), atol=1e-4)

    def test_a_patch_is_answered_with_its_value_and_the_next_token(self) -> None:
        wire = Wire(grid("z"))
        identity = wire.say("patch", layers=[0, 1], columns=[2])
        ((reply, buffers),) = wire.replies
        assert (reply["kind"], reply["id"], reply["layers"], reply["columns"]) == ("patched", identity, [0, 1], [2])
        run = model().run(CLEAN, keep="z")
        logits = model().run(CORRUPT, edits=lk.Patch("z", run, layers=[0, 1], heads=2)).logits[0, -1]
        assert reply["value"] == pytest.approx(float(logits[A] - logits[B]), abs=1e-4)
        told = arrays(reply, buffers)
        np.testing.assert_allclose(told["after"], logits.softmax(-1)[told["ids"]].numpy(), atol=1e-5)

    def test_of_several_sweeps_the_last_one_wins_and_each_has_one_reply(self) -> None:
        """In an event loop, as in a kernel: a prompt is edited while the sweep of the one before is under way."""
        wire = Wire(grid())
        plain = model().run([1, 2, 3]).logits

        async def edit() -> list[str]:
            ids = []
            for site in ("resid_pre", "attn_out", "mlp_out", "z"):
                ids.append(wire.say("sweep", site=site))
                for _ in range(12):
                    await asyncio.sleep(0)
                assert torch.equal(model().run([1, 2, 3]).logits, plain)
            while len(wire.finals()) < 4:
                await asyncio.sleep(0.01)
            return ids

        ids = asyncio.run(edit())
        assert sorted(wire.finals()) == sorted([*((i, "superseded") for i in ids[:3]), (ids[3], "swept")])
        assert wire.replies[-1][0]["site"] == "z"
        # Once an older one is told that it was superseded, nothing more is heard of it.
        for identity in ids[:3]:
            own = [kind for i, kind in wire.kinds() if i == identity]
            assert own[-1] == "superseded"
        assert hooks(model().hf_model) == 0

    def test_a_patch_is_answered_before_the_sweep_goes_on(self) -> None:
        wire = Wire(grid())

        async def click() -> None:
            swept = wire.say("sweep")
            while ("t:1", "cells") not in wire.kinds():
                await asyncio.sleep(0)
            before = len(wire.replies)
            patched = wire.say("patch", layers=[1], columns=[3])
            while len(wire.finals()) < 2:
                await asyncio.sleep(0)
            assert wire.kinds()[before] == (patched, "patched")
            assert wire.kinds()[-1] == (swept, "swept")

        asyncio.run(click())

    def test_a_sweep_is_stopped_at_a_breath_and_goes_on_when_it_is_asked_for_again(self) -> None:
        shown = grid()
        wire = Wire(shown)

        async def stop() -> None:
            wire.say("sweep")
            while ("t:1", "cells") not in wire.kinds():
                await asyncio.sleep(0)
            wire.grid._receive(wire.grid, {"v": 1, "kind": "stop", "id": "t:1"}, [])
            while not wire.finals():
                await asyncio.sleep(0)
            reply = wire.replies[-1][0]
            assert (reply["kind"], reply["stopped"]) == ("swept", True)
            assert reply["done"] < reply["total"]
            assert hooks(model().hf_model) == 0
            wire.say("sweep")
            while len(wire.finals()) < 2:
                await asyncio.sleep(0)
            assert not wire.replies[-1][0]["stopped"]

        asyncio.run(stop())
        assert shown.sweep.exact.all()

    def test_closing_it_stops_everything(self) -> None:
        async def close() -> int:
            shown = grid()
            wire = Wire(shown)
            wire.say("sweep")
            wire.say("patch", layers=[1], columns=[3])
            await asyncio.sleep(0)
            shown.close()
            for _ in range(3):
                await asyncio.sleep(0)
            assert [kind for _, kind in wire.finals()] == ["superseded", "superseded"]
            count = len(wire.replies)
            for _ in range(50):
                await asyncio.sleep(0)
            return len(wire.replies) - count

        assert asyncio.run(close()) == 0
        assert hooks(model().hf_model) == 0

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"clean": "The"}, "do not line up: the clean one has"),
            ({"clean": "", "corrupt": ""}, "the prompt is empty"),
            ({"answer": None}, "needs a token"),
            ({"against": None}, "needs a second token"),
            ({"answer": 400}, "400"),
            ({"site": "resid"}, "resid"),
        ],
    )
    def test_what_cannot_be_swept_is_answered_in_words_and_the_grid_goes_on(self, wrong: Any, said: str) -> None:
        wire = Wire(grid())
        wire.say("sweep", **wrong)
        assert wire.replies[-1][0]["kind"] == "error"
        assert said in wire.replies[-1][0]["message"]
        wire.say("sweep")
        assert wire.replies[-1][0]["kind"] == "swept"


class TestWhatPythonSees:
    def test_the_sweep_is_exact_and_of_the_present_spec(self) -> None:
        shown = grid()
        wanted = sweep_of(model(), CLEAN, CORRUPT, "resid_pre", logit_diff(A, B))
        np.testing.assert_allclose(shown.sweep.values, wanted.values, atol=1e-5)
        shown.spec = {**shown.spec, "site": "z", "direction": "noise", "metric": "prob"}
        sweep = shown.sweep
        assert (sweep.site, sweep.direction, sweep.over) == ("z", "noise", ("layer", "head"))
        assert sweep.exact.all()

    def test_asking_for_the_sweep_answers_the_view_that_waits_for_it(self) -> None:
        shown = grid()
        wire = Wire(shown)

        async def ask() -> None:
            wire.say("sweep")
            while ("t:1", "pair") not in wire.kinds():
                await asyncio.sleep(0)
            assert shown.sweep.exact.all()
            await asyncio.sleep(0.01)

        asyncio.run(ask())
        assert wire.finals() == [("t:1", "swept")]

    def test_the_selection_and_the_spec_are_one_thing(self) -> None:
        shown, seen = grid(), []
        assert shown.selection is None
        shown.observe(lambda change: seen.append(change["new"]), names="selection")
        shown.selection = (1, -1)
        last = len(model().batch(CLEAN).tokens[0]) - 1
        assert shown.selection == PatchedCell("resid_pre", 1, pos=last)
        assert shown.spec["selection"] == {"layer": 1, "pos": last, "head": None}
        shown.spec = {**shown.spec, "selection": {"layer": 2, "pos": 0, "head": None}}
        assert shown.selection == PatchedCell("resid_pre", 2, pos=0)
        shown.selection = None
        assert shown.spec["selection"] is None
        assert len(seen) == 3

    def test_over_heads_a_selection_is_a_head(self) -> None:
        shown = grid("z")
        shown.selection = (-1, 3)
        assert shown.selection == PatchedCell("z", 2, head=3)
        assert shown.spec["selection"] == {"layer": 2, "pos": None, "head": 3}

    @pytest.mark.parametrize("wrong", [(3, 0), (0, 99), "here", (1,), PatchedCell("z", 0, head=1)])
    def test_a_selection_outside_the_grid_is_refused(self, wrong: Any) -> None:
        with pytest.raises(traitlets.TraitError):
            grid().selection = wrong

    @pytest.mark.parametrize(
        "change",
        [{"direction": "up"}, {"metric": "loss"}, {"clean": 3}, {"colour": "red"}, {"selection": {"layer": 1}}],
    )
    def test_a_wrong_spec_is_refused(self, change: dict[str, Any]) -> None:
        shown = grid()
        with pytest.raises(traitlets.TraitError):
            shown.spec = {**shown.spec, **change}

    @pytest.mark.parametrize("metric", [logit_diff(A, B), prob(A), log_prob(A), rank(A), kl()], ids=repr)
    def test_every_metric_goes_through_the_spec_and_back(self, metric: Any) -> None:
        shown = grid(metric=metric)
        np.testing.assert_allclose(
            shown.sweep.values, sweep_of(model(), CLEAN, CORRUPT, metric=metric).values, atol=1e-5
        )

    def test_a_metric_of_ones_own_is_kept_as_it_is(self) -> None:
        shown = grid(metric=lambda run: run.logits[0, -1, A])
        assert shown.spec["metric"] == "given"
        assert shown.sweep.exact.all()

    def test_without_a_metric_it_measures_what_the_two_prompts_say_against_each_other(self) -> None:
        shown = PatchGrid(model(), CLEAN, CORRUPT)
        tops = [int(model().run(prompt).logits[0, -1].argmax()) for prompt in (CLEAN, CORRUPT)]
        spec = shown.spec
        if tops[0] == tops[1]:
            assert (spec["metric"], spec["answer"]) == ("prob", tops[0])
        else:
            assert (spec["metric"], spec["answer"], spec["against"]) == ("logit_diff", *tops)

    def test_prompts_that_do_not_line_up_raise_in_python(self) -> None:
        with pytest.raises(PromptsDiffer, match="do not line up"):
            PatchGrid(model(), CLEAN, CLEAN + " here", metric=logit_diff(A, B))
        with pytest.raises(TypeError, match="is a text"):
            PatchGrid(model(), [1, 2], CORRUPT, metric=logit_diff(A, B))  # type: ignore[arg-type]

    def test_it_follows_a_linked_view(self) -> None:
        shown = grid()
        shown.follow({"layer": 1, "pos": 2, "head": 3})
        assert shown.selection == PatchedCell("resid_pre", 1, pos=2)
        shown.follow({"layer": 99, "pos": 4})
        assert shown.selection == PatchedCell("resid_pre", 1, pos=4)
        shown.follow({"head": 2})
        assert shown.selection == PatchedCell("resid_pre", 1, pos=4)

    def test_it_prints_one_line_and_has_a_static_twin(self) -> None:
        shown = grid()
        said = "'The key to the store is', 'The key to the capital is', denoise resid_pre, "
        assert repr(shown).startswith(f"PatchGrid({said}logit_diff(")
        assert repr(shown).endswith(", 3 layers of tiny)")
        bundle, _ = shown._repr_mimebundle_()
        assert bundle["text/plain"] == repr(shown)
        assert "<table" in bundle["text/html"]
        assert "application/vnd.jupyter.widget-view+json" in bundle
        again, _ = grid()._repr_mimebundle_()
        assert again["text/html"] == bundle["text/html"]

    def test_to_html_writes_one_file_that_names_no_address(self, tmp_path: Path) -> None:
        grid().to_html(tmp_path / "grid.html")
        html = (tmp_path / "grid.html").read_text(encoding="utf-8")
        assert "http://" not in html.replace("http://www.w3.org", "")
        assert "https://" not in html
        assert html.count("</script>") == html.count("<script")

    def test_the_frozen_page_knows_what_was_tried(self, browser: Browser, tmp_path: Path) -> None:
        shown = grid()
        trial = {key: shown.spec[key] for key in QUESTION}
        cell, to = {"layer": 0, "pos": 6, "head": None}, {"layer": 1, "pos": 5, "head": None}
        trial |= {"selection": cell, "to": to, "value": 0.0, "share": 0.0}
        shown.spec = {**shown.spec, "selection": {"layer": 2, "pos": 6, "head": None}, "tried": [trial]}
        shown.to_html(tmp_path / "grid.html")
        context = new_context(browser)
        tab = context.new_page()
        tab.goto((tmp_path / "grid.html").as_uri())
        odds = tab.locator(".lk-pg-odd .lk-pg-numbers")
        assert not any("…" in text for text in odds.all_text_contents())
        tab.locator(".lk-pg-trial").click()
        patched = finish(shown._live.patch(shown._asked(shown.spec), [0, 1], [5, 6]))
        share = (patched.value - shown.sweep.base) / (shown.sweep.clean - shown.sweep.base)
        assert tab.locator(".lk-pg-big").inner_text().replace("−", "-") == f"{share:.2f}"
        assert not any("…" in text for text in odds.all_text_contents())
        context.close()
