"""Pieces: the very text, or the bytes, that each entry of a tokenizer's vocabulary stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal

from lenskit.models.show import Piece


class Pieces:
    """The text of each token, read from the vocabulary: decoding a token alone may lose its space or its bytes."""

    def __init__(self, tokenizer: Any | None) -> None:
        self.tokenizer = tokenizer
        self._seen: dict[int, Piece] = {}

    def __getitem__(self, token: int) -> Piece:
        if token not in self._seen:
            self._seen[token] = self._read(token)
        return self._seen[token]

    def _read(self, token: int) -> Piece:
        name = None if self.tokenizer is None else self.tokenizer.convert_ids_to_tokens(token)
        if self.tokenizer is None or name is None:
            return f"#{token}"
        if token in self.special:
            return name
        if self.style == "bytes":
            # An added token is matched in the text as it stands: its name is no byte letters.
            literal = token in self._added or not set(name) <= _BYTE_OF.keys()
            return name if literal else text_or_bytes(bytes(_BYTE_OF[c] for c in name))
        if self.style == "metaspace":
            if _BYTE.fullmatch(name):
                return text_or_bytes(bytes([int(name[3:5], 16)]))
            return name.replace("\u2581", " ")
        return self.tokenizer.decode([token], clean_up_tokenization_spaces=False)

    @cached_property
    def special(self) -> set[int]:
        """The tokens that are names and no text: beginning, end, padding, unknown."""
        return set(() if self.tokenizer is None else self.tokenizer.all_special_ids)

    @cached_property
    def _added(self) -> set[int]:
        return set(getattr(self.tokenizer, "added_tokens_decoder", ()))

    @cached_property
    def style(self) -> Literal["bytes", "metaspace", "other"]:
        """How the vocabulary writes text: GPT-2's byte letters, SentencePiece's underline, or some other way.

        Only in the first two does a token's piece not depend on its neighbours, so that pieces put together are text.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        decoder = json.dumps(json.loads(backend.to_str())["decoder"]) if backend is not None else ""
        if "ByteLevel" in decoder:
            return "bytes"
        return "metaspace" if "Metaspace" in decoder or "\\u2581" in decoder else "other"


def as_bytes(pieces: Iterable[Piece]) -> bytes:
    """Pieces put together: their bytes are valid UTF-8 again where whole characters are."""
    return b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)


def text_or_bytes(raw: bytes) -> Piece:
    """Bytes as text where they are valid UTF-8 by themselves."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def _byte_letters() -> dict[str, int]:
    """GPT-2's writing of bytes as letters: printable Latin-1 stands for itself, the rest follows from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_letters()
