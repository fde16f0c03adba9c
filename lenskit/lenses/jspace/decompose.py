"""Decompose: which few words a state holds, how much of it they are, and how much any directions would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lenskit.lenses.jspace.dictionary import Dictionary
from lenskit.lenses.jspace.pursuit import pursue
from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.models.running.which import Which, indices
from lenskit.models.show import Piece, show
from lenskit.models.sites import Site

if TYPE_CHECKING:
    import pandas as pd

    from lenskit.lenses.lens import Lens


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The states of one layer as sums of few words' directions, with what random directions do beside it.

    Attributes:
        layer: whose `resid_post` it is.
        positions: (pos,) of the prompt.
        tokens: (pos,) the prompt's own tokens there, as people see them.
        ids: (pos, k) the words in the order in which they were taken; -1 where nothing was left to take.
        weights: (pos, k) how far the state goes along each word's direction of length one; zero for one that later
            ones have made needless.
        captured: (pos, k) the share of the state's square that the first words make up together, after each step.
        control: (draw, pos, k) the same for random dictionaries of the same size and spread.
        norms: (pos,) how long the states are.
        components: (pos, d_model) the part of each state that the words make up.
        pieces: the text of each word, by id.
        provenance: model, lens, and how the dictionary was made.
    """

    layer: int
    positions: np.ndarray
    tokens: list[str]
    ids: np.ndarray
    weights: np.ndarray
    captured: np.ndarray
    control: np.ndarray
    norms: np.ndarray
    components: np.ndarray = field(repr=False)
    pieces: Mapping[int, Piece] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def share(self) -> np.ndarray:
        """(pos,) the share of each state's square that all k words make up."""
        return self.captured[:, -1]

    @property
    def control_share(self) -> np.ndarray:
        """(draw, pos) the same for the random dictionaries."""
        return self.control[:, :, -1]

    @property
    def separation(self) -> np.ndarray:
        """(pos, k) how much more the words make up than random directions do on average, after each step."""
        return self.captured - self.control.mean(0)

    @property
    def occupancy(self) -> np.ndarray:
        """(pos,) how many words a state holds: as many as set it apart most from random directions.

        Beyond that, one more word explains less than one more random direction. Zero where no number of words explains
        more than the best of the random dictionaries.
        """
        apart = (self.captured > self.control.max(0)).any(-1)
        return np.where(apart, self.separation.argmax(-1) + 1, 0)

    def words(self, pos: int, n: int | None = None) -> list[tuple[str, float]]:
        """The words of a position of the prompt with their weights, the heaviest first.

        >>> decomposition.words(-1, 3)  # doctest: +SKIP
        [(' cold', 41.2), (' temperature', 17.0), (' opposite', 9.3)]
        """
        at = self._at(pos)
        order = np.argsort(-self.weights[at])
        kept = [j for j in order if self.ids[at, j] >= 0 and self.weights[at, j] > 0]
        pieces = (self.pieces[int(self.ids[at, j])] for j in kept[:n])
        texts = [piece if isinstance(piece, str) else show(piece) for piece in pieces]
        return [(text, float(self.weights[at, j])) for text, j in zip(texts, kept, strict=False)]

    def _at(self, pos: int) -> int:
        there = self.positions.tolist()
        wanted = pos if pos >= 0 else there[-1] + 1 + pos
        if wanted not in there:
            raise IndexError(f"position {pos} was not taken apart: {there} were.")
        return there.index(wanted)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each position and word, in the order in which they were taken."""
        import pandas as pd

        rows = [
            {
                "layer": self.layer,
                "pos": int(self.positions[at]),
                "token": self.tokens[at],
                "step": step + 1,
                "word": show(self.pieces[int(self.ids[at, step])]),
                "id": int(self.ids[at, step]),
                "weight": float(self.weights[at, step]),
                "captured": float(self.captured[at, step]),
                "control": float(self.control[:, at, step].mean()),
            }
            for at, step in np.ndindex(self.ids.shape)
            if self.ids[at, step] >= 0
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        chance = f"{self.control_share.mean():.1%} of random directions" if self.control.size else "no control"
        return (
            f"Decomposition(layer {self.layer}, {len(self.positions)} positions, {self.ids.shape[1]} words make up "
            f"{self.share.mean():.1%} against {chance}, occupancy {np.median(self.occupancy):g})"
        )


def decompose(
    lens: Lens,
    prompt: Prompt | Run,
    layer: int,
    *,
    k: int = 25,
    pos: Which = slice(1, None),
    row: int | None = None,
    controls: int = 4,
    folded: bool = True,
    centred: bool = True,
    seed: int = 0,
) -> Decomposition:
    """Take states apart into words: `h ~ sum of a_t v_t` with a >= 0 and at most k words, v_t what the lens reads.

    At each step the word that what is left points along most is taken, and all weights are solved for anew. The
    same is done with random dictionaries, of as many directions with the same covariance, which say what share of a
    state so many directions make up whatever they mean.

    Args:
        lens: any lens that has directions; see `lens_directions`.
        prompt: what `model.run` takes, or a `Run` that kept `resid_post` of the layer.
        layer: whose `resid_post`.
        k: how many words at most.
        pos: which positions; by default all but the first, which is the attention sink in most models.
        row: which prompt of a batch.
        controls: how many random dictionaries; each costs as much as the real one.
        folded: whether the final norm's gain is in the directions.
        centred: whether the directions are less their mean over the vocabulary: a shift of all that the softmax does
            not see, and that hides all else where it is left in.
        seed: of the random dictionaries.

    Each step costs one unembedding of the positions for each dictionary. Memory: 128 positions x 8,192 tokens. Raises
    `ValueError` for a k that is no number of words, `IndexError` for positions and rows that do not exist, and what
    `lens_directions` raises. Source: Gurnee et al., "Verbalizable Representations Form a Global Workspace in Language
    Models" (2026); occupancy by the largest separation as in TransformerLens.

    >>> decompose(lens, "The opposite of hot is", layer=22).words(-1, 3)  # doctest: +SKIP
    """
    model = lens.model
    if k < 1 or controls < 1:
        raise ValueError(f"at least one word and one random dictionary, and not k={k} and controls={controls}.")
    site = Site("resid_post", indices(layer, model.n_layers, "layer")[0])
    run = prompt if isinstance(prompt, Run) else model.run(prompt, keep=site, stop_at=site)
    which = _row(run, row)
    real = slice(None) if run.mask is None else run.mask[which].bool()
    states, ids = run[site][which, real], run.tokens[which, real]
    chosen = indices(pos, len(ids), "pos")
    with torch.no_grad():
        dictionary = Dictionary.of(lens, site.layer or 0, folded=folded, centred=centred)
        x = states[chosen].to(dictionary.matrix)
        found = pursue(dictionary, x, k)
        draws = [pursue(dictionary.turned(seed + n), x, k).captured for n in range(controls)]
    words = sorted({int(i) for i in found.ids.unique() if i >= 0})
    how = {"lens": lens.name, "k": k, "folded": folded, "centred": centred, "controls": controls, "seed": seed}
    return Decomposition(
        site.layer or 0,
        np.array(chosen),
        [show(piece) for piece in model.text.pieces(ids[chosen].tolist())],
        found.ids.cpu().numpy(),
        found.weights.cpu().numpy(),
        found.captured.cpu().numpy(),
        torch.stack(draws).cpu().numpy(),
        x.norm(dim=-1).cpu().numpy(),
        found.component.cpu().numpy(),
        dict(zip(words, model.text.pieces(words), strict=True)),
        {**run.provenance, **how},
    )


def _row(run: Run, row: int | None) -> int:
    batch = len(run.tokens)
    if row is None and batch > 1:
        raise ValueError(f"this run has {batch} prompts: say which to take apart with row=0 to row={batch - 1}.")
    return indices(row or 0, batch, "row")[0]
