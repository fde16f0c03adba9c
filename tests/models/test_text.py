"""Tokens are shown as the very text they stand for."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenskit.models.text import Text, show
from tests.house.repository import ROOT
from tests.models.tiny import tiny_tokenizer

TEXT = Text(tiny_tokenizer(300))


@given(st.text())
def test_the_pieces_of_a_prompt_put_together_are_the_prompt(prompt: str) -> None:
    pieces = TEXT.pieces(TEXT.ids(prompt))
    whole = b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)
    assert whole.decode() == prompt


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


def test_a_target_must_be_one_token_and_the_error_names_the_pieces() -> None:
    assert TEXT.pieces([TEXT.token("t")]) == ["t"]
    with pytest.raises(ValueError, match=r"'xyzzy' is not one token but \d: 'x' \+ .* try ' xyzzy'"):
        TEXT.token("xyzzy")
