"""Edited: edits that stay on a model until they are taken off."""

from __future__ import annotations

from types import TracebackType

from lenskit.models.edits import Edit


class Edited:
    """What `model.edit(...)` gives: some edits that are on, and the way to take them off.

    >>> on = model.edit(lk.Zero("attn_out", layers=3))  # doctest: +SKIP
    >>> on.remove()                                      # doctest: +SKIP
    """

    def __init__(self, edits: tuple[Edit, ...], on: list[Edited]) -> None:
        self.edits, self._on = edits, on

    def remove(self) -> None:
        """Take the edits off. A second time does nothing."""
        self._on[:] = [each for each in self._on if each is not self]

    def __enter__(self) -> Edited:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "on" if any(each is self for each in self._on) else "taken off"
        return f"Edited({', '.join(map(repr, self.edits))}; {state})"
