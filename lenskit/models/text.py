"""Text: from prompts to token ids and from token ids to the very text they stand for."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

Piece = str | bytes
"""A token's own text; or its bytes, where they are not valid UTF-8 by themselves."""


class Text:
    """A tokenizer, asked the questions that looking inside a model raises.

    The tokenizer is used as it is and never changed: whether a prompt begins with a BOS token is its own habit.
    """

    def __init__(self, tokenizer: Any | None) -> None:
        self.tokenizer = tokenizer
        self._seen: dict[int, Piece] = {}

    def _need(self, what: str) -> Any:
        if self.tokenizer is None:
            raise TypeError(
                f"{what} needs a tokenizer, and this model has none. Give token ids, or Model(hf, tokenizer)."
            )
        return self.tokenizer

    def ids(self, prompt: str) -> list[int]:
        """The prompt's token ids, with the special tokens that the tokenizer adds by default."""
        return list(self._need("a text prompt")(prompt)["input_ids"])

    def token(self, token: str | int) -> int:
        """The id of a text that is exactly one token. Raises ValueError, naming the pieces, where it is not one.

        >>> model.text.token(" Paris")  # doctest: +SKIP
        7042
        """
        if isinstance(token, int):
            return token
        ids = list(self._need("a token given as text")(token, add_special_tokens=False)["input_ids"])
        if len(ids) == 1:
            return ids[0]
        pieces = " + ".join(repr(show(piece)) for piece in self.pieces(ids)) or "nothing"
        hint = "" if token.startswith(" ") or not token else f" Most words follow a space: try {' ' + token!r}."
        raise ValueError(f"{token!r} is not one token but {len(ids)}: {pieces}.{hint}")

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """The text of each token by itself; bytes where a token holds part of a character only."""
        for i in ids:
            if i not in self._seen:
                self._seen[i] = self._piece(i)
        return [self._seen[i] for i in ids]

    def _piece(self, token: int) -> Piece:
        if self.tokenizer is None:
            return f"#{token}"
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None:
            return f"#{token}"
        if token in self._special:
            return name
        if self._style == "bytes":
            return _bytes_or_text(bytes(_BYTE_OF[c] for c in name)) if set(name) <= _BYTE_OF.keys() else name
        if self._style == "metaspace":
            if len(name) == 6 and name.startswith("<0x"):
                return _bytes_or_text(bytes([int(name[3:5], 16)]))
            return name.replace("\u2581", " ")
        return self.tokenizer.decode([token], clean_up_tokenization_spaces=False)

    @cached_property
    def _special(self) -> set[int]:
        return set(self._need("a special token").all_special_ids)

    @cached_property
    def _style(self) -> str:
        """How the vocabulary writes text: GPT-2's byte letters, SentencePiece's underline, or some other way."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        decoder = json.dumps(json.loads(backend.to_str())["decoder"]) if backend is not None else ""
        if "ByteLevel" in decoder:
            return "bytes"
        return "metaspace" if "Metaspace" in decoder or "\\u2581" in decoder else "other"


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


def _bytes_or_text(raw: bytes) -> Piece:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _byte_letters() -> dict[str, int]:
    """GPT-2's writing of bytes as letters: printable Latin-1 stands for itself, the rest follows from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_letters()
