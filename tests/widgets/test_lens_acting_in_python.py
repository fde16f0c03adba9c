"""What a lens table does beyond reading: its second module, what was written, words, acting, lenses of some layers."""

import asyncio
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traitlets

import lenskit as lk
from lenskit.lenses.evaluate import evaluate
from lenskit.lenses.generating import generate_from
from lenskit.lenses.lens_directions import lens_directions
from lenskit.lenses.reading import read
from lenskit.lenses.translators import Translators
from lenskit.models.identity import d_model_of
from lenskit.models.sites import Site
from lenskit.models.steering import Swap
from tests.models.test_model import hooks
from tests.models.tiny import tiny, tiny_tokenizer
from tests.widgets.test_lens_table_in_python import READ, Wire, arrays

PROMPT = "The capital of France"


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300, layers=6), tiny_tokenizer(300), name="tiny")


class SomeLayers:
    """A lens with a matrix for some layers only, as a Jacobian lens may have: it reads after them."""

    name, site = "some", "resid_post"
    read, generate, evaluate = read, generate_from, evaluate

    def __init__(self, model: lk.Model, layers: tuple[int, ...]) -> None:
        self.model, self.layers = model, layers
        generator = torch.Generator().manual_seed(0)
        width = d_model_of(model)
        self.matrix = torch.eye(width) + 0.1 * torch.randn(width, width, generator=generator)

    def layers_at(self, site: str) -> list[int]:
        moved = 0 if site == "resid_post" else 1
        return [layer + moved for layer in self.layers]

    def transport(self, h: torch.Tensor, site: Any) -> torch.Tensor:
        where = Site.parse(site)
        assert where.layer in self.layers_at(where.name)
        return h @ self.matrix.T


def table(**more: Any) -> Any:
    return lk.widgets.LensTable(model(), PROMPT, **more)


ACT: dict[str, Any] = {
    "v": 1,
    "kind": "act",
    "id": "p:1",
    "prompt": PROMPT,
    "written": [],
    "lens": "logit",
    "how": "swap",
    "token": 101,
    "with": 57,
    "strength": 2.0,
    "layers": [2, 4],
    "pos": 1,
    "count": 3,
    "seed": 0,
}


