"""Firing: which features are active where in a text, now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lenskit.models.show import Piece

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.transcoders.index.bases import Basis
    from lenskit.transcoders.index.feature_index import FeatureIndex


@dataclass(frozen=True, eq=False)
class Firing:
    """What is active in one text, position by position, the strongest first.

    Attributes:
        ids, tokens, pieces: the text's tokens: ids, as people should see them, and as they are.
        features, positions, values: (active,) what is active, where, and how much. At the first positions, which the
            index leaves out, nothing is.
        n_features: how many features the basis has.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    pieces: tuple[Piece, ...]
    features: np.ndarray = field(repr=False)
    positions: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)
    n_features: int

    def at(self, pos: int) -> list[tuple[int, float]]:
        """The features that are active at one position, the strongest first. Raises `IndexError`."""
        if not -len(self.ids) <= pos < len(self.ids):
            raise IndexError(f"pos {pos} does not exist: this text has {len(self.ids)} tokens.")
        here = self.positions == pos % len(self.ids)
        return list(zip(self.features[here].tolist(), self.values[here].tolist(), strict=True))

    def of(self, feature: int) -> np.ndarray:
        """(pos,): how active one feature is everywhere. Raises `IndexError`."""
        if not 0 <= feature < self.n_features:
            raise IndexError(f"feature {feature} does not exist: there are features 0 to {self.n_features - 1}.")
        found, here = np.zeros(len(self.ids), np.float32), self.features == feature
        found[self.positions[here]] = self.values[here]
        return found

    def strongest(self, n: int = 20) -> list[tuple[int, float, int]]:
        """The features that are strongest anywhere in the text: which, how active at most, and where."""
        order = np.argsort(-self.values, kind="stable")
        _, first = np.unique(self.features[order], return_index=True)
        best = order[np.sort(first)[:n]]
        columns = (self.features[best], self.values[best], self.positions[best])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def __repr__(self) -> str:
        best = ", ".join(f"{feature} {value:.2f} at {pos}" for feature, value, pos in self.strongest(3))
        return f"Firing({len(self.ids)} tokens, {len(np.unique(self.features)):,} features active; strongest: {best})"


def fire(model: Model, basis: Basis, text: str | list[int], index: FeatureIndex) -> Firing:
    """Run a text and see what of an index's basis is active in it, but for its first tokens."""
    import torch

    from lenskit.transcoders.index.bases import Neurons, active, reads

    n_features = index.n_features if isinstance(basis, Neurons) else basis.n_features
    if reads(basis) != index.reads or n_features != index.n_features:
        raise ValueError(f"{basis} is not what this index is of: {index.basis_name}, {index.n_features:,} features.")
    run = model.run(text, keep=index.reads, stop_at=index.reads)
    ids = run.tokens[0].tolist()
    with torch.no_grad():
        found = active(basis, run[index.reads][0, index.skip :])
    positions = found.tokens.cpu().numpy() + index.skip
    numbers, values = found.features.cpu().numpy(), found.values.float().cpu().numpy()
    order = np.lexsort((-values, positions))
    return Firing(
        tuple(ids),
        tuple(model.text.str_tokens(ids)),
        tuple(model.text.pieces(ids)),
        numbers[order],
        positions[order],
        values[order],
        n_features,
    )
