"""The Python half of the attention view: its spec, its selection, and one reply to every question."""

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traitlets
from transformers import AutoModelForCausalLM

import lenskit as lk
from lenskit.models.head_ablation import ablate_heads
from lenskit.widgets import AttentionCell, AttentionView
from lenskit.widgets.attention_wire import frozen_heads, tile_side
from tests.models.architectures import build, tiny_config
from tests.models.test_model import hooks
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = "The key to the cabinet is there. The key"
NOTHING = {"table": None, "modes": [], "kinds": [], "heads": []}


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


def view(prompt: str = PROMPT, **more: Any) -> AttentionView:
    return AttentionView(model(), prompt, **more)


class Wire:
    """A front-end, played by the test: it asks and collects what comes back."""

    def __init__(self, view: AttentionView) -> None:
        self.view, self.replies, self.count = view, list[tuple[dict[str, Any], list[bytes]]](), 0
        send: Any = lambda content, buffers=None: self.replies.append((content, buffers or []))  # noqa: E731
        view.send = send

    def read(self, prompt: str = PROMPT, have: dict[str, Any] = NOTHING, **more: Any) -> str:
        self.count += 1
        question = {"show": "pattern", "hide_first": False, "pick": "all", "by": "zero", "ablated": [], "head": [1, 2]}
        asked = {"v": 1, "kind": "read", "id": f"t:{self.count}", "prompt": prompt, "have": have, **question, **more}
        self.view._receive(self.view, asked, [])
        return asked["id"]

    def head(self, table: int, layer: int, head: int) -> None:
        asked = {"v": 1, "kind": "head", "id": "h:1", "table": table, "layer": layer, "head": head}
        self.view._receive(self.view, asked, [])

    @property
    def last(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        reply, buffers = self.replies[-1]
        json.dumps(reply, allow_nan=False)  # as it travels
        pairs = zip(reply.get("arrays", []), buffers, strict=True)
        return reply, {a["name"]: np.frombuffer(b, np.dtype(a["dtype"])).reshape(a["shape"]) for a, b in pairs}

    def kinds(self) -> list[tuple[str, str]]:
        return [(reply["id"], reply["kind"]) for reply, _ in self.replies if reply["kind"] != "progress"]


def test_the_first_answer_holds_the_patterns_as_the_model_has_them() -> None:
    wire = Wire(view())
    wire.read()
    reply, arrays = wire.last
    run = model().run(PROMPT, keep="pattern")
    pattern, n = run["pattern"][:, 0], run.tokens.shape[1]
    assert (reply["kind"], reply["positions"], reply["layers"], reply["heads"]) == ("patterns", n, [0, 1, 2], [4, 4, 4])
    np.testing.assert_array_equal(arrays["ids"], run.tokens[0])
    assert reply["side"] == n
    np.testing.assert_allclose(arrays["tiles"][0] / 255, pattern, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(arrays["pattern"][0], pattern[1, 2], atol=1e-6)
    top = run.logits[0, -1].softmax(-1)[arrays["next_ids"].tolist()]
    np.testing.assert_allclose(arrays["next_before"], top, atol=1e-6)
    np.testing.assert_array_equal(arrays["next_before"], arrays["next_after"])
    assert {int(i) for i in [*arrays["ids"], *arrays["next_ids"]]} == {i for i, _ in reply["pieces"]}


def test_only_what_the_view_lacks_is_sent() -> None:
    wire = Wire(view())
    wire.read(pick="induction")
    first, arrays = wire.last
    assert arrays["scores"].shape == (1, 3, 4)
    have = {"table": first["table"], "modes": ["pattern/shown"], "kinds": ["induction"], "heads": [[1, 2]]}
    wire.read(have=have, pick="induction")
    reply, arrays = wire.last
    assert (reply["table"], reply["modes"], reply["scored"], reply["exact"]) == (first["table"], [], [], [])
    assert set(arrays) == {"ids", "next_ids", "next_before", "next_after"}
    wire.read(have=have, hide_first=True, pick="duplicate", head=[0, 3], show="value-weighted")
    reply, arrays = wire.last
    assert (reply["table"], reply["modes"], reply["exact"]) == (first["table"], ["value-weighted/hidden"], [[0, 3]])
    assert [scored["kind"] for scored in reply["scored"]] == ["duplicate"]
    assert arrays["value_norm"].shape == (1, len(arrays["ids"]))
    wire.read("Another prompt", have=have)
    reply, arrays = wire.last
    assert (reply["table"], reply["modes"], reply["exact"]) == (first["table"] + 1, ["pattern/shown"], [[1, 2]])


def test_one_head_in_full_is_answered_at_once_and_only_of_the_present_patterns() -> None:
    wire = Wire(view())
    wire.read()
    table = wire.last[0]["table"]
    wire.head(table, 2, 3)
    reply, arrays = wire.last
    assert (reply["kind"], reply["exact"]) == ("head", [[2, 3]])
    np.testing.assert_array_equal(arrays["pattern"][0], wire.view.attention.weights(2, 3))
    wire.head(table + 1, 2, 3)
    assert wire.last[0]["kind"] == "superseded"


def test_what_the_answer_says_of_an_ablation_is_what_plain_edits_give() -> None:
    wire = Wire(view())
    wire.read(ablated=[[1, 0], [0, 2]], by="mean")
    reply, arrays = wire.last
    edits = [lk.Mean("z", layers=1, heads=0, over="pos"), lk.Mean("z", layers=0, heads=2, over="pos")]
    after = model().run(PROMPT, edits=edits).logits[0, -1].softmax(-1)
    np.testing.assert_allclose(arrays["next_after"], after[arrays["next_ids"].tolist()], atol=1e-6)
    assert (reply["ablated"], reply["by"]) == ([[1, 0], [0, 2]], "mean")
    assert reply["kl"] > 0
    wire.view.spec = {**wire.view.spec, "ablated": [[1, 0], [0, 2]], "by": "mean"}
    wanted = ablate_heads(model(), PROMPT, [(1, 0), (0, 2)], "mean")
    assert wire.view.ablation.kl == pytest.approx(wanted.kl, abs=1e-6)
    assert hooks(model().hf_model) == 0
    assert model().edits == ()


def test_of_several_questions_the_last_one_wins_and_each_has_one_reply() -> None:
    """In an event loop, as in a kernel: six keystrokes while the first is still being computed."""
    wire = Wire(view())
    plain = model().run([[1, 2, 3]]).logits

    async def type_quickly() -> list[str]:
        ids = []
        for n in range(6):
            ids.append(wire.read(f"{n} The key", ablated=[[1, 1]]))
            await asyncio.sleep(0)
            assert torch.equal(model().run([[1, 2, 3]]).logits, plain)
        while len(wire.kinds()) < 6:
            await asyncio.sleep(0.01)
        return ids

    ids = asyncio.run(type_quickly())
    assert wire.kinds() == [*((i, "superseded") for i in ids[:-1]), (ids[-1], "patterns")]
    assert wire.last[0]["prompt"] == "5 The key"
    assert hooks(model().hf_model) == 0


def test_what_cannot_be_read_is_answered_in_words_and_the_next_prompt_works() -> None:
    wire = Wire(view())
    wire.read("")
    assert (wire.last[0]["kind"], "empty" in wire.last[0]["message"]) == ("error", True)
    wire.read("word " * 200)
    assert "128" in wire.last[0]["message"]
    wire.read("The")
    assert (wire.last[0]["kind"], wire.last[0]["positions"]) == ("patterns", 1)


def test_a_model_without_patterns_is_shown_with_the_reason() -> None:
    mamba = AttentionView(lk.Model(build("mamba"), tiny_tokenizer(300), name="mamba"), "The")
    assert "'pattern' does not exist in Mamba" in mamba.facts["why"]
    wire = Wire(mamba)
    wire.read("The")
    assert (wire.last[0]["kind"], wire.last[0]["message"]) == ("error", mamba.facts["why"])
    with pytest.raises(lk.SiteUnavailable, match="pattern"):
        _ = mamba.attention
    assert "does not exist in Mamba" in mamba._static()


def test_value_weights_that_cannot_be_had_are_refused_with_the_reason_and_the_patterns_stay() -> None:
    config = tiny_config("granitemoehybrid")
    config.vocab_size = 300
    granite = lk.Model(AutoModelForCausalLM.from_config(config).eval(), tiny_tokenizer(300))
    wire = Wire(AttentionView(granite, "The key"))
    wire.read("The key", head=[1, 0])
    wire.read("The key", head=[1, 0], show="value-weighted")
    assert [kind for _, kind in wire.kinds()] == ["patterns", "error"]
    assert "W_O does not exist" in wire.last[0]["message"]


def test_selection_and_spec_are_one_thing() -> None:
    shown = view()
    heard: list[Any] = []
    shown.observe(lambda change: heard.append(change["new"]), names="selection")
    shown.selection = (1, 2)
    assert shown.spec["selection"] == {"layer": 1, "head": 2, "pos": None, "key": None}
    shown.selection = (-1, -1, -1, 0)
    n = len(shown.attention.ids)
    assert shown.selection == AttentionCell(2, 3, n - 1, 0)
    shown.spec = {**shown.spec, "selection": {"layer": 0, "head": 1, "pos": 3, "key": 2}}
    assert shown.selection == AttentionCell(0, 1, 3, 2)
    shown.selection = {"layer": 0, "head": 2}
    assert heard[-1] == AttentionCell(0, 2)
    assert len(heard) == 4


def test_it_begins_with_the_head_that_looks_one_token_back_most() -> None:
    run = model().run(PROMPT, keep="pattern")
    best = divmod(int(lk.head_scores(run, "previous").argmax()), 4)
    assert view().spec["selection"] == {"layer": best[0], "head": best[1], "pos": None, "key": None}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((9, 0), "is not there"),
        ((0, 4), "heads 0 to 3"),
        ((0, 0, 999, 0), "positions 0 to"),
        (("a", 0), "a selection is None"),
        (3, "a selection is None"),
    ],
)
def test_a_selection_that_is_not_there_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(traitlets.TraitError, match=said):
        view().selection = wrong


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"show": "size"}, "show is one of pattern, value-weighted"),
        ({"pick": "best"}, "pick is one of all"),
        ({"more": 1}, "exactly the keys"),
        ({"selection": {"layer": 1}}, "exactly layer, head, pos, key"),
        ({"ablated": [3]}, r"a list of \[layer, head\]"),
        ({"prompt": 3}, "the prompt is a text"),
    ],
)
def test_a_spec_that_means_nothing_is_refused(wrong: dict[str, Any], said: str) -> None:
    shown = view()
    with pytest.raises(traitlets.TraitError, match=said):
        shown.spec = {**shown.spec, **wrong}


