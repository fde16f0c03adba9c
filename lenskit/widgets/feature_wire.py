"""The Python half of the feature browser's wire: rows, cards, firings and changes as messages.

`widgets/WIRE.md` describes both halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.models.sites import SiteUnavailable
from lenskit.widgets.feature_order import QUESTION, Ordered, peakedness, shares
from lenskit.widgets.wire import VERSION, entries, little

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.models.show import Piece
    from lenskit.transcoders.index.examples import Example
    from lenskit.transcoders.index.feature_index import FeatureIndex
    from lenskit.transcoders.live import Fired, Steered

Message = tuple[dict[str, Any], list[bytes]]
Arrays = Mapping[str, tuple[Any, str]]

# Tokens in a row of the list, in a list of the card, and beside a neighbour; features named at a token of the prompt.
_ROW, _LINES, _NEAR, _HERE = 6, 10, 4, 8
# So many are kept of each feature, and looked through.
_TELLING = 16
_HEADS = 3


def reply(kind: str, identity: str, **fields: Any) -> dict[str, Any]:
    """A message without arrays."""
    return {"v": VERSION, "kind": kind, "id": identity, **fields}


def rows_message(index: FeatureIndex, ordered: Ordered, asked: Mapping[str, Any]) -> Message:
    """A stretch of the list, and where a feature stands in it."""
    part = slice(asked["start"], asked["start"] + asked["count"])
    features = ordered.features[part]
    fires = bool(asked["find"].strip()) and asked["by"] == "fires"
    tokens = fired_on(index, features, _TELLING) if fires else promoted_by(index, features, _TELLING)
    tokens, matches = _matching_first(index, tokens, asked["find"].strip())
    fields = {
        "asked": {name: asked[name] for name in QUESTION},
        "total": len(ordered.features),
        "start": asked["start"],
        "at": None if asked["feature"] is None else ordered.at(asked["feature"]),
    }
    return _rows(index, asked["id"], features, ordered.values[part], tokens[:, :_ROW], matches, fields)


def _rows(
    index: FeatureIndex,
    identity: str,
    features: np.ndarray,
    values: np.ndarray,
    tokens: np.ndarray,
    matches: np.ndarray,
    fields: Mapping[str, Any],
) -> Message:
    arrays = {
        "ids": (features, "int32"),
        "density": (index.density[features], "float32"),
        "max": (index.max[features], "float32"),
        "tokens": (tokens, "int32"),
        "matches": (matches, "int32"),
        "bars": (bars(index.histograms[features]), "uint8"),
        "value": (values, "float32"),
    }
    return _message("rows", identity, {**fields, "pieces": pieces_of(index, tokens[tokens >= 0])}, arrays)


def _matching_first(index: FeatureIndex, tokens: np.ndarray, text: str) -> tuple[np.ndarray, np.ndarray]:
    """The tokens (feature, k) in which a text was found before the others, and how many of each feature those are."""
    if not text:
        return tokens, np.zeros(len(tokens), np.int64)
    hit = np.isin(tokens, index.vocabulary.containing(text)) & (tokens >= 0)
    order = np.argsort(~hit, axis=1, kind="stable")
    return np.take_along_axis(tokens, order, 1), hit.sum(1)


def fired_on(index: FeatureIndex, features: np.ndarray, k: int) -> np.ndarray:
    """(feature, k) ids of the tokens on which each is most active, -1 where there are no more."""
    found = np.full((len(features), k), -1, np.int64)
    for row, feature in enumerate(features):
        ids = [token for _, token, _ in index.tokens_of_feature(int(feature), k)]
        found[row, : len(ids)] = ids
    return found


def promoted_by(index: FeatureIndex, features: np.ndarray, k: int) -> np.ndarray:
    """(feature, k) ids of the tokens that each promotes most; none where the basis writes no residual stream."""
    if not index.writes_residual:
        return np.zeros((len(features), 0), np.int32)
    return np.asarray(index.promoted[features][:, :k])


def bars(counts: np.ndarray) -> np.ndarray:
    """(feature, bin) uint8: counts as heights on a log scale, each feature's highest 255."""
    heights = np.log1p(counts.astype(np.float64))
    top = heights.max(1, keepdims=True, initial=0)
    scaled = np.round(255 * heights / np.where(top > 0, top, 1))
    # A single count among many thousands is still drawn.
    return np.where(counts > 0, np.maximum(scaled, 1), 0).astype(np.uint8)


