"""Align: which position of one prompt belongs to which of another, and where two prompts first differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from lenskit.models.prefix import common_length
from lenskit.models.text import Text

Pairs = Mapping[int, int] | Iterable[tuple[int, int]]
"""Positions that belong together: from those of the prompt that is patched to those of the one it is patched from."""

# How many tokens of each prompt an error shows around the first difference.
_AROUND = 3


class PromptsDiffer(ValueError):
    """Raised for two prompts whose tokens do not line up: nobody has said which position belongs to which.

    The message shows both prompts, token by token, where they first differ. Give prompts of one length, or say which
    positions belong together: `align={9: 10}`. `proposed` may help.
    """


@dataclass(frozen=True)
class Alignment:
    """Which positions of the patched prompt have a partner in the source: ascending pairs.

    Attributes:
        pairs: (base position, source position).
        length: how many tokens the patched prompt has.
    """

    pairs: tuple[tuple[int, int], ...]
    length: int

    @property
    def is_plain(self) -> bool:
        """Whether every position is its own partner."""
        return self.pairs == tuple((i, i) for i in range(self.length))

    @property
    def base(self) -> list[int]:
        """The positions of the patched prompt that have a partner."""
        return [base for base, _ in self.pairs]

    @property
    def source(self) -> list[int]:
        """Their partners."""
        return [source for _, source in self.pairs]


def alignment(base: Sequence[int], source: Sequence[int], align: Pairs | None, text: Text) -> Alignment:
    """How two rows of tokens belong together: as `align` says, or position by position.

    Raises:
        PromptsDiffer: they have different lengths, and `align` is not given.
        ValueError, IndexError: `align` names a position twice, none, or one that does not exist.
    """
    if align is None:
        if len(base) != len(source):
            raise PromptsDiffer(_differing(base, source, text))
        return Alignment(tuple((i, i) for i in range(len(base))), len(base))
    pairs: Any = list(align.items() if isinstance(align, Mapping) else align)
    if not pairs:
        raise ValueError("align is empty: no position could be patched. Say which belong together, {9: 10}.")
    made = sorted((_place(b, base, "patched"), _place(s, source, "source")) for b, s in pairs)
    for what, places in (("patched", [b for b, _ in made]), ("source", [s for _, s in made])):
        if what == "patched" and len(set(places)) < len(places):
            twice = next(i for i in places if places.count(i) > 1)
            raise ValueError(f"align names position {twice} of the {what} prompt twice: give each one partner.")
    return Alignment(tuple(made), len(base))


def _place(pos: int, row: Sequence[int], which: str) -> int:
    if not -len(row) <= pos < len(row):
        raise IndexError(f"align names position {pos} of the {which} prompt, which has {len(row)} tokens.")
    return pos % len(row)


def proposed(base: Sequence[int], source: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """An alignment to start from: (base position, source position) of the tokens that two prompts share in order.

    A stretch that was replaced by one of the same length is paired one to one; one of another length has no partners.

    >>> proposed([1, 2, 3, 9, 5], [1, 2, 3, 4, 4, 5])
    ((0, 0), (1, 1), (2, 2), (4, 5))
    """
    found = list[tuple[int, int]]()
    matcher = SequenceMatcher(None, list(base), list(source), autojunk=False)
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal" or (kind == "replace" and a_end - a == b_end - b):
            found += zip(range(a, a_end), range(b, b_end), strict=True)
    return tuple(found)


def _differing(base: Sequence[int], source: Sequence[int], text: Text) -> str:
    """The message that shows two rows of tokens around their first difference."""
    at = common_length(base, source)
    first = max(0, at - _AROUND)

    def line(row: Sequence[int]) -> str:
        shown = text.str_tokens(list(row[first : at + _AROUND + 1]))
        tokens = " ".join(f"{first + i}:{token}" for i, token in enumerate(shown)) or "(it has ended)"
        return f"{'... ' if first else ''}{tokens}{' ...' if at + _AROUND + 1 < len(row) else ''}"

    where = f"at position {at}" if at < min(len(base), len(source)) else f"where one of them ends, at position {at}"
    return (
        f"the two prompts do not line up: the patched one has {len(base)} tokens, the source {len(source)}. They first "
        f"differ {where}:\n  patched  {line(base)}\n  source   {line(source)}\n"
        "Give prompts of one length; or say which positions belong together, align={patched position: source "
        "position}. lenskit.patching.align.proposed(patched_ids, source_ids) makes a start."
    )
