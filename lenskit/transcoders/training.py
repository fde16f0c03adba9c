"""Training: a dictionary from its first weights to its last, one batch of paired activations after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenskit.models.sites import SiteLike
from lenskit.transcoders.activations import Gated
from lenskit.transcoders.learner import Learner, Loss
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.transcoder import Transcoder

_RIDGE = 1e-3  # of the mean diagonal, so that directions which hardly occur are not blown up


class Report(NamedTuple):
    """What a step saw.

    Attributes:
        step: how many steps were done.
        explained: the share of the targets' variance about their mean that was explained: 1 is all.
        active: how many features of a token were active, on average: L0.
        dead: the share of the features that have not been active for `dead_after` tokens.
        loss: what was minimised.
    """

    step: int
    explained: float
    active: float
    dead: float
    loss: float


class Scaling(NamedTuple):
    """How activations are standardised: one mean for each entry, and one scale for all."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, sample: Tensor) -> Scaling:
        """Of a sample (token, d): afterwards the mean is 0 and the mean square of an entry 1."""
        mean = sample.mean(0)
        return cls(mean, (sample - mean).square().mean().sqrt().clamp_min(1e-8))

    def __call__(self, given: Tensor) -> Tensor:
        return (given - self.mean) / self.scale


class Training:
    """A dictionary in training. `step(x, y)` takes one batch; `dictionary(...)` is what came of it.

    Args:
        recipe: how.
        sample_x, sample_y: activations (token, d) of the two sites from which means, scales, the first bias and the
            linear map of a skip are taken; some ten thousand tokens.
        tied: whether both are the same site: an autoencoder.
        steps: how many there will be, for the rate's rise and fall.
    """

    def __init__(self, recipe: Recipe, sample_x: Tensor, sample_y: Tensor, *, tied: bool, steps: int) -> None:
        self.recipe, self.steps, self.done, self.tied = recipe, steps, 0, tied
        self.of_x, self.of_y = Scaling.of(sample_x), Scaling.of(sample_y)
        self.learner = Learner(recipe, sample_x.shape[1], sample_y.shape[1], tied=tied)
        self._begin(self.of_x(sample_x), self.of_y(sample_y))
        self.since = torch.zeros(recipe.n_features, dtype=torch.int64)
        self.threshold: float | None = None
        self.optimizer = torch.optim.Adam(self.learner.parameters(), lr=recipe.lr, betas=recipe.betas, fused=True)

    @torch.no_grad()
    def _begin(self, x: Tensor, y: Tensor) -> None:
        learner = self.learner
        if learner.W_skip is not None:
            learner.W_skip.copy_(linear_map(x, y))
            y = y - x @ learner.W_skip.T
        if self.recipe.start_bias == "mean":
            learner.b_dec.copy_(y.mean(0))
        elif self.recipe.start_bias == "geometric median":
            learner.b_dec.copy_(geometric_median(y))

    # Its steps

    def step(self, x: Tensor, y: Tensor) -> Report:
        """Learn from a batch (token, d_in), (token, d_out)."""
        x, y = self.of_x(x), self.of_y(y)
        lost: Loss = self.learner(x, y, self._to_revive())
        self.optimizer.zero_grad()
        lost.loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self.recipe.rate(self.done, self.steps)
        self._along_the_sphere()
        self.optimizer.step()
        self._back_to_the_sphere()
        self.done += 1
        self._count(lost, len(x))
        if self._resamples_now():
            self._resample(x, lost.error)
        spread = y.var(0, unbiased=False).mean()
        dead = float((self.since > self.recipe.dead_after).double().mean())
        explained = 1.0 - float(lost.missed / spread)
        return Report(self.done, explained, len(lost.active) / len(x), dead, float(lost.loss.detach()))

    def _to_revive(self) -> Tensor | None:
        if self.recipe.revival not in ("aux-k", "ghost gradients"):
            return None
        return (self.since > self.recipe.dead_after).nonzero()[:, 0]

    def _along_the_sphere(self) -> None:
        """Take from the decoder's gradient what would only change lengths."""
        if self.recipe.unit_norm and (grad := self.learner.W_dec.grad) is not None:
            rows = self.learner.W_dec.detach()
            grad.sub_((grad * rows).sum(1, keepdim=True) * rows)

    @torch.no_grad()
    def _back_to_the_sphere(self) -> None:
        if self.recipe.unit_norm:
            self.learner.W_dec.div_(self.learner.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    def _count(self, lost: Loss, tokens: int) -> None:
        self.since += tokens
        self.since[lost.active] = 0
        if lost.threshold is not None:
            found = float(lost.threshold)
            self.threshold = found if self.threshold is None else 0.99 * self.threshold + 0.01 * found

    def _resamples_now(self) -> bool:
        """Evenly through the first half: what is pointed anew must have time to learn."""
        recipe = self.recipe
        if recipe.revival != "resample" or recipe.resamplings < 1:
            return False
        every = max(1, self.steps // (2 * recipe.resamplings))
        return self.done % every == 0 and self.done <= self.steps // 2

    @torch.no_grad()
    def _resample(self, x: Tensor, error: Tensor) -> None:
        """Point dead features at tokens that are badly explained, likelier the worse they are."""
        dead = (self.since > self.recipe.dead_after).nonzero()[:, 0]
        if not len(dead):
            return
        learner, chance = self.learner, error.square().sum(1).square()
        drawn = torch.multinomial(chance, len(dead), True, generator=torch.Generator().manual_seed(self.done))
        alive = torch.ones(self.recipe.n_features, dtype=torch.bool)
        alive[dead] = False
        size = learner.W_enc[alive].norm(dim=1).mean() if bool(alive.any()) else learner.W_enc.norm(dim=1).mean()
        learner.W_dec[dead] = torch.nn.functional.normalize(error[drawn], dim=1)
        # Weaker than the others, so that they do not disturb; but among the k strongest the weak would never be chosen.
        share = 1.0 if self.recipe.activation in ("topk", "batchtopk") else 0.2
        learner.W_enc[dead] = torch.nn.functional.normalize(x[drawn], dim=1) * share * size
        learner.b_enc[dead] = 0.0
        for weight in (learner.W_enc, learner.b_enc, learner.W_dec):
            for name in ("exp_avg", "exp_avg_sq"):
                self.optimizer.state[weight][name][dead] = 0.0
        self.since[dead] = 0

    # Its end, and its state

    def dictionary(self, reads: SiteLike, writes: SiteLike, about: Mapping[str, Any] | None = None) -> Transcoder:
        """What was learned so far, with the standardisation folded into the weights."""
        learner, (mean_x, scale_x), (mean_y, scale_y) = self.learner, self.of_x, self.of_y
        skip = None if learner.W_skip is None else learner.W_skip.detach() * (scale_y / scale_x)
        bias = learner.b_dec.detach() * scale_y + mean_y
        activation = learner.activation(self.threshold)
        return Transcoder(
            learner.W_enc.detach() / scale_x,
            None if isinstance(activation, Gated) else learner.b_enc.detach(),
            learner.W_dec.detach() * scale_y,
            bias if skip is None else bias - skip @ mean_x,
            activation,
            reads=reads,
            writes=writes,
            W_skip=skip,
            centre=mean_x,
            about={"recipe": self.recipe.as_dict(), "steps": self.done, **(about or {})},
        )

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "since": self.since,
            "scaling": [*self.of_x, *self.of_y],
            "done": self.done,
            "threshold": self.threshold,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, as if nothing had happened."""
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.since = state["since"].clone()
        self.of_x, self.of_y = Scaling(*state["scaling"][:2]), Scaling(*state["scaling"][2:])
        self.done, self.threshold = state["done"], state["threshold"]


def linear_map(x: Tensor, y: Tensor) -> Tensor:
    """(d_out, d_in): the best linear map from x (token, d_in) to y (token, d_out), both of mean 0: ridge regression.

    It is the baseline that every transcoder must beat.
    """
    return solve_ridge(x.double().T @ x.double(), x.double().T @ y.double()).T.to(x.dtype)


def solve_ridge(xx: Tensor, xy: Tensor) -> Tensor:
    """(d_in, d_out): what x is multiplied by to come near y, from x'x (d_in, d_in) and x'y (d_in, d_out)."""
    ridge = torch.diag_embed((_RIDGE * xx.diagonal().mean()).expand(len(xx)))
    return torch.linalg.solve(xx + ridge, xy)


def geometric_median(points: Tensor, steps: int = 50) -> Tensor:
    """(d,): the point with the least sum of distances to the points (n, d). Weiszfeld (1937)."""
    middle = points.mean(0)
    for _ in range(steps):
        weight = 1 / (points - middle).norm(dim=1).clamp_min(1e-6)
        moved = (points * weight[:, None]).sum(0) / weight.sum()
        if bool((moved - middle).norm() < 1e-5 * middle.norm().clamp_min(1e-6)):
            return moved
        middle = moved
    return middle
