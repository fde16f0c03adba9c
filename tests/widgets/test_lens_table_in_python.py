"""The Python half of the lens table: its spec, its selection, and one reply to every request."""

import asyncio
import copy
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traitlets

import lenskit as lk
from lenskit.models.sites import Site
from tests.models.test_model import hooks
from tests.models.tiny import tiny, tiny_tokenizer


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


READ = {"v": 1, "kind": "read", "id": "t:0", "prompt": "", "target": None, "have": None}


class Wire:
    """A view of the table, played by the test: it sends requests and collects what comes back."""

    def __init__(self, table: Any) -> None:
        self.table, self.replies, self.count = table, [], 0
        table.send = lambda content, buffers=None: self.replies.append((content, buffers))

    def read(self, prompt: str, target: int | None = None, have: int | None = None) -> str:
        self.count += 1
        request = {**READ, "id": f"t:{self.count}", "prompt": prompt, "target": target, "have": have}
        self.table._receive(self.table, request, [])
        return request["id"]

    def kinds(self) -> list[tuple[str, str]]:
        return [(reply["id"], reply["kind"]) for reply, _ in self.replies if reply["kind"] != "progress"]


def table(prompt: str = "The capital of France", **more: Any) -> Any:
    return lk.widgets.LensTable(model(), prompt, **more)


def arrays(reply: dict[str, Any], buffers: list[bytes]) -> dict[str, np.ndarray]:
    """The buffers as WIRE.md says they are to be read."""
    pairs = zip(reply["arrays"], buffers, strict=True)
    return {a["name"]: np.frombuffer(b, np.dtype(a["dtype"])).reshape(a["shape"]) for a, b in pairs}


def test_a_whole_table_holds_what_the_lens_reads() -> None:
    wire = Wire(table())
    wire.read("The capital of France")
    (reply, buffers), read = wire.replies[-1], lk.LogitLens(model()).read("The capital of France")
    assert (reply["kind"], reply["base"], reply["start"], reply["positions"]) == ("table", None, 0, len(read.ids))
    got = arrays(reply, buffers)
    np.testing.assert_array_equal(got["ids"], read.ids)
    np.testing.assert_array_equal(got["top_ids"].swapaxes(0, 1), read.top_ids)
    np.testing.assert_allclose(got["top_probs"].swapaxes(0, 1), read.top_probs, atol=1e-6)
    np.testing.assert_allclose(got["entropy"].T, read.entropy, atol=1e-5)
    np.testing.assert_allclose(got["kl"].T, read.kl, atol=1e-5)
    np.testing.assert_allclose(got["target_log_prob"].T, read.target_log_prob, atol=1e-5)
    np.testing.assert_array_equal(got["target_rank"].T, read.rank)
    pieces = dict(reply["pieces"])
    assert {int(i) for i in got["top_ids"].ravel()} <= pieces.keys()
    assert got["top_ids"].dtype == np.uint16


def test_one_more_token_sends_one_more_column_and_only_new_pieces() -> None:
    wire = Wire(table())
    wire.read("The capital of France")
    first, _ = wire.replies[-1]
    wire.read("The capital of France is", have=first["table"])
    reply, buffers = wire.replies[-1]
    assert reply["base"] == first["table"]
    assert reply["start"] == first["positions"]
    assert len(arrays(reply, buffers)["ids"]) == reply["positions"] - reply["start"]
    assert not {i for i, _ in first["pieces"]} & {i for i, _ in reply["pieces"]}


def test_a_view_that_holds_another_table_or_none_gets_a_whole_one() -> None:
    wire = Wire(table())
    wire.read("The capital of France")
    for have in (None, 99):
        wire.read("The capital of France is", have=have)
        assert wire.replies[-1][0]["base"] is None


def test_a_new_target_sends_every_column() -> None:
    wire = Wire(table())
    wire.read("The capital of France")
    wire.read("The capital of France", target=7, have=wire.replies[-1][0]["table"])
    reply, buffers = wire.replies[-1]
    assert (reply["base"], reply["target"]) == (None, 7) or reply["start"] == 0
    assert set(arrays(reply, buffers)["target_ids"].tolist()) == {7}


def test_of_several_requests_the_last_one_wins_and_each_has_one_reply() -> None:
    """In an event loop, as in a kernel: six keystrokes while the first is still being computed."""
    wire = Wire(table())
    plain = model().run([1, 2, 3]).logits

    async def type_quickly() -> list[str]:
        ids = []
        for n in range(6):
            ids.append(wire.read(f"{n} The capital of France"))
            await asyncio.sleep(0)
            assert torch.equal(model().run([1, 2, 3]).logits, plain)
        while len(wire.kinds()) < 6:
            await asyncio.sleep(0.01)
        return ids

    ids = asyncio.run(type_quickly())
    assert sorted(wire.kinds()) == sorted([*((i, "superseded") for i in ids[:5]), (ids[5], "table")])
    assert wire.replies[-1][0]["prompt"] == "5 The capital of France"
    assert hooks(model().hf_model) == 0