def test_a_shorter_prompt_takes_the_chosen_cell_with_it_and_keeps_the_head() -> None:
    shown = view()
    shown.selection = (1, 2, -1, 0)
    shown.prompt = "The"
    assert shown.attention.ids.shape == (1,)
    assert shown.selection == AttentionCell(1, 2)


def test_what_python_reads_has_the_sizes_of_the_values_whatever_the_view_shows() -> None:
    shown = view()
    weights = shown.attention.weights(1, 2, "value-weighted")
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert shown.attention is shown.attention


def test_asking_for_the_patterns_while_a_view_waits_for_them_answers_the_view() -> None:
    wire = Wire(view())

    async def ask() -> int:
        wire.read("The cabinet")
        wire.view.spec = {**wire.view.spec, "prompt": "The cabinet"}
        await asyncio.sleep(0)
        return len(wire.view.attention.ids)

    positions = asyncio.run(ask())
    assert (wire.last[0]["kind"], wire.last[0]["positions"]) == ("patterns", positions)


def test_the_repr_and_the_static_table_are_the_same_each_time_and_hold_no_markup_of_a_token() -> None:
    prompt = "<b>x</b> key"
    one, two = view(prompt), view(prompt)
    assert repr(one) == repr(two) == "AttentionView('<b>x</b> key', 3 layers x 4 heads of tiny)"
    html = one._static()
    assert html == two._static()
    assert "<b>" not in html
    assert html.count("<tr>") == len(one.attention.ids) + 1


