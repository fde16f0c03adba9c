"""Tokens are shown as the very text they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenskit.models.text import Text, show
from tests.models.tiny import tiny_tokenizer

TEXT = Text(tiny_tokenizer(300))


@given(st.text())
def test_the_pieces_of_a_prompt_put_together_are_the_prompt(prompt: str) -> None:
    pieces = TEXT.pieces(TEXT.ids(prompt))
    whole = b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)
    assert whole.decode() == prompt


@given(st.text(min_size=1))
def test_a_shown_token_has_nothing_invisible_in_it(text: str) -> None:
    assert show(text).isprintable()
    assert show(text).strip(" ") != ""


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        (" Paris", "·Paris"),
        ("Paris", "Paris"),
        (" ", "␣"),
        ("   ", "␣␣␣"),
        ("\n", "↵"),
        ("a\tb", "a⇥b"),
        (b"\xe2\x80", "⟨E2⟩⟨80⟩"),
        (b"a\xff", "a⟨FF⟩"),
        ("\u202e", "⟨U+202E⟩"),
        ("<b>", "<b>"),
    ],
)
def test_show_makes_spaces_breaks_and_bytes_visible(piece: str | bytes, shown: str) -> None:
    assert show(piece) == shown


def test_a_target_must_be_one_token_and_the_error_names_the_pieces() -> None:
    assert TEXT.pieces([TEXT.token("t")]) == ["t"]
    with pytest.raises(ValueError, match=r"'xyzzy' is not one token but \d: 'x' \+ .* try ' xyzzy'"):
        TEXT.token("xyzzy")
