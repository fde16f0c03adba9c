"""Tokens are the very text they stand for, and a text is found again among them."""

import json
import unicodedata
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lenskit.models.pieces import as_bytes
from lenskit.models.show import show
from lenskit.models.text import Text
from tests.house.repository import ROOT
from tests.models.tiny import tiny_tokenizer
from tests.models.tiny_tokenizers import byte_level, sentencepiece, unigram, wordpiece

TEXT = Text(tiny_tokenizer(300))
STORE = "When Mary and John went to the store, John gave a drink"
END = "<|end|>"


@cache
def text(kind: str) -> Text:
    made = {
        "byte-level": lambda: byte_level(),
        "adds BOS": lambda: byte_level(before=END),
        "adds EOS": lambda: byte_level(after=END),
        "adds both": lambda: byte_level(before=END, after=END),
        "composes": lambda: byte_level(before=END, nfc=True),
        "unigram": unigram,
        "wordpiece": wordpiece,
    }
    return Text(made[kind]() if kind in made else sentencepiece(kind))


SENTENCEPIECE = ["llama", "always", "never"]
FAITHFUL = ["byte-level", *SENTENCEPIECE]


# Pieces are text


@given(st.text())
def test_the_pieces_of_a_prompt_put_together_are_the_prompt(prompt: str) -> None:
    assert as_bytes(TEXT.pieces(TEXT.ids(prompt))).decode() == prompt
    assert TEXT.decode(TEXT.ids(prompt)) == prompt


@pytest.mark.parametrize("kind", SENTENCEPIECE)
@given(prompt=st.text(st.one_of(st.sampled_from(" \n\tMaryJohn,é🙂"), st.characters(codec="utf-8"))))
def test_the_pieces_of_sentencepiece_put_together_are_the_prompt(kind: str, prompt: str) -> None:
    """But for the space that some read before a text, and for its underline, which it takes for a space."""
    assume("▁" not in prompt and "<" not in prompt)
    reads = as_bytes(text(kind).pieces(text(kind).ids(prompt, bos=False))).decode()
    assert reads == prompt or (reads == " " + prompt and kind != "never")
    assert text(kind).decode(text(kind).ids(prompt, bos=False)) == reads


def test_a_character_that_is_spread_over_tokens_is_shown_by_its_bytes() -> None:
    assert text("never").str_tokens("a🙂") == ["<s>", "a", "⟨F0⟩", "⟨9F⟩", "⟨99⟩", "⟨82⟩"]
    assert text("never").decode(text("never").ids("a🙂")[:-1]) == "<s>a\ufffd"


def test_an_added_token_is_its_own_text_and_no_byte_letters() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["é", "  "])
    assert Text(tokenizer).decode(Text(tokenizer).ids("café  !")) == "café  !"
    assert Text(tokenizer).pieces(Text(tokenizer).ids("é  ")) == ["é", "  "]


def test_a_token_named_almost_like_a_byte_is_text() -> None:
    tokenizer = sentencepiece("never")
    tokenizer.add_tokens(["<0xZZ>"])
    assert Text(tokenizer).pieces(Text(tokenizer).ids("<0xZZ>", bos=False)) == ["<0xZZ>"]


def test_where_pieces_are_not_the_text_it_is_decoded_by_the_tokenizer() -> None:
    ids = text("wordpiece").ids("The cabinets")
    assert text("wordpiece").decode(ids[1:-1]) == "the cabinets"


@pytest.mark.parametrize("of", [list, tuple, np.array, torch.tensor, lambda ids: torch.tensor([ids])])
def test_ids_come_in_every_form(of) -> None:
    ids = TEXT.ids("to the store")
    assert TEXT.str_tokens(of(ids)) == TEXT.str_tokens("to the store")
    assert TEXT.decode(of(ids)) == "to the store"
    assert TEXT.position(of(ids), " the") == TEXT.position("to the store", " the")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(2, 3, dtype=torch.long), "2 of list"),
        (["a", "b"], "2 of str"),
        (3, "int"),
        ([1.5], "list"),
    ],
)
def test_more_or_less_than_one_prompt_is_refused(wrong, said: str) -> None:
    with pytest.raises(TypeError, match=f"one prompt, a text or one row of token ids, and not {said}"):
        TEXT.str_tokens(wrong)


@given(st.text(min_size=1))
def test_a_shown_token_has_nothing_invisible_in_it(text: str) -> None:
    shown = show(text)
    unseen = [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]
    assert set(unseen) <= {"\u200c", "\u200d"}
    assert not shown.startswith(" ")
    assert not shown.endswith(" ")


