"""Several lenses and two prompts in one lens table: what Python answers, against readings and comparisons made anew."""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
import traitlets

import lenskit as lk
from lenskit.lenses.between import compare
from lenskit.lenses.live_comparison import LiveComparison
from lenskit.lenses.translators import Translators
from lenskit.lenses.tuned import TunedLens
from lenskit.models.sites import Site
from lenskit.models.steps import finish
from tests.models.tiny import tiny
from tests.widgets.test_lens_table_in_python import Wire, arrays, model

PROMPT = "The capital of France"
OTHER = "The of capital France"  # the same tokens in another order, so as many of them
READINGS = ("entropy", "kl", "target_log_prob", "top_probs")
BETWEEN = ("kl", "js", "total_variation", "largest_change")


def tuned(seed: int = 0) -> TunedLens:
    drawn = torch.Generator().manual_seed(seed)
    identity = Translators.identity(model().n_layers, 32)
    noise = torch.randn(identity.weight.shape, generator=drawn) / 20
    return TunedLens(model(), Translators(identity.weight + noise, identity.bias))


def table(prompt: str = PROMPT, **more: Any) -> Any:
    return lk.widgets.LensTable(model(), prompt, **more)


def both() -> list[Any]:
    return [lk.LogitLens(model()), tuned()]


def assert_read(seen: lk.Trajectory, read: lk.Trajectory) -> None:
    assert seen.site == read.site
    assert seen.ids.tolist() == read.ids.tolist()
    for name in READINGS:
        np.testing.assert_allclose(getattr(seen, name), getattr(read, name), atol=2e-5)


def sides(reply: dict[str, Any], buffers: list[bytes]) -> list[dict[str, np.ndarray]]:
    """The arrays of the first side, of the other, and of what is between them."""
    parts, at = [], 0
    for part in (reply, reply["beside"], reply["between"]):
        count = len(part["arrays"])
        parts.append(arrays(part, buffers[at : at + count]))
        at += count
    assert at == len(buffers)
    return parts


class TestSwitchingTheLens:
    def test_runs_nothing_and_reads_each_lens_at_its_own_site(self) -> None:
        lenses = both()
        shown = table(lens=lenses)
        ran: list[object] = []
        hook = model().anatomy.blocks[0].register_forward_hook(lambda *_: ran.append(1))
        for name, lens in (("tuned", lenses[1]), ("logit", lenses[0]), ("tuned", lenses[1])):
            shown.lens = name
            assert shown.lens is lens
        hook.remove()
        assert ran == []
        for name, lens in (("tuned", lenses[1]), ("logit", lenses[0])):
            shown.lens = name
            assert_read(shown.trajectory, lens.read(PROMPT))

    def test_the_prefix_serves_all_lenses_while_one_types(self) -> None:
        lenses: dict[str, Any] = dict(zip(("logit", "tuned"), both(), strict=True))
        live = LiveComparison(lenses)
        chance = np.random.default_rng(0)
        ids = [int(i) for i in chance.integers(0, 131, 4)]
        for name in ("logit", "tuned", "tuned", "logit", "logit", "tuned"):
            ids = [*ids, int(chance.integers(0, 131))]
            made = finish(live.reading.update(ids, lens=lenses[name]))
            assert made.ran == (1 if len(ids) > 5 else 5)
            assert_read(made.trajectory, lenses[name].read(ids))

    def test_keeps_the_chosen_state_chosen(self) -> None:
        shown: Any = table(lens=both())
        shown.selection = (0, 1)
        assert chosen(shown) == Site("resid_post", 0)
        shown.lens = "tuned"
        assert chosen(shown) == Site("resid_pre", 1)
        assert shown.spec["selection"] == {"layer": 1, "pos": 1}
        shown.selection = (-1, 2)  # the last row is the model's own prediction in both
        assert chosen(shown) == Site("resid_post", model().n_layers - 1)
        shown.lens = "logit"
        assert shown.spec["selection"] == {"layer": model().n_layers - 1, "pos": 2}

    def test_the_message_names_the_lens_and_its_site(self) -> None:
        shown = table(lens=both())
        wire = Wire(shown)
        shown.lens = "tuned"
        wire.read(PROMPT)
        reply, buffers = wire.replies[-1]
        assert (reply["lens"], reply["site"], reply["layers"]) == ("tuned", "resid_pre", [0, 1, 2, 3])
        assert (reply["beside"], reply["between"]) == (None, None)
        assert arrays(reply, buffers)["entropy"].shape == (reply["positions"], 4)
        assert shown.facts["sites"] == {"logit": "resid_post", "tuned": "resid_pre"}