def test_tiles_of_many_heads_over_a_long_prompt_stay_within_a_megabyte() -> None:
    class Seen:
        def __init__(self, layers: int, heads: int, length: int) -> None:
            self.layers, self.heads, self.ids = range(layers), [heads] * layers, range(length)

    for layers, heads, length in [(30, 9, 200), (12, 12, 900), (32, 32, 300), (80, 64, 50)]:
        side = tile_side(Seen(layers, heads, length))  # pyright: ignore[reportArgumentType]
        assert layers * heads * side**2 <= 1024**2
        assert side <= 48
        assert side >= 14
    assert tile_side(Seen(30, 9, 14)) == 14  # pyright: ignore[reportArgumentType]


def test_a_frozen_page_holds_the_chosen_head_first_and_no_more_than_two_megabytes() -> None:
    shown = view()
    heads = frozen_heads(shown.attention, [(2, 3)], [])
    assert heads[0] == (2, 3)
    assert len(heads) == len(set(heads)) == 12


def test_to_html_writes_one_file_that_loads_nothing(tmp_path: Path) -> None:
    shown = view()
    shown.selection = (1, 2)
    shown.to_html(tmp_path / "view.html")
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert 'live": false' in text
    assert len(text) < 400_000


def test_a_prompt_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="the prompt of an AttentionView is a text"):
        AttentionView(model(), [1, 2])  # pyright: ignore[reportArgumentType]
