"""Examples: places of a corpus at which a feature is active, with the text around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lenskit.models.files.load_error import LoadError
from lenskit.models.show import Piece, show
from lenskit.transcoders.index.pairs import BEFORE
from lenskit.transcoders.index.vocabulary import Vocabulary

NOWHERE = np.iinfo(np.uint32).max
"""The position of an example that is not there."""


@dataclass(frozen=True, eq=False)
class Example:
    """A token at which a feature is active, and its context.

    Attributes:
        ids, tokens, pieces: of the window: token ids, as people should see them (`show`), and as they are.
        activations: (window,) how active the feature is at each of them, to a 255th of the largest around; 0
            where it is not, and at the first tokens of a chunk, which the index leaves out.
        at: which of them this is an example of.
        value: how active the feature is there, exactly.
        chunk, pos: where in the corpus it is.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    pieces: tuple[Piece, ...]
    activations: np.ndarray
    at: int
    value: float
    chunk: int
    pos: int

    def __str__(self) -> str:
        return "".join(f"«{token}»" if at == self.at else token for at, token in enumerate(self.tokens))

    def __repr__(self) -> str:
        return f"Example({self.value:.2f}: {self})"


@dataclass(frozen=True, eq=False)
class Band:
    """Examples of one strength.

    Attributes:
        low, high: from above the one up to the other; a fifth of the feature's largest activation apart, by default.
        share: how much of the feature's activations lie here; where an edge cuts a bin of the histogram, its counts are
            divided evenly.
        examples: some of those activations, each of them equally likely to be among those sampled; the strongest first.
    """

    low: float
    high: float
    share: float
    examples: tuple[Example, ...]

    def __repr__(self) -> str:
        return f"Band({self.low:.2f} to {self.high:.2f}, {self.share:.1%}, {len(self.examples)} examples)"


@dataclass(frozen=True, eq=False)
class Stored:
    """Examples as the file has them: a position in the corpus, a number, and a window in steps of its scale."""

    arrays: Mapping[str, np.ndarray]
    vocabulary: Vocabulary
    length: int

    def example(self, kind: str, where: tuple[int, ...], window: tuple[int, int]) -> Example:
        """One of the "top" or "band" examples, with so many tokens before and after it."""
        chunk, pos = divmod(int(self.arrays[f"{kind}_positions"][where]), self.length)
        if chunk >= len(self.arrays["ids"]):
            raise LoadError(
                f"this index is damaged: it has an example in chunk {chunk:,} of {len(self.arrays['ids']):,}."
            )
        begin, end = max(0, pos - window[0]), min(self.length, pos + 1 + window[1])
        steps = self.arrays[f"{kind}_windows"][where][BEFORE + begin - pos : BEFORE + end - pos]
        activations = steps * np.float32(self.arrays[f"{kind}_scales"][where] / 255)
        activations[pos - begin] = value = float(self.arrays[f"{kind}_values"][where])
        ids = tuple(self.arrays["ids"][chunk, begin:end].tolist())
        pieces = tuple(map(self.vocabulary.piece, ids))
        return Example(ids, tuple(map(show, pieces)), pieces, activations, pos - begin, value, chunk, pos)


def share_below(edges: np.ndarray, bins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The share of a histogram's counts below each edge, of which the last is the maximum."""
    total = int(counts.sum())
    below = np.interp(edges, bins, np.concatenate([[0], np.cumsum(counts)])) / max(total, 1)
    below[-1] = float(total > 0)  # the bin of the maximum ends above it
    return below