class TestTwoLenses:
    def test_are_compared_where_both_read_the_same_states(self) -> None:
        logit, other = both()
        shown = table(lens=logit, second=other)
        made, wanted = shown.comparison, compare(logit, PROMPT, other)
        assert_read(made.first, logit.read(PROMPT, site="resid_pre"))
        assert_read(made.second, other.read(PROMPT))
        for name in BETWEEN:
            np.testing.assert_allclose(getattr(made, name), getattr(wanted, name), atol=2e-5)
        assert "logit lens beside tuned" in repr(shown)

    def test_are_sent_as_two_sides_and_what_is_between_them(self) -> None:
        shown = table(lens=both(), second="tuned")
        wire = Wire(shown)
        shown._receive(shown, {**READ, "second": "tuned", "have_beside": None}, [])
        reply, buffers = wire.replies[-1]
        first, second, between = sides(reply, buffers)
        made = shown.comparison
        np.testing.assert_allclose(first["entropy"].T, made.first.entropy, atol=1e-5)
        np.testing.assert_allclose(second["target_log_prob"].T, made.second.target_log_prob, atol=1e-5)
        for name in (*BETWEEN, "changed_ids"):
            np.testing.assert_allclose(between[name].T, getattr(made, name), atol=1e-6)
        pieces = dict(reply["between"]["pieces"])
        assert {int(i) for i in between["changed_ids"].ravel()} <= pieces.keys()

    def test_typing_on_sends_new_columns_of_both_sides_and_measures_only_those(self) -> None:
        logit, other = both()
        shown = table(lens=[logit, other], second="tuned")
        wire = Wire(shown)
        shown._receive(shown, {**READ, "second": "tuned", "have_beside": None}, [])
        first, _ = wire.replies[-1]
        more = {"id": "t:2", "prompt": f"{PROMPT} is", "have": first["table"], "have_beside": first["beside"]["table"]}
        shown._receive(shown, {**READ, "second": "tuned", **more}, [])
        reply, _ = wire.replies[-1]
        assert (reply["start"], reply["beside"]["start"]) == (first["positions"], first["positions"])
        assert reply["recomputed"] == reply["positions"] - first["positions"]
        shown.prompt = f"{PROMPT} is"
        np.testing.assert_allclose(shown.comparison.js, compare(logit, f"{PROMPT} is", other).js, atol=2e-5)


class TestTwoPrompts:
    def test_are_read_by_one_lens_and_compared_position_by_position(self) -> None:
        lens = lk.LogitLens(model())
        shown, wanted = table(other=OTHER), compare(lens, PROMPT, other=OTHER)
        assert_read(shown.comparison.first, lens.read(PROMPT))
        assert_read(shown.comparison.second, lens.read(OTHER))
        for name in BETWEEN:
            np.testing.assert_allclose(getattr(shown.comparison, name), getattr(wanted, name), atol=2e-5)

    def test_that_do_not_line_up_are_refused_with_their_first_difference(self) -> None:
        shown = table("The", other="The")
        wire = Wire(shown)
        shown._receive(shown, {**READ, "prompt": "The", "other": "The b c"}, [])
        reply, _ = wire.replies[-1]
        count, longer = tokens("The"), tokens("The b c")
        assert reply["kind"] == "error"
        assert f"the first has {count} tokens, the second {longer}" in reply["message"]
        assert f"They first differ at position {count}: its end in the first" in reply["message"]
        with pytest.raises(ValueError, match="do not line up"):
            table("The", other="The b c")


