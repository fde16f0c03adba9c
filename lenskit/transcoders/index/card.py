"""FeatureCard: all that an index knows of one feature."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lenskit.transcoders.index.examples import Band, Example
from lenskit.transcoders.index.vocabulary import Token

if TYPE_CHECKING:
    from lenskit.transcoders.index.feature_index import FeatureIndex

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, eq=False, repr=False)
class FeatureCard:
    """One feature. What the index lacks is None.

    Attributes:
        number, of: which feature of which basis.
        density, max, mean: as in `FeatureIndex`.
        histogram: edges and counts.
        promotes, suppresses: tokens as shown, ids and logits.
        words: the tokens of the corpus on which it is most active, with its mean there.
        de_embedding: the tokens whose bare embedding excites it most.
        heads: the heads through which it listens most, ((layer, head), norm).
        similar, coactive: features and cosines, features and Jaccard's index.
        examples, bands: where it is strongest, and where it is active by how much.
    """

    number: int
    of: str
    density: float
    max: float
    mean: float
    histogram: tuple[np.ndarray, np.ndarray]
    promotes: Sequence[Token] | None
    suppresses: Sequence[Token] | None
    words: Sequence[Token]
    de_embedding: Sequence[Token] | None
    heads: Sequence[tuple[tuple[int, int], float]] | None
    similar: Sequence[tuple[int, float]]
    coactive: Sequence[tuple[int, float]]
    examples: Sequence[Example]
    bands: Sequence[Band]

    def __str__(self) -> str:
        lines = [
            f"feature {self.number} of {self.of}: active at {self.density:.3%} of tokens, at most {self.max:.2f}, "
            f"{self.mean:.2f} where it is",
            f"  histogram   0 {bars(self.histogram[1])} {self.histogram[0][-1]:.3g}",
        ]
        for name, tokens in (
            ("promotes", self.promotes),
            ("suppresses", self.suppresses),
            ("fires on", self.words),
            ("embeddings", self.de_embedding),
        ):
            if tokens:
                lines.append(f"  {name:<11} " + "  ".join(f"{token} {value:.2f}" for token, _, value in tokens))
        if self.heads:
            lines.append("  heads       " + "  ".join(f"{layer}.{head} {n:.2f}" for (layer, head), n in self.heads))
        for name, features in (("similar", self.similar), ("coactive", self.coactive)):
            if features:
                lines.append(f"  {name:<11} " + "  ".join(f"{feature} {value:.2f}" for feature, value in features))
        lines += [f"  {example.value:8.2f}    {example}" for example in self.examples]
        for band in reversed(self.bands):
            lines.append(f"  {band.low:.2f} to {band.high:.2f}, {band.share:.1%}")
            lines += [f"  {example.value:8.2f}    {example}" for example in band.examples]
        return "\n".join(lines)

    __repr__ = __str__


def bars(counts: np.ndarray) -> str:
    """Counts as a row of blocks, on a logarithmic scale: one is seen beside a thousand."""
    heights = np.log1p(counts.astype(float))
    steps = np.ceil(heights / max(float(heights.max(initial=0.0)), 1e-9) * (len(_BLOCKS) - 1)).astype(int)
    return "".join(_BLOCKS[step] for step in steps)


def card_of(index: FeatureIndex, f: int, lacks: Container[str]) -> FeatureCard:
    """The card of one feature."""
    return FeatureCard(
        f,
        index.basis_name,
        float(index.density[f]),
        float(index.max[f]),
        float(index.mean[f]),
        index.histogram(f),
        None if "promotes" in lacks else index.promotes(f),
        None if "promotes" in lacks else index.suppresses(f),
        index.tokens_of_feature(f),
        None if "de_embedding" in lacks else index.de_embedding(f),
        None if "best_heads" in lacks else index.best_heads(f),
        index.similar(f),
        index.coactive(f),
        index.examples(f, n=5),
        index.bands(f),
    )
