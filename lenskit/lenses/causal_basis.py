"""Causal basis: the directions of a layer's states on which its prediction depends most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenskit.lenses.effects import effect_of
from lenskit.lenses.reading import rows_of
from lenskit.models.ablations import How, RemoveSubspace, derangement
from lenskit.models.batch import Prompt
from lenskit.models.corpus import CHUNK, Texts, chunks_of

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens
    from lenskit.models.model import Model

_ROWS = 64
_TRIES = 8


@dataclass(frozen=True, eq=False)
class CausalBasis:
    """Orthonormal directions of one layer's states, those that matter most to its prediction first.

    Attributes:
        energies: (k,) by how much removing each direction alone changes the prediction: the mean KL in nats.
        vectors: (k, d_model), orthonormal.
        site, layer: whose states they are.
        how: by what they were removed.
    """

    energies: Tensor
    vectors: Tensor
    site: str
    layer: int
    how: How

    def ablation(self, first: int = 0, count: int | None = None) -> RemoveSubspace:
        """The edit that removes some of the directions, all by default, in this layer of a run.

        >>> model.run(prompts, edits=[basis.ablation(count=5)])  # doctest: +SKIP
        """
        chosen = self.vectors[first : None if count is None else first + count]
        return RemoveSubspace(self.site, chosen, layers=self.layer, how=self.how)

    def responses(self, model: Model, prompt: Prompt) -> Tensor:
        """(k,) by how much removing each direction alone changes the model's own final prediction: mean KL in nats.

        That the model responds most to what its lens depends on most is the causal fidelity of the lens: compare with
        `energies`. Source: Belrose et al. (2023), section 4.
        """
        edits = [self.ablation(at, 1) for at in range(len(self.vectors))]
        return torch.tensor([effect_of(model, prompt, edit).mean for edit in edits])

    def __repr__(self) -> str:
        shown = ", ".join(f"{x:.3g}" for x in self.energies[:4].tolist())
        more = ", ..." if len(self.energies) > 4 else ""
        return f"CausalBasis({len(self.energies)} directions at {self.site}.{self.layer}, energies {shown}{more} nats)"


def causal_basis(
    lens: Lens,
    texts: Texts,
    layer: int,
    k: int = 10,
    *,
    how: How = "mean",
    tokens: int = 256,
    chunk: int = CHUNK,
    skip_first: int = 1,
    steps: int = 60,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
) -> CausalBasis:
    """The k directions of a layer's states on which the lens's prediction there depends most, by their energies.

    Each is found by L-BFGS on the sphere, orthogonal to those before it: the direction whose removal changes the
    prediction most, on average over a text.

    Args:
        lens: the lens whose prediction counts.
        texts: as in `TunedLens.train`: a text, texts, or token ids (n,) or (chunk, pos).
        layer: which row of the lens's reading.
        k: how many directions.
        how: remove them by "zero", "mean" or "resample".
        tokens, chunk: how many tokens of the text to use, and how many the model reads at once.
        skip_first: positions left out at each chunk's beginning, where the attention sink is.
        steps: how many iterations at most for each direction.
        seed: of what resampling deals out, and of the directions to begin with.
        progress: called with the share done after each direction.

    Memory: `tokens` x vocabulary. Raises `IndexError` for a row that does not exist, `ValueError` for more directions
    than a state has numbers.
    Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens" (2023), section 4.

    >>> causal_basis(tuned, text, layer=18, k=5).energies  # doctest: +SKIP
    """
    rows = rows_of(lens)
    if not -len(rows) <= layer < len(rows):
        raise IndexError(f"row {layer} does not exist: this lens has rows 0 to {len(rows) - 1}.")
    site, model = rows[layer], lens.model
    assert site.layer is not None
    model.anatomy.check_gradients()
    chunks = chunks_of(model, texts, chunk, tokens)
    parts = [model.run(ids[None], keep=site, stop_at=site)[site][0, skip_first:] for ids in chunks.ids]
    states = torch.cat(parts).to(torch.promote_types(model.dtype, torch.float32))
    own = layer % len(rows) == len(rows) - 1

    def predict(h: Tensor) -> Tensor:
        h = h.to(model.dtype)
        return model.unembed(h if own else lens.transport(h, site))

    energies, vectors = directions_of(predict, states, k, how=how, steps=steps, seed=seed, progress=progress)
    return CausalBasis(energies, vectors, site.name, site.layer, how)


def directions_of(
    predict: Callable[[Tensor], Tensor],
    states: Tensor,
    k: int,
    *,
    how: How = "mean",
    steps: int = 60,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Energies (k,) and directions (k, d), largest first, of any prediction: logits (row, vocab) of states (row, d)."""
    width = states.shape[1]
    if not 1 <= k <= width:
        raise ValueError(f"there are 1 to {width} orthogonal directions of {width} numbers, not {k}.")
    search = _Search(predict, states, how, seed)
    starts = search.likely(k + _TRIES)
    energies, vectors = list[float](), list[Tensor]()
    for n in range(k):
        free = _Free(torch.stack(vectors) if vectors else states.new_zeros(0, width))
        begin = max((free(start) for start in starts), key=search.energy)
        # In units of what it begins with, since energies differ by orders of magnitude.
        v, unit = nn.Parameter(begin), max(search.energy(begin), 1e-30)
        optimizer = torch.optim.LBFGS(
            [v], max_iter=steps, tolerance_grad=1e-7, tolerance_change=1e-9, line_search_fn="strong_wolfe"
        )
        optimizer.step(lambda v=v, free=free, unit=unit: search.slope(v, free, unit))
        vectors.append(free(v.detach()))
        energies.append(search.energy(vectors[-1]))
        if progress is not None:
            progress((n + 1) / k)
    order = sorted(range(k), key=lambda at: -energies[at])
    return torch.tensor([energies[at] for at in order]), torch.stack([vectors[at] for at in order])