def test_reading_the_trajectory_while_a_view_waits_for_it_answers_the_view_too() -> None:
    shown = table()
    wire = Wire(shown)

    async def ask_and_read() -> None:
        shown.spec = {**shown.spec, "prompt": "The keys to the cabinet"}
        wire.read("The keys to the cabinet")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wire.kinds() == []  # the view's reading is under way
        assert shown.trajectory.prompt_tokens == lk.LogitLens(model()).read("The keys to the cabinet").prompt_tokens
        await asyncio.sleep(0.01)

    asyncio.run(ask_and_read())
    assert wire.kinds() == [("t:1", "table")]


def test_a_message_from_another_thread_is_handled_in_the_thread_that_made_the_widget() -> None:
    """JupyterLab hands widgets' messages to a thread of their own; no thread but the cells' may touch the model."""
    handled: list[int] = []

    async def a_session() -> None:
        shown = table()
        shown.on_msg(lambda *_: handled.append(threading.get_ident()))
        message = {"content": {"data": {"method": "custom", "content": {**READ, "prompt": "The keys"}}}, "buffers": []}
        await asyncio.to_thread(shown._handle_msg, message)
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(a_session())
    assert handled == [threading.get_ident()]


@pytest.mark.parametrize(
    ("prompt", "target", "message"),
    [
        ("", None, "the prompt is empty: give at least one token."),
        ("word " * 100, None, "tokens, and the model reads at most 128: shorten it."),
        ("The", 300, "the target 300 is no token"),
    ],
)
def test_what_cannot_be_read_is_answered_in_words_and_the_table_goes_on(
    prompt: str, target: int | None, message: str
) -> None:
    wire = Wire(table())
    wire.read(prompt, target)
    reply, _ = wire.replies[-1]
    assert reply["kind"] == "error"
    assert message in reply["message"]
    wire.read("The keys")
    assert wire.replies[-1][0]["kind"] == "table"


def test_a_failing_model_is_answered_with_its_own_error() -> None:
    failing = lk.Model(copy.deepcopy(model().hf_model), model().tokenizer)
    shown = lk.widgets.LensTable(failing, "The capital")
    wire = Wire(shown)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    failing.anatomy.blocks[1].register_forward_hook(fail)
    wire.read("The keys")
    assert wire.replies[-1][0]["message"] == "RuntimeError: no memory"
    assert shown.trajectory.prompt_tokens == lk.LogitLens(model()).read("The capital").prompt_tokens


@pytest.mark.parametrize(("prompt", "kind"), [("", ValueError), (3, TypeError), (["a"], TypeError)])
def test_a_wrong_first_prompt_raises_in_python(prompt: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="prompt"):
        lk.widgets.LensTable(model(), prompt)


def test_the_selection_and_the_spec_are_one_thing() -> None:
    shown, seen = table(), []
    assert shown.selection is None
    shown.observe(lambda change: seen.append(change["new"]), names="selection")
    shown.selection = (1, -1)
    last = len(shown.trajectory.ids) - 1
    assert shown.selection == lk.widgets.Selection(Site("resid_post", 1), last)
    assert shown.spec["selection"] == {"layer": 1, "pos": last}
    shown.spec = {**shown.spec, "selection": {"layer": 2, "pos": 0}}
    assert shown.selection == lk.widgets.Selection(Site("resid_post", 2), 0)
    shown.selection = None
    assert shown.spec["selection"] is None
    assert len(seen) == 3


def test_a_selected_cell_goes_with_its_token() -> None:
    shown = table()
    wire, last = Wire(shown), len(shown.trajectory.ids) - 1
    shown.selection = (1, last)
    wire.read("The capital of France is")
    assert shown.selection is not None
    wire.read("The")
    assert shown.selection is None
    assert shown.spec["selection"] is None


@pytest.mark.parametrize("wrong", [(3, 0), (0, 99), "here", (1,)])
def test_a_selection_outside_the_table_is_refused(wrong: Any) -> None:
    with pytest.raises(traitlets.TraitError):
        table().selection = wrong


@pytest.mark.parametrize(
    "change", [{"statistic": "surprise"}, {"order": "sideways"}, {"prompt": 3}, {"colour": "red"}, {"selection": 3}]
)
def test_a_wrong_spec_is_refused(change: dict[str, Any]) -> None:
    shown = table()
    with pytest.raises(traitlets.TraitError):
        shown.spec = {**shown.spec, **change}


def test_python_sees_the_reading_of_a_prompt_that_it_set_itself() -> None:
    shown = table()
    shown.prompt = "The keys to the cabinet"
    assert shown.trajectory.prompt_tokens == lk.LogitLens(model()).read("The keys to the cabinet").prompt_tokens


def test_it_prints_one_line_and_has_a_static_twin() -> None:
    shown = table()
    assert repr(shown) == "LensTable('The capital of France', logit lens, 3 layers of tiny)"
    bundle, _ = shown._repr_mimebundle_()
    assert bundle["text/plain"] == repr(shown)
    assert bundle["text/html"].startswith("<table")
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_lens_of_another_model_is_refused() -> None:
    other = lk.Model(tiny("gpt2"))
    with pytest.raises(ValueError, match="the lens belongs to"):
        lk.widgets.LensTable(model(), "The", lens=lk.LogitLens(other))


def test_to_html_writes_one_file_that_names_no_address(tmp_path: Path) -> None:
    table("Is <b>this</b> </script> text?").to_html(tmp_path / "table.html")
    html = (tmp_path / "table.html").read_text(encoding="utf-8")
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert html.count("</script>") == html.count("<script")