@pytest.mark.parametrize(("piece", "shown"), json.loads((ROOT / "widgets/tests/tokens.json").read_text("utf-8")))
def test_a_token_is_shown_by_the_same_rules_as_in_the_front_ends(piece: str | list[int], shown: str) -> None:
    assert show(piece if isinstance(piece, str) else bytes(piece)) == shown


# How a prompt begins and ends


@pytest.mark.parametrize(
    ("kind", "own", "at_end"),
    [("byte-level", 0, 0), ("adds BOS", 1, 0), ("adds EOS", 0, 1), ("adds both", 1, 1), ("never", 1, 0)],
)
def test_a_prompt_begins_as_asked_and_ends_as_the_tokenizer_does(kind: str, own: int, at_end: int) -> None:
    t = text(kind)
    assert t.bos is not None
    assert (t.adds_bos, t.adds_at_end) == (bool(own), [t.bos] * at_end)
    for prompt in ("the store", ""):
        bare = t.tokenizer(prompt, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportOptionalCall]
        assert t.ids(prompt) == [t.bos] * own + bare + [t.bos] * at_end
        assert t.ids(prompt, bos=True) == [t.bos, *bare] + [t.bos] * at_end
        assert t.ids(prompt, bos=False) == bare + [t.bos] * at_end


@pytest.mark.parametrize("kind", ["byte-level", "adds BOS", "adds both"])
def test_a_bos_that_is_written_in_the_prompt_is_not_doubled_and_not_taken_away(kind: str) -> None:
    t = text(kind)
    assert t.ids(END + "the", bos=True) == t.ids(END * 2 + "the", bos=True) == t.ids("the", bos=True)
    assert t.ids(END + "the", bos=False) == t.ids("the", bos=True)
    assert t.str_tokens(END + "the", bos=True) == t.str_tokens("the", bos=True)


def test_what_is_added_is_measured_and_not_remembered() -> None:
    tokenizer = byte_level(before=END)
    t = Text(tokenizer)
    assert t.adds_bos
    tokenizer.backend_tokenizer.post_processor = byte_level(after=END).backend_tokenizer.post_processor
    assert (t.adds_bos, t.adds_at_end) == (False, [0])


def test_what_is_added_is_told_also_where_the_tokenizer_reads_nothing_else() -> None:
    backend = Tokenizer(models.BPE({END: 0, "b": 1}, []))
    backend.post_processor = byte_level(before=END, after=END).backend_tokenizer.post_processor
    t = Text(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END))
    assert (t.adds_bos, t.adds_at_end) == (True, [0])
    assert t.ids("b", bos=False) == [1, 0]


def test_bert_has_no_bos_and_keeps_what_it_adds() -> None:
    t = text("wordpiece")
    assert (t.bos, t.adds_bos, t.adds_at_end) == (None, False, [2])
    assert t.str_tokens("the key", bos=False) == ["[CLS]", "the", "key", "[SEP]"]
    with pytest.raises(ValueError, match=r"bos=True, and this \w+ has no BOS token\. Leave bos out"):
        t.ids("the key", bos=True)


def test_bos_is_refused_with_ids() -> None:
    with pytest.raises(TypeError, match=r"bos is for a text: .*model\.text\.bos"):
        TEXT.str_tokens([1, 2], bos=False)


def test_without_a_tokenizer_ids_still_work_and_text_is_refused() -> None:
    t = Text(None)
    assert t.str_tokens([1, 2]) == ["#1", "#2"]
    assert t.position([1, 2, 1], 2) == 1
    for ask in (
        lambda: t.bos,
        lambda: t.ids("a"),
        lambda: t.decode([1]),
        lambda: t.span([1], "a"),
        lambda: t.token("a"),
    ):
        with pytest.raises(TypeError, match=r"needs a tokenizer, .* Give token ids, or Model\(hf, tokenizer\)"):
            ask()


# One token


@pytest.mark.parametrize("kind", [*FAITHFUL, "adds BOS", "unigram"])
@pytest.mark.parametrize("word", [" Mary", " the", "t", "a"])
def test_a_token_is_the_one_whose_text_is_what_was_given(kind: str, word: str) -> None:
    assert text(kind).pieces([text(kind).token(word)]) == [word]


