"""By word: which features are active on a token of the vocabulary, and which have to do with a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class TokenFeature(NamedTuple):
    """A feature that is active on some token of the vocabulary.

    Attributes:
        feature: which.
        mean: how active it is on that token, over all of its occurrences.
        times: at how many of them it is active.
        share: that, of all of them.
    """

    feature: int
    mean: float
    times: int
    share: float


def on_token(arrays: Mapping[str, np.ndarray], token: int, n: int) -> list[TokenFeature]:
    """The features that are most active on a token; none on one that the corpus does not have."""
    seen = arrays["seen"]
    at = int(np.searchsorted(seen, token))
    if at == len(seen) or seen[at] != token:
        return []
    begin, end = (int(i) for i in arrays["seen_offsets"][at : at + 2])
    chosen, occurrences = slice(begin, min(end, begin + n)), int(arrays["seen_counts"][at])
    columns = (arrays[f"seen_{name}"][chosen].tolist() for name in ("features", "means", "active"))
    return [TokenFeature(f, mean, times, times / occurrences) for f, mean, times in zip(*columns, strict=True)]


def about_tokens(arrays: Mapping[str, np.ndarray], ids: np.ndarray, by: str | None) -> np.ndarray:
    """The features that promote one of these tokens, or of which a strongest example is one of them.

    by: "promotes" or "fires" for one of the two only.
    """
    positions, corpus = arrays["top_positions"], arrays["ids"].reshape(-1)
    hit = np.zeros(len(positions), bool)
    if by != "promotes":
        there = positions < len(corpus)
        hit |= (np.isin(corpus[np.where(there, positions, 0)], ids) & there).any(1)
    if by != "fires" and "promoted" in arrays:
        hit |= np.isin(arrays["promoted"], ids).any(1)
    return np.flatnonzero(hit)
