"""Show: a token's own text, and how people should see it."""

from __future__ import annotations

import unicodedata

Piece = str | bytes
"""A token's own text; or its bytes, where they are not valid UTF-8 by themselves."""


def show(piece: Piece) -> str:
    """A token as people should see it: spaces, line breaks, broken bytes and all else without ink made visible.

    The front-ends draw tokens by the same rules (`widgets/shared/tokens.ts`).

    >>> show(" Paris"), show("  "), show("a\\n"), show(b" \\xe2\\x80")
    ('·Paris', '␣␣', 'a↵', '·⟨E2⟩⟨80⟩')
    """
    text = piece if isinstance(piece, str) else piece.decode("utf-8", errors="surrogateescape")
    if not text:
        return "∅"
    if not text.strip(" "):
        return "␣" * len(text) if len(text) <= 4 else f"␣×{len(text)}"
    leading, trailing = len(text) - len(text.lstrip(_BLANK)), len(text.rstrip(_BLANK))
    shown, fresh = "", True
    for at, char in enumerate(text):
        sign = _sign(char, 0 < at < len(text) - 1, isinstance(piece, bytes))
        if char == " " and not leading <= at < trailing:
            sign = "·"
        # A combining mark with nothing to sit on gets a dotted circle.
        lost = sign is None and fresh and unicodedata.category(char).startswith("M")
        shown += sign or (f"◌{char}" if lost else char)
        fresh = sign is not None
    return shown


_BLANK = " \n\r\t"
_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡", "\u00a0": "⍽"}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}


def _sign(char: str, inside: bool, broken: bool) -> str | None:
    """What stands for a character that cannot be seen, or None where it shows itself."""
    if char in _SIGNS:
        return _SIGNS[char]
    if char < " ":
        return chr(0x2400 + ord(char))
    if broken and "\udc80" <= char <= "\udcff":
        return f"⟨{ord(char) - 0xDC00:02X}⟩"
    if char == " " or (inside and char in "\u200c\u200d"):  # a joiner inside a word or an emoji shapes it
        return None
    return f"⟨{ord(char):04X}⟩" if unicodedata.category(char) in _UNSEEN else None