def test_a_spaced_word_is_one_token_and_a_longer_or_bare_one_is_not() -> None:
    for kind in FAITHFUL:
        with pytest.raises(ValueError, match=r"' Maryam' is not one token but 3: '·Mary' \+ 'a' \+ 'm'\. No other"):
            text(kind).token(" Maryam")
        # Also where the tokenizer reads a space before every text, and so has one token for this.
        with pytest.raises(ValueError, match=r"'Mary' is not one token but 2: .* One token would be ' Mary'\."):
            text(kind).token("Mary")


def test_capitals_are_suggested_where_they_are_one_token() -> None:
    with pytest.raises(ValueError, match=r"' mary' is not one token .* One token would be ' Mary'\."):
        TEXT.token(" mary")


@given(st.text(max_size=8))
def test_what_is_suggested_really_is_one_token(word: str) -> None:
    from lenskit.models.text import _variants

    try:
        assert TEXT.pieces([TEXT.token(word)]) == [word]
    except ValueError as refused:
        hint = str(refused).rpartition("One token would be ")[2] if "One token would be" in str(refused) else ""
        named = [other for other in _variants(word) if repr(other) in hint]
        assert bool(named) == bool(hint)
        assert all(len(TEXT.ids(other)) == 1 for other in named)


def test_nothing_is_no_token() -> None:
    with pytest.raises(ValueError, match=r"'' is not one token but 0: nothing"):
        TEXT.token("")


@pytest.mark.parametrize(("kind", "unknown"), [("unigram", "<unk>"), ("wordpiece", r"\[UNK\]")])
def test_what_the_vocabulary_lacks_is_no_token(kind: str, unknown: str) -> None:
    with pytest.raises(
        ValueError, match=rf"' 🙂' is not in this vocabulary: the tokenizer reads '{unknown}' \(id 0\) .* No other"
    ):
        text(kind).token(" 🙂")
    assert text(kind).token(unknown.replace("\\", "")) == 0


def test_a_word_of_bert_has_no_space_and_no_capitals() -> None:
    t = text("wordpiece")
    assert t.token(" Mary") == t.token("Mary") == t.token("mary")
    with pytest.raises(ValueError, match=r"'Maryam' is not one token but 3: 'mary' \+ '##a' \+ '##m'"):
        t.token("Maryam")


def test_an_id_is_given_back_and_what_is_neither_is_refused() -> None:
    assert TEXT.token(5) == TEXT.token(np.int64(5)) == TEXT.token(torch.tensor(5)) == 5  # pyright: ignore
    for wrong in (None, 1.0, True, [" Mary"]):
        with pytest.raises(TypeError, match=r"a token is a text or an id, not .*text\.tokens"):
            TEXT.token(wrong)  # pyright: ignore[reportArgumentType]


def test_several_answers_are_several_ids() -> None:
    assert TEXT.tokens([" Mary", " John", 7]) == [TEXT.token(" Mary"), TEXT.token(" John"), 7]
    with pytest.raises(TypeError, match=r"takes a list, and this is ' Mary'"):
        TEXT.tokens(" Mary")


# Where it is


@pytest.mark.parametrize("kind", [*FAITHFUL, "adds both", "wordpiece"])
def test_a_token_is_found_where_it_is(kind: str) -> None:
    t = text(kind)
    both = t.positions(STORE, " John")
    assert [t.pieces(t.ids(STORE))[at] for at in both] == ["john" if kind == "wordpiece" else " John"] * 2
    assert [t.position(STORE, " John", which) for which in ("first", "last", 0, 1, -1, -2)] == [
        both[i] for i in (0, 1, 0, 1, 1, 0)
    ]
    assert t.position(STORE, " Mary") == t.position(t.ids(STORE), t.token(" Mary")) == t.positions(STORE, " Mary")[0]
    with pytest.raises(ValueError, match=rf"' John' occurs 2 times, at {both[0]} and {both[1]}: say which='first'"):
        t.position(STORE, " John")
    with pytest.raises(ValueError, match=r"' John' occurs 2 times, .*: there is no which=2, the last is 1"):
        t.position(STORE, " John", 2)


def test_positions_count_the_bos() -> None:
    assert TEXT.position(STORE, " Mary", bos=None) + 1 == text("byte-level").position(STORE, " Mary", bos=True)
    assert TEXT.span(STORE, " Mary").start + 1 == text("adds BOS").span(STORE, " Mary").start


