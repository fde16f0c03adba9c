"""Finishing an index: what follows from the pass and the weights, once the corpus has gone by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lenskit.models.model import Model
from lenskit.models.sites import SiteUnavailable
from lenskit.transcoders.index.banding import in_bands
from lenskit.transcoders.index.bases import Basis, Neurons, width_of, written_by
from lenskit.transcoders.index.by_token import Entries, best_of_each
from lenskit.transcoders.index.effects import effects_on_logits
from lenskit.transcoders.index.embeddings import best_heads, de_embeddings
from lenskit.transcoders.index.gathering import Gathering, positions_of, values_of
from lenskit.transcoders.index.kept import Arrays, first_of_each
from lenskit.transcoders.index.neighbours import coactive, similar

WORDS = 16
"""How many tokens are kept of each feature, and `FEATURES` features of each token."""
FEATURES = 32
_SILENT = 2.0  # imaginary occurrences at which a feature is silent: a word met once does not head the list


def finished(
    model: Model, basis: Basis, gathering: Gathering, about: Mapping[str, Any], progress: Callable[[float], object]
) -> tuple[Arrays, dict[str, str]]:
    """All arrays of an index by name, and what it lacks, with the reason."""
    gathering.ended()
    arrays, lacks = gathered(gathering, about), dict[str, str]()

    def part(begin: float, end: float) -> Callable[[float], object]:
        return lambda share: progress(begin + (end - begin) * share)

    arrays |= _by_token(gathering, about)
    arrays |= _named("company", "jaccard", coactive(gathering.sketches, part(0.0, 0.1)))
    try:
        rows = written_by(model, basis)
        up, down = effects_on_logits(model, rows, part(0.1, 0.5))
        arrays |= _named("promoted", "promoted_logits", (up.ids.numpy(), up.values.numpy()))
        arrays |= _named("suppressed", "suppressed_logits", (down.ids.numpy(), down.values.numpy()))
    except SiteUnavailable as error:
        lacks["promotes"] = str(error)
    try:
        lists = de_embeddings(model, basis, part(0.5, 0.9))
        arrays |= _named("embedded", "embedded_values", (lists.ids.numpy(), lists.values.numpy()))
    except SiteUnavailable as error:
        lacks["de_embedding"] = str(error)
    try:
        heads, norms = best_heads(model, basis)
        arrays |= {"heads": heads.numpy().astype(np.int16), "head_norms": norms.numpy()}
    except SiteUnavailable as error:
        lacks["best_heads"] = str(error)
    arrays |= _named("similar", "cosines", similar(_written_here(model, basis), part(0.9, 1.0)))
    return arrays | _pieces(model), lacks


def _named(which: str, numbers: str, both: tuple[np.ndarray, np.ndarray]) -> Arrays:
    return {which: both[0].astype(np.int32), numbers: both[1].astype(np.float32)}


def _written_here(model: Model, basis: Basis) -> torch.Tensor:
    """(feature, d): what each feature writes, at the sites where it writes, side by side."""
    if isinstance(basis, Neurons):
        try:
            return written_by(model, basis)
        except SiteUnavailable:
            return torch.eye(width_of(model, basis.site))
    return basis.W_dec.transpose(0, 1).flatten(1)


def gathered(gathering: Gathering, about: Mapping[str, Any]) -> Arrays:
    """What the pass alone says of each feature."""
    tally, tops = gathering.tally, gathering.tops
    ranges = np.where(tally.counts > 0, np.ldexp(1.0, np.maximum(tally.exponents, -149)), 0.0)
    found: Arrays = {
        "counts": tally.counts,
        "density": tally.counts / about["tokens"],
        "mean": tally.sums / np.maximum(tally.counts, 1),
        "max": tally.largest,
        "ranges": ranges,
    }
    found = {name: array.astype(np.int64 if name == "counts" else np.float32) for name, array in found.items()}
    found |= {
        "histograms": tally.histogram,
        "top_positions": positions_of(tops.keys),
        "top_values": values_of(tops.keys),
    }
    found |= {"top_windows": tops.beside["window"], "top_scales": tops.beside["scale"], "ids": gathering.ids}
    bands = in_bands(gathering, about["bands"], about["per_band"])
    return found | {f"band_{name}": table for name, table in bands.items()}


def _by_token(gathering: Gathering, about: Mapping[str, Any]) -> Arrays:
    """The strongest features of each token that was seen, and the tokens on which each feature is strongest."""
    entries = gathering.by_token.settle()
    seen, counts = np.unique(gathering.ids[:, about["skip"] :], return_counts=True)
    tokens, features = entries.tokens, entries.features
    times = counts[np.searchsorted(seen, tokens)]
    per_token = best_of_each(tokens, entries.sums, FEATURES)
    sizes = np.bincount(np.searchsorted(seen, tokens[per_token]), minlength=len(seen))
    chosen = entries.at(per_token)
    found: Arrays = {
        "seen": seen.astype(np.uint32),
        "seen_counts": counts.astype(np.uint32),
        "seen_offsets": np.concatenate([[0], np.cumsum(sizes)]),
        "seen_features": chosen.features.astype(np.int32),
        "seen_means": (chosen.sums / times[per_token]).astype(np.float32),
        "seen_active": chosen.counts,
    }
    return found | _words(entries, tokens, features, times, gathering.n_features)


def _words(entries: Entries, tokens: np.ndarray, features: np.ndarray, times: np.ndarray, n_features: int) -> Arrays:
    best = best_of_each(features, entries.sums / (times + _SILENT), WORDS)
    begins = first_of_each(features[best])
    rank = np.arange(len(best)) - np.repeat(begins, np.diff(begins, append=len(best)))
    words, means = np.full((n_features, WORDS), -1, np.int32), np.zeros((n_features, WORDS), np.float32)
    words[features[best], rank] = tokens[best]
    means[features[best], rank] = entries.sums[best] / times[best]
    return {"words": words, "word_means": means}


def _pieces(model: Model) -> Arrays:
    """The text of the whole vocabulary, as bytes, one token after another: to show tokens without a tokenizer."""
    pieces = model.text.pieces(range(model.anatomy.vocab))
    written = [piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogatepass") for piece in pieces]
    return {
        "pieces": np.frombuffer(b"".join(written), np.uint8),
        "piece_offsets": np.cumsum([0, *map(len, written)]).astype(np.int64),
    }