class _Free:
    """A direction of length one, orthogonal to those that were found (n, d)."""

    def __init__(self, found: Tensor) -> None:
        self.found = found

    def __call__(self, v: Tensor) -> Tensor:
        for _ in range(2):  # once more, for what rounding left
            v = v - self.found.T @ (self.found @ v)
            v = v / v.norm().clamp_min(1e-30)
        return v


class _Search:
    """How much the prediction of the states changes where one direction is removed, a few rows at a time."""

    def __init__(self, predict: Callable[[Tensor], Tensor], states: Tensor, how: How, seed: int) -> None:
        self.predict, self.states, self.seed = predict, states.detach(), seed
        self.how: How = how
        with torch.no_grad():
            self.log_p = [predict(h).to(states.dtype).log_softmax(-1) for h in self._chunks(self.states)]

    def _chunks(self, states: Tensor) -> Sequence[Tensor]:
        return states.split(_ROWS)

    def _removed(self, v: Tensor) -> Tensor:
        return states_without(self.states, v, self.how, self.seed)

    def energy(self, v: Tensor) -> float:
        """The mean KL in nats."""
        with torch.no_grad():
            chunks = zip(self._chunks(self._removed(v)), self.log_p, strict=True)
            return float(sum(self._kl(h, log_p) for h, log_p in chunks)) / len(self.states)

    def slope(self, v: nn.Parameter, free: _Free, unit: float) -> Tensor:
        """Minus the energy of the direction that `v` stands for, in a unit; the gradient is left in `v.grad`."""
        with torch.enable_grad():
            removed = self._removed(free(v))
            # Chunk by chunk back to the states, and from there once to the direction.
            left = removed.detach().requires_grad_()
            pulls, total = list[Tensor](), torch.zeros((), dtype=left.dtype, device=left.device)
            for h, log_p in zip(left.split(_ROWS), self.log_p, strict=True):
                kl = self._kl(h, log_p)
                (pull,) = torch.autograd.grad(kl, h)
                pulls.append(pull)
                total += kl.detach()
            (grad,) = torch.autograd.grad(removed, v, -torch.cat(pulls) / (len(self.states) * unit))
        v.grad = grad
        return -total / (len(self.states) * unit)

    def _kl(self, h: Tensor, log_p: Tensor) -> Tensor:
        log_q = self.predict(h).to(log_p.dtype).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum()

    def likely(self, count: int) -> list[Tensor]:
        """Directions to begin with: where the states vary and the prediction is sensitive, to second order.

        Removing v moves a state by as much as it varies along v, which costs half the square of that times the Fisher
        information along v. The information is estimated from one token drawn of each prediction.
        """
        generator = torch.Generator().manual_seed(self.seed)
        slopes = list[Tensor]()
        for h, log_p in zip(self._chunks(self.states), self.log_p, strict=True):
            drawn = torch.multinomial(log_p.exp().cpu(), 1, generator=generator).to(h.device)
            with torch.enable_grad():
                here = h.clone().requires_grad_()
                said = self.predict(here).to(log_p.dtype).log_softmax(-1).gather(1, drawn).sum()
                slopes.append(torch.autograd.grad(said, here)[0])
        slope = torch.cat(slopes)
        varies = self.states if self.how == "zero" else self.states - self.states.mean(0)
        fisher, spread = slope.T @ slope / len(slope), varies.T @ varies / len(varies)
        both = (fisher @ spread + spread @ fisher).cpu().double()
        found = torch.linalg.eigh((both + both.T) / 2).eigenvectors.flip(-1).T[: min(count, len(both))]
        return list(found.to(self.states))


def states_without(states: Tensor, v: Tensor, how: How, seed: int) -> Tensor:
    """`remove_subspace` along one direction of length one, through which a gradient flows."""
    along = states @ v
    if how == "zero":
        other = torch.zeros_like(along)
    else:
        other = along.mean().expand_as(along)
        if how == "resample":
            other = along[derangement(len(states), seed).to(along.device)]
    return states + (other - along)[:, None] * v
