"""Invert: the hidden state whose prediction is a given distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lenskit.lenses.reading import rows_of
from lenskit.models.model import Model

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens

Optimizer = Literal["lbfgs", "sgd"]


@dataclass(frozen=True, eq=False)
class Inversion:
    """The state that was found, and how near it comes. Shapes (...) are those of the distributions.

    Attributes:
        preimage: (..., d_model) the state.
        kl: (...) KL(target || prediction of the state), in nats; weighted, where weights were given.
        loss: (...) what was minimised: the KL and the prior's share.
        grad_norm: (...) the length of the loss's gradient at the state: nothing, at a minimum.
        evaluations: (...) how often the prediction was computed.
    """

    preimage: Tensor
    kl: Tensor
    loss: Tensor
    grad_norm: Tensor
    evaluations: Tensor

    def __repr__(self) -> str:
        rows, worst = self.kl.numel(), float(self.kl.max())
        return f"Inversion({rows} states, KL at most {worst:.3g} nats, {int(self.evaluations.sum())} evaluations)"


def invert(
    through: Lens | Model,
    logits: Tensor,
    *,
    layer: int | None = None,
    start: Tensor | None = None,
    prior: Tensor | None = None,
    prior_weight: float = 0.0,
    weights: Tensor | None = None,
    optimizer: Optimizer = "lbfgs",
    lr: float | None = None,
    steps: int = 500,
    tolerance: float = 1e-5,
) -> Inversion:
    """Find hidden states whose predictions are given distributions, as near as the softmax's bottleneck allows.

    Minimises KL(target || prediction) + prior_weight * mean square of (state - prior), each state by itself.

    Args:
        through: a model, for states that its final norm and unembedding read; or a lens, for states that it reads in
            `layer`.
        logits: (..., vocab) the targets; log-probabilities are logits too.
        layer: which row of the lens's reading.
        start: (..., d_model) where to begin; by default the unembedding's rows, weighted by the target.
        prior: (..., d_model) a state to stay near; without one, `prior_weight` holds the state itself small.
        prior_weight: 0, the default, for no prior. Under a final norm the length of a state hardly matters to its
            prediction, and only a prior state makes it definite.
        weights: (vocab,) or (..., vocab): by how much each token's term of the KL counts.
        optimizer: "lbfgs" (with a line search), or "sgd" with Nesterov's momentum.
        lr: the step; by default 1 for L-BFGS and 0.1 for SGD.
        steps: how many iterations at most for each state.
        tolerance: the gradient's largest entry at which it ends.

    No gradient is left in the model. Raises `ValueError` for shapes that do not fit and where a model's gradients would
    be wrong; `TypeError` for a lens without `layer`; `FloatingPointError` where the loss is not finite.
    Source: `Unembed.invert` of tuned-lens.

    >>> invert(model, model.run("The capital of France is").logits[:, -1]).kl  # doctest: +SKIP
    """
    model, predict = _predictor(through, layer)
    model.anatomy.check_gradients()
    lead, wide = logits.shape[:-1], torch.promote_types(model.dtype, torch.float32)
    targets = logits.detach().to(model.device, wide).reshape(-1, logits.shape[-1]).log_softmax(-1)
    width = model.anatomy.probe.residuals(model.anatomy.blocks[-1])[1].shape[-1]
    begin = _starts(model, targets.exp(), width) if start is None else _shaped("start", start, lead, width)
    stay = None if prior is None else _shaped("prior", prior, lead, width)
    if weights is not None:
        weights = torch.as_tensor(weights).expand(*lead, logits.shape[-1]).reshape(targets.shape)
        weights = weights.to(model.device, wide)
    search = {"lbfgs": _lbfgs, "sgd": _sgd}
    if optimizer not in search:
        raise ValueError(f"optimizer must be 'lbfgs' or 'sgd', not {optimizer!r}.")
    found: list[tuple[Tensor, ...]] = []
    for row, target in enumerate(targets):
        near = None if stay is None else stay[row].to(model.device, wide)
        problem = _Problem(predict, target, None if weights is None else weights[row], near, prior_weight)
        h = nn.Parameter(begin[row].to(model.device, wide).clone())
        search[optimizer](problem, h, lr, steps, tolerance)
        found.append(problem.at(h))
    columns = [torch.stack(column) for column in zip(*found, strict=True)]
    h, kl, loss, norm, count = (x.reshape((*lead, *x.shape[1:])) for x in columns)
    return Inversion(h, kl, loss, norm, count)


class _Problem:
    """One state to find: the loss and its gradient, which never reaches the model's weights."""

    def __init__(
        self,
        predict: Callable[[Tensor], Tensor],
        log_p: Tensor,
        weights: Tensor | None,
        prior: Tensor | None,
        prior_weight: float,
    ) -> None:
        self.predict, self.log_p, self.prior, self.prior_weight = predict, log_p, prior, prior_weight
        self.p = log_p.exp() if weights is None else log_p.exp() * weights
        # Of a token that can never come there is no logarithm to compare.
        self.log_p = torch.where(log_p == -torch.inf, 0.0, log_p)
        self.evaluations = 0

    def __call__(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the KL of a state."""
        self.evaluations += 1
        log_q = self.predict(h[None])[0].to(self.p.dtype).log_softmax(-1)
        kl = (self.p * (self.log_p - log_q)).sum()
        if not self.prior_weight:
            return kl, kl
        away = h if self.prior is None else h - self.prior
        return kl + self.prior_weight * away.square().mean(), kl

    def slope(self, h: nn.Parameter) -> Tensor:
        """The loss; the gradient is left in `h.grad`."""
        with torch.enable_grad():
            loss, _ = self(h)
            if not bool(loss.isfinite()):
                raise FloatingPointError("the loss of the inversion is not finite: begin elsewhere, or smaller steps.")
            (h.grad,) = torch.autograd.grad(loss, h)
        return loss.detach()

    def at(self, h: nn.Parameter) -> tuple[Tensor, ...]:
        """State, KL, loss, gradient's norm and evaluations, as found."""
        loss = self.slope(h)
        assert h.grad is not None
        count = torch.tensor(self.evaluations)
        with torch.no_grad():
            _, kl = self(h)
        return h.detach(), kl, loss, h.grad.norm(), count


def _lbfgs(problem: _Problem, h: nn.Parameter, lr: float | None, steps: int, tolerance: float) -> None:
    optimizer = torch.optim.LBFGS(
        [h],
        lr=lr or 1.0,
        max_iter=steps,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(lambda: problem.slope(h))


def _sgd(problem: _Problem, h: nn.Parameter, lr: float | None, steps: int, tolerance: float) -> None:
    optimizer = torch.optim.SGD([h], lr=lr or 0.1, momentum=0.9, nesterov=True)
    for _ in range(steps):
        problem.slope(h)
        assert h.grad is not None
        if float(h.grad.abs().max()) <= tolerance:
            return
        optimizer.step()


def _predictor(through: Lens | Model, layer: int | None) -> tuple[Model, Callable[[Tensor], Tensor]]:
    """The model, and what makes logits of states (row, d_model)."""
    if isinstance(through, Model):
        if layer is not None:
            raise TypeError("a model's own prediction has no layers: leave out layer=, or give a lens.")
        return through, lambda h: through.unembed(h.to(through.dtype))
    rows = rows_of(through)
    if layer is None:
        raise TypeError(f"say which row of the lens's reading to invert: layer=0 to layer={len(rows) - 1}.")
    site, own = rows[layer], layer % len(rows) == len(rows) - 1
    model = through.model
    if own:
        return model, lambda h: model.unembed(h.to(model.dtype))
    return model, lambda h: model.unembed(through.transport(h.to(model.dtype), site))


def _starts(model: Model, p: Tensor, width: int) -> Tensor:
    """The unembedding's rows weighted by the target, less their mean, of a length that final norms give."""
    weight = getattr(model.anatomy.tail.head, "weight", None)
    if isinstance(weight, Tensor) and weight.shape == (p.shape[-1], width) and weight.is_floating_point():
        made = (p - 1 / p.shape[-1]) @ weight.detach().to(p.dtype)
    else:
        generator = torch.Generator().manual_seed(0)
        made = torch.randn(len(p), width, generator=generator).to(p)
    return made * (width**0.5 / made.norm(dim=-1, keepdim=True).clamp_min(1e-12))


def _shaped(what: str, given: Tensor, lead: torch.Size, width: int) -> Tensor:
    if given.shape != (*lead, width):
        raise ValueError(f"{what} has shape {tuple(given.shape)}, and these targets need {(*lead, width)}.")
    return given.detach().reshape(-1, width)
