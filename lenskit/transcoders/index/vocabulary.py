"""Vocabulary: the text of every token, from an index's own file, so that no tokenizer is needed to show one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from lenskit.models.pieces import text_or_bytes
from lenskit.models.show import Piece, show

Token = tuple[str, int, float]
"""A token as people should see it, its id, and a number that belongs to it."""


class Vocabulary:
    """Tokens by id and ids by token.

    arrays: `pieces`, the bytes of all of them one after another, and `piece_offsets`, where each begins.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._bytes, self._offsets = arrays["pieces"], arrays["piece_offsets"]

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def piece(self, token: int) -> Piece:
        """The text of a token, or its bytes where they are no text by themselves."""
        if not 0 <= token < len(self):
            return f"#{token}"
        return text_or_bytes(self._bytes[self._offsets[token] : self._offsets[token + 1]].tobytes())

    def token(self, token: int) -> str:
        """A token as people should see it."""
        return show(self.piece(token))

    def id_of(self, token: str | int) -> int:
        """The id of a text that is exactly one token; an id as it is. Raises `ValueError`."""
        if not isinstance(token, str):
            return int(token)
        if token in self._ids:
            return self._ids[token]
        others = [repr(other) for other in (f" {token}", token.strip()) if other in self._ids and other != token]
        remedy = f"One would be {' or '.join(others)}." if others else "Give an id."
        raise ValueError(f"{token!r} is not one token of this vocabulary. {remedy}")

    def containing(self, text: str) -> np.ndarray:
        """The ids of all tokens that contain a text; whether letters are capitals does not count."""
        wanted = text.casefold()
        return np.array([i for i, piece in enumerate(self._folded) if wanted in piece], np.int64)

    def listed(self, ids: np.ndarray, values: np.ndarray) -> list[Token]:
        """Tokens with their numbers."""
        return [(self.token(i), i, value) for i, value in zip(ids.tolist(), values.tolist(), strict=True)]

    def joined(self, ids: np.ndarray) -> list[str]:
        """Rows of tokens (row, token) as lines; -1 is none."""
        return [" ".join(self.token(i) for i in row if i >= 0) for row in ids.tolist()]

    @cached_property
    def _ids(self) -> dict[Piece, int]:
        return {self.piece(i): i for i in reversed(range(len(self)))}

    @cached_property
    def _folded(self) -> list[str]:
        pieces = map(self.piece, range(len(self)))
        return [piece.casefold() if isinstance(piece, str) else "" for piece in pieces]