def test_a_token_that_is_not_there_is_refused_and_its_look_alike_is_named() -> None:
    assert TEXT.positions(STORE, "!") == []
    with pytest.raises(ValueError, match=r"'!' is not among the 31 tokens of this prompt\. text\.str_tokens shows"):
        TEXT.position(STORE, "!")
    with pytest.raises(ValueError, match=r"'T' is not among .* But there is 't' at 0: give that one"):
        TEXT.position("to the to", "T")
    with pytest.raises(ValueError, match=r"' Maryam' is not one token but 3.* use text\.span"):
        TEXT.position(STORE, " Maryam")
    with pytest.raises(ValueError, match=r"'·Mary' \(id \d+\) is not among the 1 tokens"):
        TEXT.position("a", TEXT.token(" Mary"))


def test_which_one_must_be_a_word_that_is_known() -> None:
    with pytest.raises(ValueError, match=r"which must be 'only', 'first', 'last' or a number, not 'second'"):
        TEXT.position(STORE, " John", "second")  # pyright: ignore[reportArgumentType]


PARTS = ["John gave", " John gave", "n gav", "store, John", "drink", "When", "Mary and John went to", "e", STORE]


@pytest.mark.parametrize("kind", [*FAITHFUL, "adds both", "composes", "unigram", "wordpiece"])
@pytest.mark.parametrize("part", PARTS)
def test_a_span_holds_the_part_and_no_token_too_many(kind: str, part: str) -> None:
    t, ids = text(kind), text(kind).ids(STORE)
    span = t.span(STORE, part, "first")

    def reads(begin: int, end: int) -> str:
        decoded = t.decode(ids[begin:end])
        return decoded.lower().replace(" ", "") if kind == "wordpiece" else decoded

    wanted = part.lower().replace(" ", "") if kind == "wordpiece" else part
    assert wanted in reads(span.start, span.stop)
    assert wanted not in reads(span.start + 1, span.stop)
    assert wanted not in reads(span.start, span.stop - 1)


@given(st.text(min_size=1, max_size=20), st.data())
def test_any_part_of_any_text_has_its_span(prompt: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(prompt) - 1))
    part = prompt[begin : data.draw(st.integers(begin + 1, len(prompt)))]
    for t in (TEXT, text("adds both"), text("composes")):
        assume(END not in prompt)
        ids, form = t.ids(prompt), "NFC" if t is text("composes") else None
        covered = as_bytes(t.pieces(ids[t.span(prompt, part, "first")]))
        wanted = unicodedata.normalize(form, part) if form else part
        assert form or wanted.encode() in covered


def test_what_a_span_of_changed_spelling_is() -> None:
    """A decomposed é is read as one character, and is found as it was written."""
    t, prompt = text("composes"), "the cafe\u0301 and the store"
    span = t.span(prompt, "cafe\u0301")
    assert t.decode(t.ids(prompt)[span]).strip() == "café"
    assert t.decode(t.ids(prompt)[t.span(prompt, " store")]) == " store"
    assert t.decode(t.ids(END + prompt, bos=True)[t.span(END + prompt, "cafe\u0301", bos=True)]).strip() == "café"
    assert t.decode(t.ids(END * 3 + prompt, bos=True)[t.span(END * 3 + prompt, "fe\u0301", bos=True)]) == "fé"


def test_unknown_text_has_a_span() -> None:
    for kind in ("unigram", "wordpiece"):
        ids = text(kind).ids("the 🙂 key")
        assert ids[text(kind).span("the 🙂 key", "🙂")] == [0]


def test_special_tokens_are_no_part_of_a_text() -> None:
    for kind in ("adds both", "never"):
        t = text(kind)
        for part in ("s", "end", END, "<s>"):
            with pytest.raises(ValueError, match=r"is not in this prompt|no token stands for"):
                t.span(END + "a" if kind == "adds both" else "<s>a", part)
    with pytest.raises(ValueError, match="'ab' is not in this prompt"):
        TEXT.span(f"a{END}b", "ab")


def test_a_part_that_is_not_there_once_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'Bill gave' is not in this prompt; .* Its tokens read 'When Mary and"):
        TEXT.span(STORE, "Bill gave")
    with pytest.raises(ValueError, match=r"' John' occurs 2 times, at 6 and 20: say which"):
        TEXT.span(STORE, " John")
    with pytest.raises(ValueError, match=r"the part is empty"):
        TEXT.span(STORE, "")
    with pytest.raises(ValueError, match=r"' ' occurs once, at 1"):
        TEXT.span("a b", " ", which=1)