class TestActing:
    def test_answers_with_what_generate_writes_and_a_line_that_does_it_again(self) -> None:
        shown = table()
        wire = Wire(shown)
        shown._receive(shown, ACT, [])
        kinds = [reply["kind"] for reply, _ in wire.replies]
        assert kinds[-1] == "acted"
        assert set(kinds[:-1]) == {"acting"}
        reply, buffers = wire.replies[-1]
        got = arrays(reply, buffers)
        edit = Swap(lk.LogitLens(model()), 101, 57, layers=[2, 3, 4], strength=2.0)
        start = len(model().batch(PROMPT).tokens[0])
        for side, edits in (("before", []), ("after", [edit]), ("placebo", [edit.placebo(0)])):
            made = model().generate(PROMPT, 3, edits=edits)
            assert got[side].tolist() == made.tokens[0, start:].tolist()
            odds = model().run(PROMPT, edits=edits).logits[0, -1].softmax(-1)
            np.testing.assert_allclose(got[f"next_{side}"], odds[got["next_ids"].copy()], atol=1e-5)
        assert reply["python"].startswith(f"model.generate('{PROMPT}', 3, edits=[lk.Swap(lens, ")
        assert {101, 57, *got["after"].tolist()} <= {i for i, _ in reply["pieces"]}

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"token": "no such word"}, "is not one token but"),
            ({"with": None}, "which word"),
            ({"layers": [9, 12]}, "reads layers 0 to 5, and none of 9 to 12"),
            ({"with": 101}, "can be told apart. Choose other words, or layers"),
        ],
    )
    def test_of_what_cannot_be_done_says_so_in_words(self, changed: dict, message: str) -> None:
        shown = table()
        wire = Wire(shown)
        shown._receive(shown, {**ACT, **changed}, [])
        (reply, _) = wire.replies[-1]
        assert reply["kind"] == "error"
        assert message in reply["message"]

    def test_goes_on_beside_a_reading_and_the_newest_wins(self) -> None:
        shown = table()
        wire = Wire(shown)

        async def both() -> None:
            shown._receive(shown, ACT, [])
            await asyncio.sleep(0)
            wire.read("The keys to the cabinet")
            shown._receive(shown, {**ACT, "id": "p:2", "strength": 1.0}, [])
            while len([1 for _, kind in wire.kinds() if kind in ("acted", "superseded", "table")]) < 3:
                await asyncio.sleep(0.005)

        asyncio.run(both())
        final = [(i, kind) for i, kind in wire.kinds() if kind != "acting"]
        assert sorted(final) == [("p:1", "superseded"), ("p:2", "acted"), ("t:1", "table")]
        assert hooks(model().hf_model) == 0

    def test_stops_when_nothing_is_to_be_done(self) -> None:
        shown = table()
        wire = Wire(shown)

        async def begin_and_stop() -> None:
            shown._receive(shown, ACT, [])
            await asyncio.sleep(0)
            shown._receive(shown, {**ACT, "id": "p:2", "how": None}, [])
            await asyncio.sleep(0.05)

        asyncio.run(begin_and_stop())
        assert [kind for _, kind in wire.kinds()] == ["superseded"]

    def test_finds_a_word_that_is_typed_without_its_space(self) -> None:
        shown = table()
        wire = Wire(shown)
        shown._receive(shown, {**ACT, "token": "the", "how": "ablate"}, [])
        reply, _ = wire.replies[-1]
        assert reply["token"] == model().text.token(" the")


class TestWhatIsRead:
    def test_goes_on_with_what_was_written(self) -> None:
        shown = table()
        shown.spec = {**shown.spec, "written": [5, 6]}
        ids = [*model().batch(PROMPT).tokens[0].tolist(), 5, 6]
        assert shown.trajectory.ids.tolist() == ids
        wire = Wire(shown)
        shown._receive(shown, {**READ, "prompt": PROMPT, "written": [5]}, [])
        reply, buffers = wire.replies[-1]
        assert reply["written"] == [5]
        assert arrays(reply, buffers)["ids"].tolist() == ids[:-1]
        shown.prompt = "The keys"
        assert shown.spec["written"] == []

    def test_is_words_where_these_are_asked_for(self) -> None:
        shown = table()
        shown.spec = {**shown.spec, "cells": "words"}
        wanted = lk.LogitLens(model()).read(PROMPT, words=True)
        np.testing.assert_array_equal(shown.trajectory.top_ids, wanted.top_ids)
        np.testing.assert_allclose(shown.trajectory.kl, wanted.kl, atol=1e-5)

    def test_one_written_token_runs_one_position(self) -> None:
        shown = table()
        wire = Wire(shown)
        wire.read(PROMPT)
        shown._receive(shown, {**READ, "id": "t:2", "prompt": PROMPT, "have": 1, "written": [5]}, [])
        reply, _ = wire.replies[-1]
        assert (reply["recomputed"], reply["start"]) == (1, reply["positions"] - 1)


