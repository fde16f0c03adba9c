"""Which features a list shows, and in which order: of tens of thousands in a few milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lenskit.transcoders.index.feature_index import FeatureIndex
    from lenskit.transcoders.live import Fired

QUESTION = ("find", "by", "only", "pinned", "sort", "order", "prompt", "pos")


class Ordered:
    """One order of the list: the features it shows, and what each is ordered by.

    Attributes:
        features: (shown,) their numbers.
        values: (shown,) float32, what they are ordered by.
    """

    def __init__(self, index: FeatureIndex, asked: Mapping[str, Any], fired: Fired | None) -> None:
        values = _values(index, asked, fired)
        shown = np.ones(index.n_features, bool)
        if asked["only"] == "pinned":
            shown = _marked(index.n_features, asked["pinned"])
        if asked["find"].strip():
            shown = shown & _marked(index.n_features, found(index, asked["find"].strip(), asked["by"]))
        if asked["prompt"] is not None:
            shown = shown & (values > 0)
        features = np.flatnonzero(shown)
        keys = values[features]
        # What never fired has nothing to be ordered by: last, whichever way.
        dead = index.density[features] == 0 if asked["sort"] != "number" else np.zeros(len(features), bool)
        order = np.lexsort((features, keys if asked["order"] == "up" else -keys, dead))
        self.features = features[order]
        self.values = keys[order].astype(np.float32)

    def at(self, feature: int) -> int | None:
        """Where a feature stands, or None."""
        found = np.flatnonzero(self.features == feature)
        return int(found[0]) if len(found) else None


def found(index: FeatureIndex, text: str, by: str) -> np.ndarray:
    """The features that promote, or that fire most on, a token with the text in it; capitals do not count."""
    ids = index.vocabulary.containing(text)
    if by == "promotes" and not index.writes_residual:
        return np.zeros(0, np.int64)
    tokens = index.promoted if by == "promotes" else index._arrays["words"]
    return np.flatnonzero(np.isin(tokens, ids).any(1))


def peakedness(index: FeatureIndex, features: np.ndarray) -> np.ndarray:
    """Each maximum over the mean where it is active: what fires rarely in earnest, and else faintly, comes first."""
    mean = index.mean[features]
    return np.where(mean > 0, index.max[features] / np.where(mean > 0, mean, 1), 0)


def shares(index: FeatureIndex, features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Activations as shares of each feature's maximum in the index; of one that never fired there, all of it."""
    most = index.max[features]
    return np.where(most > 0, values / np.where(most > 0, most, 1), (values > 0).astype(np.float32))


def _values(index: FeatureIndex, asked: Mapping[str, Any], fired: Fired | None) -> np.ndarray:
    """(feature,) what the list is ordered by."""
    sort = asked["sort"]
    if sort == "number":
        return np.arange(index.n_features)
    if sort in ("density", "max"):
        return np.asarray(getattr(index, sort))
    if sort == "peakedness":
        return peakedness(index, np.arange(index.n_features))
    assert fired is not None
    features, found = fired.at(asked["pos"]) if sort == "token" else fired.peaks()
    values = np.zeros(index.n_features, np.float32)
    values[features] = shares(index, features, found)
    return values


def _marked(n: int, features: Any) -> np.ndarray:
    marked = np.zeros(n, bool)
    marked[np.asarray(features, np.int64)] = True
    return marked