def card_message(index: FeatureIndex, feature: int, identity: str) -> Message:
    """Everything about one feature."""
    bands = index.bands(feature, window=index.window)
    examples = [(-1, each) for each in index.examples(feature, window=index.window)]
    examples += [(number, each) for number, band in enumerate(bands) for each in band.examples]
    why, lists = _lists(index, feature)
    edges, counts = index.histogram(feature)
    arrays: dict[str, tuple[Any, str]] = {"edges": (edges, "float32"), "counts": (counts, "int32")}
    for name, weighted in lists.items():
        arrays[f"{name}_ids"] = ([token for _, token, _ in weighted], "int32")
        arrays[f"{name}_values"] = ([value for _, _, value in weighted], "float32")
    tokens = [arrays[f"{name}_ids"][0] for name in lists]
    for name, kin in (("similar", index.similar(feature)), ("coactive", index.coactive(feature))):
        others = np.array([other for other, _ in kin], np.int64)
        promoted = promoted_by(index, others, _NEAR)
        arrays[f"{name}_ids"] = (others, "int32")
        arrays[f"{name}_values"] = ([value for _, value in kin], "float32")
        arrays[f"{name}_promotes"] = (promoted, "int32")
        tokens.append(promoted.ravel())
    arrays |= _examples([band for band, _ in examples], [each for _, each in examples])
    tokens.append(arrays["example_ids"][0])
    fields = {
        "feature": feature,
        "density": float(index.density[feature]),
        "max": float(index.max[feature]),
        "mean": float(index.mean[feature]),
        "bands": [[float(band.low), float(band.high)] for band in bands],
        "heads": _heads(index, feature),
        "coactive_by": "Jaccard",
        "why": why,
        "pieces": pieces_of(index, *tokens),
    }
    return _message("card", identity, fields, arrays)


def through_message(index: FeatureIndex, model: Model, asked: Mapping[str, Any]) -> Message:
    """The tokens that reach a feature through one head."""
    head = (asked["layer"], asked["head"])
    found = index.de_embedding(asked["feature"], _LINES, head=head, model=model)
    ids = [token for _, token, _ in found]
    fields = {name: asked[name] for name in ("feature", "layer", "head")} | {"pieces": pieces_of(index, ids)}
    arrays = {"ids": (ids, "int32"), "values": ([value for _, _, value in found], "float32")}
    return _message("through", asked["id"], fields, arrays)


def fired_message(
    index: FeatureIndex, fired: Fired, prompt: str, feature: int | None, identity: str, ms: float
) -> Message:
    """What fires on a prompt: at each token the strongest, and how active one feature is everywhere."""
    n = len(fired.ids)
    top = np.full((n, _HERE), -1, np.int64)
    share = np.zeros((n, _HERE), np.float32)
    for pos in range(n):
        features, values = fired.at(pos)
        part = shares(index, features, values)
        best = np.argsort(-part, kind="stable")[:_HERE]
        top[pos, : len(best)], share[pos, : len(best)] = features[best], part[best]
    arrays: dict[str, tuple[Any, str]] = {
        "ids": (fired.ids, "int32"),
        "counts": (np.diff(fired.offsets), "int32"),
        "top_ids": (top, "int32"),
        "top_shares": (share, "float32"),
    }
    if feature is not None:
        arrays["on"] = (fired.of(feature), "float32")
    fields = {
        "prompt": prompt,
        "feature": feature,
        "ms": ms,
        "recomputed": fired.ran,
        "pieces": as_pieces(fired.pieces),
    }
    return _message("fired", identity, fields, arrays)


def on_message(fired: Fired, prompt: str, feature: int, identity: str) -> Message:
    """How active one more feature is on the prompt."""
    fields = {"prompt": prompt, "feature": feature, "pieces": []}
    return _message("on", identity, fields, {"on": (fired.of(feature), "float32")})


def steered_message(steered: Steered, asked: Mapping[str, Any], *, final: bool) -> Message:
    """What a change does, so far or at last."""
    draws = len(steered.placebo_kl)
    nothing = np.full(len(steered.ids), np.nan)
    arrays = {
        "ids": (steered.ids, "int32"),
        "before": (steered.before, "float32"),
        "after": (steered.after, "float32"),
        "placebo": (steered.placebo.mean(0) if draws else nothing, "float32"),
        "spread": (steered.placebo.std(0, ddof=1) if draws > 1 else nothing, "float32"),
    }
    fields = {
        **{name: asked[name] for name in ("prompt", "feature", "by", "amount", "pos")},
        "draws": draws,
        "of": steered.of,
        "kl": _number(steered.kl),
        "placebo_kl": _number(steered.placebo_kl.mean()) if draws else None,
        "placebo_spread": _number(steered.placebo_kl.std(ddof=1)) if draws > 1 else None,
        "pieces": as_pieces(steered.pieces),
    }
    return _message("steered" if final else "steering", asked["id"], fields, arrays)