class TestALensOfSomeLayers:
    def test_has_rows_for_those_with_their_numbers(self) -> None:
        lens = SomeLayers(model(), (1, 3))
        read_ = lens.read(PROMPT)
        assert read_.layers.tolist() == [1, 3, 5]
        assert read_.layer_names == ["1", "3", "5"]
        run = model().run(PROMPT, keep="resid_post")
        with torch.no_grad():
            odds = model().unembed(run["resid_post", 3][0] @ lens.matrix.T).softmax(-1)
        np.testing.assert_allclose(read_.top_probs[1], odds.topk(10).values, atol=1e-5)

    def test_is_chosen_in_by_the_layers_it_has(self) -> None:
        shown: Any = table(lens=SomeLayers(model(), (1, 3)))
        shown.selection = (3, -1)
        held: Any = shown.trait_values()["selection"]
        assert held.site == Site("resid_post", 3)
        shown.selection = (-1, 0)
        assert shown.spec["selection"] == {"layer": 5, "pos": 0}
        with pytest.raises(
            traitlets.TraitError, match=r"layer 2, position 0 is not in the table: it has layers 1, 3, 5"
        ):
            shown.selection = (2, 0)
        wire = Wire(shown)
        wire.read(PROMPT)
        assert wire.replies[-1][0]["layers"] == [1, 3, 5]

    @pytest.mark.parametrize("view", ["side", "difference"])
    def test_is_compared_where_both_read(self, view: str) -> None:
        some, logit = SomeLayers(model(), (1, 3)), lk.LogitLens(model())
        shown = table(lens=[logit, some], second=some, view=view)
        both = shown.comparison
        assert both.first.layers.tolist() == both.second.layers.tolist() == [1, 3, 5]
        again = lk.compare(logit, PROMPT, some)
        assert again.first.layers.tolist() == [1, 3, 5]
        np.testing.assert_allclose(both.js, again.js, atol=1e-5)
        assert (both.js[-1] == 0).all()

    def test_is_compared_with_one_that_reads_before_each_layer(self) -> None:
        tuned = lk.TunedLens(model(), Translators.identity(model().n_layers, d_model_of(model())))
        both = table(lens=[tuned, SomeLayers(model(), (1, 3))], second="some", view="side").comparison
        assert (both.first.site, both.first.layers.tolist()) == ("resid_pre", [2, 4, 6])
        assert both.first.layer_names == ["2", "4", "final"]

    def test_acts_in_the_layers_it_has(self) -> None:
        assert lens_directions(SomeLayers(model(), (1, 3)), [101]).layers == [1, 3]
        shown = table(lens=SomeLayers(model(), (1, 3)))
        wire = Wire(shown)
        shown._receive(shown, {**ACT, "lens": "some", "how": "ablate"}, [])
        assert wire.replies[-1][0]["kind"] == "acted"


class TestTheSecondModule:
    def test_travels_when_it_is_asked_for(self) -> None:
        shown = table()
        wire = Wire(shown)
        shown._receive(shown, {"v": 1, "kind": "panel", "id": "panel"}, [])
        reply, _ = wire.replies[-1]
        static = Path(lk.__file__).parent / "widgets" / "static"
        assert reply["source"] == (static / "lens_panel.js").read_text(encoding="utf-8")
        assert reply["css"] == (static / "lens_panel.css").read_text(encoding="utf-8")

    def test_and_every_lens_are_in_a_page(self, tmp_path: Path) -> None:
        shown = table(lens={"one": lk.LogitLens(model()), "two": SomeLayers(model(), (1, 3))})
        shown.to_html(tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text()
        block = re.search(r'<script type="application/json" id="lk-data">(.*?)</script>', text, re.DOTALL)
        assert block
        data = json.loads(block[1])
        assert [message["lens"] for message, _ in (data["reply"], *data["others"])] == ["one", "two"]
        assert data["state"]["facts"]["lenses"] == ["one", "two"]
        assert data["state"]["panel"].keys() == {"source", "css"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cells", "letters", "cells is one of tokens, words, numbers"),
        ("to", [1, 2], "the to of a spec is null or"),
        ("written", ["a"], "a list of token ids"),
        ("act", {"how": "push"}, "the act of a spec is null or has the keys how, token, with"),
    ],
)
def test_a_spec_that_says_what_there_is_not_is_refused(key: str, value: Any, message: str) -> None:
    shown = table()
    with pytest.raises(traitlets.TraitError, match=message):
        shown.spec = {**shown.spec, key: value}
