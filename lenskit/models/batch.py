"""Batch: prompts or token ids, checked and padded into one rectangle that the model can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from lenskit.models.text import BOS_OF_IDS

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


class Read:
    """What was read last, so that the same ids once more cost nothing: they are checked and copied once.

    Versions tell whether somebody has written into the ids, or into the batch that was made of them.
    """

    def __init__(self, prompt: Prompt, bos: bool | None, batch: Batch) -> None:
        self.batch = batch
        self._ids: ReferenceType[Tensor] | None = None
        if isinstance(prompt, Tensor) and bos is None and not (prompt.is_inference() or batch.tokens.is_inference()):
            self._ids, self._versions = ref(prompt), (prompt._version, batch.tokens._version)

    def is_of(self, prompt: Prompt, bos: bool | None, device: torch.device) -> bool:
        """Whether the batch is what would be made of this prompt now."""
        if self._ids is None or (ids := self._ids()) is not prompt or ids is None or bos is not None:
            return False
        tokens = self.batch.tokens
        return (ids._version, tokens._version) == self._versions and tokens.device == device


def to_batch(
    prompt: Prompt, text: Text, anatomy: Anatomy, padding_side: Side | None = None, bos: bool | None = None
) -> Batch:
    """Read what a person gives as a prompt: a text, several, ids (pos,), (batch, pos) or a list of lists.

    Rows of different length are padded on `padding_side`, by default the tokenizer's own. `bos` says whether texts
    begin with the BOS token, as in `Text.ids`. Raises `TypeError` for what is no prompt and for `bos` with ids, and
    `ValueError` for an empty prompt, one longer than the model reads, an unknown id, and a BOS that does not exist.
    """
    if isinstance(prompt, Tensor) and bos is None:
        return Batch(_checked(prompt, anatomy), None)
    rows = _rows(prompt, text, bos)
    for row, ids in enumerate(rows):
        _check(ids, f"prompt {row}" if len(rows) > 1 else "the prompt", anatomy)
    length = max(map(len, rows))
    if all(len(ids) == length for ids in rows):
        return Batch(torch.tensor(rows), None)
    side = _side(padding_side, text, anatomy, length)
    # What stands in the padding does not matter, since it is masked; it only has to be a token.
    filler = getattr(text.tokenizer, "pad_token_id", None) or 0
    tokens = torch.full((len(rows), length), filler)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, ids in enumerate(rows):
        place = slice(0, len(ids)) if side == "right" else slice(length - len(ids), length)
        tokens[row, place] = torch.tensor(ids)
        mask[row, place] = 1
    return Batch(tokens, mask)


def _side(asked: Side | None, text: Text, anatomy: Anatomy, length: int) -> Side:
    """Where to pad: on the side that was asked for, or on the tokenizer's, unless the model works on the other only."""
    side: Side = asked or getattr(text.tokenizer, "padding_side", "right")
    if side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', not {side!r}.")
    if not anatomy.is_language_model or (reason := anatomy.ragged.refusal(side, length)) is None:
        return side
    other: Side = "left" if side == "right" else "right"
    works = anatomy.ragged.refusal(other, length) is None
    if works and asked is None:
        return other
    remedy = f"pad on the {other}" if works else "run prompts of one length, or one at a time"
    raise ValueError(f"rows of different length cannot be padded on the {side} here: {reason}. So {remedy}.")


def _rows(prompt: Prompt, text: Text, bos: bool | None) -> list[list[int]]:
    texts = _texts(prompt)
    if texts:
        return [text.ids(each, bos) for each in texts]
    if bos is not None:
        raise TypeError(BOS_OF_IDS)
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        items = list(prompt)
        if not items:
            raise ValueError("the prompt is empty: give at least one token.")
        if all(_is_id(item) for item in items):
            return [[int(item) for item in items]]  # pyright: ignore[reportArgumentType] -- just checked
        if all(isinstance(item, Sequence) and all(map(_is_id, item)) for item in items):
            return [[int(i) for i in item] for item in items]  # pyright: ignore -- just checked
    raise TypeError(
        "a prompt is a text, a list of texts, token ids, a list of lists of ids, or a (batch, pos) tensor; "
        f"this is a {type(prompt).__name__}."
    )


def _checked(ids: Tensor, anatomy: Anatomy) -> Tensor:
    """Ids (batch, pos) from a tensor, which need not become lists on the way. A copy: a run is not to change later."""
    if ids.dim() not in (1, 2) or ids.dtype.is_floating_point or ids.dtype == torch.bool:
        raise TypeError(
            f"token ids are a (pos,) or (batch, pos) tensor of whole numbers; this one is {tuple(ids.shape)} of "
            f"{str(ids.dtype).removeprefix('torch.')}."
        )
    flat = ids.flatten().tolist()
    length = ids.shape[-1]
    if not flat or length > (anatomy.context or length) or min(flat) < 0 or max(flat) >= anatomy.vocab:
        rows = len(flat) // length if flat else 1
        for row in range(rows):  # to say which row it is
            what = f"prompt {row}" if rows > 1 else "the prompt"
            _check(flat[row * length : (row + 1) * length], what, anatomy)
    tokens = ids.to(torch.int64, copy=True)
    if ids.dim() == 1:
        tokens = tokens[None]
    return tokens


def _texts(prompt: Prompt) -> list[str]:
    """The prompts that are text, or none where they are ids."""
    if isinstance(prompt, str):
        return [prompt]
    texts = list(prompt) if isinstance(prompt, Sequence) else []
    return [str(item) for item in texts] if all(isinstance(item, str) for item in texts) else []


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
