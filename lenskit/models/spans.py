"""Spans: where a part of a text is, which tokens cover it, and which of several occurrences is meant."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, dropwhile, pairwise
from typing import Any, Literal

from lenskit.models.pieces import Pieces, as_bytes

Range = tuple[int, int]

Occurrence = Literal["only", "first", "last"] | int
"""Which of several occurrences is meant; a number counts from 0, or from the end below it."""

MANY = 8


def choose(found: Sequence[str], which: Occurrence, what: str) -> int:
    """The index of the occurrence that is meant. Raises ValueError, naming where all of them are, if it is not clear.

    >>> choose(["3", "6"], "last", "' John'")
    1
    """
    named = {"first": 0, "last": len(found) - 1}
    places = " and ".join(found) if len(found) <= MANY else ", ".join([*found[:MANY], "..."])
    times = f"{what} occurs {'once' if len(found) == 1 else f'{len(found)} times'}, at {places}"
    if which == "only":
        if len(found) == 1:
            return 0
        raise ValueError(f"{times}: say which='first', 'last' or a number from 0 to {len(found) - 1}.")
    if isinstance(which, str) and which not in named:
        raise ValueError(f"which must be 'only', 'first', 'last' or a number, not {which!r}.")
    at = named[which] if isinstance(which, str) else which
    if not -len(found) <= at < len(found):
        raise ValueError(f"{times}: there is no which={which}, the last is {len(found) - 1}.")
    return at % len(found)


def occurrences(text: bytes, part: str) -> list[Range]:
    """Where a part begins and ends in the bytes of a text, overlapping ones too. Raises ValueError for an empty part.

    >>> occurrences(b"banana", "ana")
    [(1, 4), (3, 6)]
    """
    wanted = part.encode()
    if not wanted:
        raise ValueError("the part is empty: give at least one character.")
    found, at = [], text.find(wanted)
    while at >= 0:
        found.append((at, at + len(wanted)))
        at = text.find(wanted, at + 1)
    return found


def covering(ranges: Sequence[Range], begin: int, end: int) -> slice:
    """The positions whose (begin, end) in the text overlap the one given. Raises ValueError where none does.

    >>> covering([(0, 4), (4, 9), (9, 12)], 5, 10)
    slice(1, 3, None)
    """
    covered = [at for at, (start, stop) in enumerate(ranges) if start < stop and start < end and stop > begin]
    if not covered:
        raise ValueError("no token stands for that part of the text: this tokenizer does not keep it.")
    return slice(covered[0], covered[-1] + 1)


def laid_out(pieces: Pieces, prompt: object, row: Sequence[int]) -> tuple[bytes, list[Range]]:
    """The text of a row of ids, and the bytes of it that each token stands for; nothing for special tokens.

    Where the row was read from a text and its spelling was changed (capitals, spaces, Unicode forms), the text is
    the one given, if the tokenizer remembers where its tokens come from.
    """
    each = [as_bytes([pieces[i]]) for i in row]
    if isinstance(prompt, str) and prompt.encode() not in b"".join(each):
        remembered = _offsets(pieces, prompt, row)
        if remembered is not None:
            return prompt.encode(), byte_ranges(prompt, remembered)
    # No text holds this byte, so that nothing is found in a special token, or across it.
    each = [b"\xff" if i in pieces.special else piece for i, piece in zip(row, each, strict=True)]
    return b"".join(each), list(pairwise(accumulate(map(len, each), initial=0)))


def _offsets(pieces: Pieces, prompt: str, row: Sequence[int]) -> list[Range] | None:
    """Where each token comes from, in characters; None where the tokenizer does not remember it."""
    tokenizer: Any = pieces.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        return None
    coding = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    # Special tokens are no text, but for the one that stands for unknown text. Those written in front may be in the
    # row less often.
    silent = pieces.special - {getattr(tokenizer, "unk_token_id", None)}
    pairs = zip(coding["input_ids"], coding["offset_mapping"], strict=True)
    written = list(dropwhile(lambda pair: pair[0] in silent, pairs))
    ids, offsets = [i for i, _ in written], [(0, 0) if i in silent else place for i, place in written]
    for at in range(len(row) - len(ids) + 1):
        if list(row[at : at + len(ids)]) == ids:
            return [(0, 0)] * at + offsets + [(0, 0)] * (len(row) - at - len(ids))
    return None


def byte_ranges(text: str, ranges: Sequence[Range]) -> list[Range]:
    """Places counted in characters, as tokenizers give them, counted in bytes.

    >>> byte_ranges("né", [(0, 1), (1, 2)])
    [(0, 1), (1, 3)]
    """
    at = [0, *accumulate(len(char.encode()) for char in text)]
    return [(at[begin], at[end]) for begin, end in ranges]
