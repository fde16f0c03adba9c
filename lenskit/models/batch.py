"""Batch: prompts or token ids, checked and padded into one rectangle that the model can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lenskit.models.anatomy import Anatomy
    from lenskit.models.text import Text

Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor
Side = Literal["left", "right"]


class Batch(NamedTuple):
    """Token ids (batch, pos), and which of them are real. `mask` is None where all are."""

    tokens: Tensor
    mask: Tensor | None

    @property
    def positions(self) -> Tensor | None:
        """The true position of each token, counted from the first real one; None where nothing is padded."""
        return None if self.mask is None else (self.mask.long().cumsum(-1) - 1).clamp_min(0)


def to_batch(prompt: Prompt, text: Text, anatomy: Anatomy, padding_side: Side | None = None) -> Batch:
    """Read what a person gives as a prompt: a text, several, ids (pos,), (batch, pos) or a list of lists.

    Rows of different length are padded on `padding_side`, by default the tokenizer's own. Raises `TypeError` for
    what is no prompt and `ValueError` for an empty one, one longer than the model reads, and an unknown id.
    """
    rows = _rows(prompt, text)
    for row, ids in enumerate(rows):
        _check(ids, f"prompt {row}" if len(rows) > 1 else "the prompt", anatomy)
    length = max(map(len, rows))
    if all(len(ids) == length for ids in rows):
        return Batch(torch.tensor(rows), None)
    side = padding_side or getattr(text.tokenizer, "padding_side", "right")
    if side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', not {side!r}.")
    # What stands in the padding does not matter, since it is masked; it only has to be a token.
    filler = getattr(text.tokenizer, "pad_token_id", None) or 0
    tokens = torch.full((len(rows), length), filler)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, ids in enumerate(rows):
        place = slice(0, len(ids)) if side == "right" else slice(length - len(ids), length)
        tokens[row, place] = torch.tensor(ids)
        mask[row, place] = 1
    return Batch(tokens, mask)


def _rows(prompt: Prompt, text: Text) -> list[list[int]]:
    if isinstance(prompt, str):
        return [text.ids(prompt)]
    if isinstance(prompt, Tensor):
        if prompt.dim() not in (1, 2) or prompt.dtype.is_floating_point or prompt.dtype == torch.bool:
            raise TypeError(
                f"token ids are a (pos,) or (batch, pos) tensor of whole numbers; this one is {tuple(prompt.shape)} of "
                f"{str(prompt.dtype).removeprefix('torch.')}."
            )
        return prompt.reshape(-1, prompt.shape[-1]).tolist()
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        items = list(prompt)
        if not items:
            raise ValueError("the prompt is empty: give at least one token.")
        if all(isinstance(item, str) for item in items):
            return [text.ids(str(item)) for item in items]
        if all(_is_id(item) for item in items):
            return [[int(item) for item in items]]  # pyright: ignore[reportArgumentType] -- just checked
        if all(isinstance(item, Sequence) and all(map(_is_id, item)) for item in items):
            return [[int(i) for i in item] for item in items]  # pyright: ignore -- just checked
    raise TypeError(
        "a prompt is a text, a list of texts, token ids, a list of lists of ids, or a (batch, pos) tensor; "
        f"this is a {type(prompt).__name__}."
    )


def _is_id(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _check(ids: list[int], what: str, anatomy: Anatomy) -> None:
    if not ids:
        raise ValueError(f"{what} is empty: give at least one token.")
    if anatomy.context is not None and len(ids) > anatomy.context:
        raise ValueError(
            f"{what} has {len(ids):,} tokens, and the model reads at most {anatomy.context:,}: shorten it."
        )
    worst = next((i for i in ids if not 0 <= i < anatomy.vocab), None)
    if worst is not None:
        raise ValueError(f"{what} has the token id {worst}, and the vocabulary has ids 0 to {anatomy.vocab - 1}.")