class TestStatistics:
    def test_a_second_target_gives_the_difference_of_the_two(self) -> None:
        shown = table(target=5, versus=9, statistic="log_prob_difference")
        read = lk.LogitLens(model()).read(PROMPT, target=5, versus=9)
        for name in ("log_prob_difference", "log_prob_difference_change"):
            np.testing.assert_allclose(shown.trajectory.statistic(name), read.statistic(name), atol=2e-5)
        wire = Wire(shown)
        shown._receive(shown, {**READ, "target": 5, "versus": 9}, [])
        got = arrays(*wire.replies[-1])
        np.testing.assert_allclose(
            (got["target_log_prob"] - got["versus_log_prob"]).T, read.statistic("log_prob_difference"), atol=2e-5
        )
        assert set(got["versus_ids"].tolist()) == {9}

    @pytest.mark.parametrize("name", ["loss", "surprise"])
    def test_what_a_live_table_cannot_show_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="statistic is one of"):
            table(statistic=name)


class TestTheSpec:
    def test_one_of_an_older_version_takes_what_is_new_by_default(self) -> None:
        shown = table(lens=both(), second="tuned")
        old = ("v", "prompt", "lens", "statistic", "target", "order", "selection", "scale")
        shown.spec = {key: shown.spec[key] for key in old}
        assert (shown.spec["view"], shown.spec["second"], shown.comparison) == ("one", None, None)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"second": "tuned", "other": "The"}, "not both"),
            ({"second": "logit"}, "the lens itself"),
            ({"view": "side", "second": None}, "view 'side' compares"),
            ({"lens": "jacobian"}, "one of this table's lenses"),
            ({"statistic": "log_prob_difference"}, "give versus"),
            ({"view": "three"}, "view is one of"),
            ({"difference": "distance"}, "difference is one of"),
        ],
    )
    def test_what_says_nothing_is_refused_in_words(self, change: dict[str, Any], said: str) -> None:
        shown = table(lens=both(), second="tuned")
        with pytest.raises(traitlets.TraitError, match=said):
            shown.spec = {**shown.spec, **change}

    def test_lenses_of_one_name_need_names(self) -> None:
        with pytest.raises(ValueError, match="give names"):
            table(lens=[tuned(), tuned(1)])
        with pytest.raises(ValueError, match="give names"):
            table(lens=tuned(), second=tuned(1))
        shown = table(lens={"before": tuned(), "after": tuned(1)}, second="after")
        assert (shown.spec["lens"], shown.spec["second"], shown.facts["lenses"]) == (
            "before",
            "after",
            ["before", "after"],
        )

    def test_a_lens_of_another_model_is_refused(self) -> None:
        with pytest.raises(ValueError, match="the lens belongs to"):
            table(second=TunedLens(lk.Model(tiny("gpt2"))))


def test_the_newest_question_wins_also_while_two_sides_are_read() -> None:
    shown = table(lens=both(), second="tuned")
    wire = Wire(shown)

    async def ask() -> None:
        for n in range(4):
            second = "tuned" if n % 2 == 0 else None
            shown._receive(shown, {**READ, "id": f"t:{n}", "prompt": f"{n} {PROMPT}", "second": second}, [])
            for _ in range(n + 3):
                await asyncio.sleep(0)
        while len(wire.kinds()) < 4:
            await asyncio.sleep(0.01)

    asyncio.run(ask())
    assert wire.kinds()[-1] == ("t:3", "table")
    assert [kind for _, kind in wire.kinds()].count("superseded") == 3


def test_the_static_twin_and_the_page_hold_both_sides(tmp_path: Any) -> None:
    shown = table(lens=both(), second="tuned")
    bundle, _ = shown._repr_mimebundle_()
    assert bundle["text/html"].count("<table") == 2
    shown.to_html(tmp_path / "both.html")
    assert '"between": {' in (tmp_path / "both.html").read_text(encoding="utf-8")


READ = {"v": 1, "kind": "read", "id": "t:1", "prompt": PROMPT, "target": None, "have": None}


def chosen(shown: Any) -> Site:
    return shown.selection.site


def tokens(prompt: str) -> int:
    return len(model().text.ids(prompt))
