"""Training: a dictionary from its first weights to its last, one batch of paired activations after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenskit.models.sites import SiteLike
from lenskit.processes import Processes
from lenskit.transcoders.activations import Gated
from lenskit.transcoders.learner import Learner, Loss
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.transcoder import Transcoder

_RIDGE = 1e-3  # of the mean diagonal, so that directions which hardly occur are not blown up
_BLOCK = 4096  # tokens whose products are summed in float32 before they are in float64
_REMEMBERED = 100  # steps over which the density of features is averaged


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
    """A dictionary in training: `begin` or `resume` it, then `step(x, y)` takes one batch; `dictionary(...)` is what
    came of it so far.

    Args:
        recipe: how.
        d_in, d_out: the widths of what it reads and writes.
        tied: whether both are the same site: an autoencoder.
        steps: how many there will be, for the rate's rise and fall.
        device: where it is trained.
        processes: those that work together: each is given its share of every batch.

    Its `linear`, (d_out, d_in), is the best linear map between the standardised samples that it began with; None before
    that, and where both sites are the same. Its `density`, (feature,), is the share of tokens in which each was active
    over the last hundred steps or so.
    """

    def __init__(
        self,
        recipe: Recipe,
        d_in: int,
        d_out: int,
        *,
        tied: bool,
        steps: int,
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        self.recipe, self.steps, self.done, self.tied = recipe, steps, 0, tied
        self.device, self.processes = torch.device(device), processes or Processes()
        self.learner = Learner(recipe, d_in, d_out, tied=tied, processes=self.processes).to(self.device)
        self.since = torch.zeros(recipe.n_features, dtype=torch.int64, device=self.device)
        self.density = torch.zeros(recipe.n_features, device=self.device)
        self.linear: Tensor | None = None
        self.threshold: float | None = None
        self.optimizer = torch.optim.Adam(self.learner.parameters(), lr=recipe.lr, betas=recipe.betas, fused=True)

    @torch.no_grad()
    def begin(self, sample_x: Tensor, sample_y: Tensor) -> Training:
        """Take means, scales, the first bias and the linear map of a skip from activations (token, d) of the two sites.

        Some ten thousand tokens are enough.
        """
        x, y, learner = sample_x.to(self.device), sample_y.to(self.device), self.learner
        self.of_x, self.of_y = Scaling.of(x), Scaling.of(y)
        x, y = self.of_x(x), self.of_y(y)
        if not self.tied:
            self.linear = linear_map(x, y)
        if learner.W_skip is not None:
            learner.W_skip.copy_(linear_map(x, y) if self.linear is None else self.linear)
            y = y - x @ learner.W_skip.T
        if self.recipe.start_bias == "mean":
            learner.b_dec.copy_(y.mean(0))
        elif self.recipe.start_bias == "geometric median":
            learner.b_dec.copy_(geometric_median(y))
        return self

    # Its steps

    def step(self, x: Tensor, y: Tensor) -> Report:
        """Learn from a batch (token, d_in), (token, d_out); of many processes, from this one's share of it."""
        x, y = self.of_x(x.to(self.device)), self.of_y(y.to(self.device))
        lost: Loss = self.learner(x, y, self._to_revive())
        self.optimizer.zero_grad()
        lost.loss.backward()
        for parameter in self.learner.parameters() if self.processes.count > 1 else ():
            parameter.grad = self.processes.mean(torch.zeros_like(parameter) if (g := parameter.grad) is None else g)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self.recipe.rate(self.done, self.steps)
        self._along_the_sphere()
        self.optimizer.step()
        self._back_to_the_sphere()
        self.done += 1
        active = self._count(lost, len(x))
        if self._resamples_now():
            self._resample(self.processes.joined(x), self.processes.joined(lost.error))
        means = torch.cat([torch.stack([lost.missed, lost.loss.detach()]), y.mean(0), y.square().mean(0)])
        (missed, loss), middle, squares = self.processes.mean(means).split([2, y.shape[1], y.shape[1]])
        dead = float((self.since > self.recipe.dead_after).double().mean())
        explained = 1.0 - float(missed / (squares - middle.square()).mean())
        return Report(self.done, explained, active, dead, float(loss))

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

    def _count(self, lost: Loss, tokens: int) -> float:
        """Note which features were active; gives how many were in a token, on average."""
        counts = self.processes.summed(torch.bincount(lost.active, minlength=self.recipe.n_features))
        tokens *= self.processes.count
        self.since = (self.since + tokens).masked_fill_(counts > 0, 0)
        self.density.lerp_(counts / tokens, 1 / min(self.done, _REMEMBERED))
        if self.recipe.activation == "batchtopk" and len(lowest := self.processes.joined(lost.lowest)):
            found = float(lowest.min())
            self.threshold = found if self.threshold is None else 0.99 * self.threshold + 0.01 * found
        return float(counts.sum()) / tokens

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
        noise = torch.Generator().manual_seed(self.done)
        drawn = torch.multinomial(chance.cpu(), len(dead), True, generator=noise).to(self.device)
        alive = torch.ones(self.recipe.n_features, dtype=torch.bool, device=self.device)
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

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        found = {f"learner.{name}": tensor for name, tensor in self.learner.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        for name, scaling in (("x", self.of_x), ("y", self.of_y)):
            found |= {f"scaling.{name}.mean": scaling.mean, f"scaling.{name}.scale": scaling.scale}
        threshold = float("nan") if self.threshold is None else self.threshold
        numbers = {"done": torch.tensor(self.done), "threshold": torch.tensor(threshold, dtype=torch.float64)}
        return found | numbers | {"since": self.since, "density": self.density}

    def resume(self, state: Mapping[str, Tensor]) -> Training:
        """Go on from a state, as if nothing had happened."""
        state = {name: tensor.to(self.device, copy=True) for name, tensor in state.items()}
        self.learner.load_state_dict({name: state[f"learner.{name}"] for name in self.learner.state_dict()})
        moments = dict[int, dict[str, Tensor]]()
        for key in state:
            if key.startswith("optimizer."):
                _, number, name = key.split(".")
                moments.setdefault(int(number), {})[name] = state[key]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.of_x, self.of_y = (Scaling(state[f"scaling.{at}.mean"], state[f"scaling.{at}.scale"]) for at in "xy")
        self.since, self.density, self.done = state["since"], state["density"], int(state["done"])
        self.threshold = None if bool(state["threshold"].isnan()) else float(state["threshold"])
        return self


def linear_map(x: Tensor, y: Tensor) -> Tensor:
    """(d_out, d_in): the best linear map from x (token, d_in) to y (token, d_out), both of mean 0: ridge regression.

    It is the baseline that every transcoder must beat.
    """
    xx, xy = torch.zeros(x.shape[1], x.shape[1]).double(), torch.zeros(x.shape[1], y.shape[1]).double()
    for some, theirs in zip(x.split(_BLOCK), y.split(_BLOCK), strict=True):
        xx += (some.T @ some).double().cpu()
        xy += (some.T @ theirs).double().cpu()
    return solve_ridge(xx, xy).T.to(x)


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