def frozen_message(
    index: FeatureIndex,
    features: Sequence[int],
    fired: tuple[str, Fired] | None,
    steered: tuple[Steered, Mapping[str, Any]] | None,
) -> Message:
    """The one reply of a frozen page: the rows and cards of some features, and what fires on the prompt."""
    chosen = np.array(features, np.int64)
    asked = dict.fromkeys(QUESTION) | {"find": "", "by": "promotes", "only": "all", "pinned": [], "sort": "density"}
    fields = {"asked": asked | {"order": "down"}, "total": len(chosen), "start": 0, "at": None}
    tokens = promoted_by(index, chosen, _ROW)
    rows = _rows(index, "frozen", chosen, peakedness(index, chosen), tokens, np.zeros(len(chosen)), fields)
    cards = [card_message(index, feature, "frozen") for feature in features]
    firing = None if fired is None else fired_message(index, fired[1], fired[0], None, "frozen", 0.0)
    on = [] if fired is None else [on_message(fired[1], fired[0], feature, "frozen") for feature in features]
    change = None if steered is None else steered_message(*steered, final=True)
    parts = [rows, *cards, *([firing] if firing else []), *on, *([change] if change else [])]
    known: set[int] = set()
    for header, _ in parts:  # each token's text once in the page
        header["pieces"] = [piece for piece in header["pieces"] if piece[0] not in known]
        known.update(piece[0] for piece in header["pieces"])
    header = reply(
        "frozen",
        "frozen",
        rows=rows[0],
        cards=[card for card, _ in cards],
        fired=None if firing is None else firing[0],
        on=[each for each, _ in on],
        steered=None if change is None else change[0],
    )
    return header, [buffer for _, buffers in parts for buffer in buffers]


def pieces_of(index: FeatureIndex, *ids: Iterable[int] | np.ndarray) -> list[list[Any]]:
    """The texts of tokens, once each, from the index: no tokenizer is needed."""
    shown = sorted({int(i) for some in ids for i in np.ravel(np.asarray(some, np.int64))})
    return as_pieces({i: index.piece(i) for i in shown})


def as_pieces(pieces: Mapping[int, Piece]) -> list[list[Any]]:
    """`[id, text]`, or `[id, bytes]` where they are not valid UTF-8 by themselves."""
    return [[int(i), piece if isinstance(piece, str) else list(piece)] for i, piece in sorted(pieces.items())]


def _lists(index: FeatureIndex, feature: int) -> tuple[str | None, dict[str, list[tuple[str, int, float]]]]:
    """What it promotes, suppresses and answers to; and why there is nothing that it promotes."""
    lists: dict[str, list[tuple[str, int, float]]] = {"promotes": [], "suppresses": [], "embeds": []}
    why = None
    try:
        lists["promotes"] = index.promotes(feature, _LINES)
        lists["suppresses"] = index.suppresses(feature, _LINES)
    except SiteUnavailable as error:  # it is shown, in the place of what is lacking
        why = str(error)
    with suppress(SiteUnavailable):  # of a site that no embedding reaches directly the list is left out
        lists["embeds"] = index.de_embedding(feature, _LINES)
    return why, lists


def _heads(index: FeatureIndex, feature: int) -> list[list[float]]:
    """The heads whose OV the feature reads most: layer, head, and the norm."""
    try:
        best = index.best_heads(feature, _HEADS)
    except SiteUnavailable:  # there are none before it
        return []
    return [[layer, head, round(float(norm), 4)] for (layer, head), norm in best]


def _examples(bands: Sequence[int], examples: Sequence[Example]) -> dict[str, tuple[Any, str]]:
    lengths = [len(each.ids) for each in examples]
    return {
        "example_ids": (np.concatenate([np.asarray(each.ids, np.int64) for each in examples] or [[]]), "int32"),
        "example_activations": (np.concatenate([each.activations for each in examples] or [[]]), "float32"),
        "example_offsets": (np.cumsum([0, *lengths]), "int32"),
        "example_peaks": ([each.at for each in examples], "int32"),
        # -1 for the top examples; int32, since there is no smaller signed array on the wire
        "example_bands": (bands, "int32"),
    }


def _message(kind: str, identity: str, fields: Mapping[str, Any], arrays: Arrays) -> Message:
    sent = {name: _little(np.asarray(array), dtype) for name, (array, dtype) in arrays.items()}
    return reply(kind, identity, **fields, arrays=entries(sent)), [array.tobytes() for array in sent.values()]


def _little(array: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(array, np.uint8) if dtype == "uint8" else little(array, dtype)


def _number(value: float) -> float | None:
    """As JSON can have it: not infinite."""
    return float(value) if np.isfinite(value) else None
