"""Learner: the weights of a dictionary while it is trained, and the loss of a batch of tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lenskit.largest import largest
from lenskit.processes import Processes
from lenskit.transcoders.activations import Activation, BatchTopK, Gated, JumpReLU, ReLU, TopK
from lenskit.transcoders.recipe import Recipe
from lenskit.transcoders.sparse import Pairs, decoded, pre_activations

_BLOCK = 256
_WEAK = 0.1  # of a standardised activation's size


class Loss(NamedTuple):
    """What a batch cost: the whole loss, and for the record what was missed and how many features were active.

    Attributes:
        loss: what is minimised.
        missed: the mean squared error, as a share of the targets' variance: 1 minus the explained variance.
        active: (pair,) the active features, one token after another.
        error: (token, d_out) what was missed.
        lowest: (at most 1,) the smallest active value, from which "batchtopk" learns its threshold.
    """

    loss: Tensor
    missed: Tensor
    active: Tensor
    error: Tensor
    lowest: Tensor


class Found(NamedTuple):
    """Active features: which at which token, their values with gradients, and the penalty on them."""

    pairs: Pairs
    values: Tensor
    penalty: Tensor | float
    aside: Tensor | None = None  # a second reconstruction's values, of "gated"


class Learner(nn.Module):
    """A dictionary in training, on standardised activations (mean 0, mean square 1).

    `forward(x, y, dead)` is the loss of a batch: x (token, d_in), y (token, d_out); `dead` are features to revive. Of
    many processes each is given its part of the batch, and the mean of their gradients is the whole batch's.
    """

    def __init__(
        self, recipe: Recipe, d_in: int, d_out: int, *, tied: bool, processes: Processes | None = None
    ) -> None:
        super().__init__()
        self.recipe, self.processes = recipe, processes or Processes()
        self._guess = float("inf")
        n, noise = recipe.n_features, torch.Generator().manual_seed(recipe.seed)
        W_dec = nn.functional.normalize(torch.randn(n, d_out, generator=noise), dim=1)
        # The encoder of an autoencoder begins as the transpose of the decoder: then no feature begins dead. That of a
        # transcoder begins weak, so that its features do not first have to unlearn noise as large as what is missed.
        W_enc = W_dec.clone() if tied else torch.randn(n, d_in, generator=noise) * (_WEAK / d_in**0.5)
        self.W_enc, self.b_enc = nn.Parameter(W_enc), nn.Parameter(torch.zeros(n))
        self.W_dec, self.b_dec = nn.Parameter(W_dec), nn.Parameter(torch.zeros(d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_out, d_in)) if recipe.skip else None
        if recipe.activation == "jumprelu":
            self.log_threshold = nn.Parameter(torch.full((n,), -2.3))
        if recipe.activation == "gated":
            self.log_scale, self.b_magnitude = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor, y: Tensor, dead: Tensor | None = None) -> Loss:
        pre = self._products(x)
        found = self._found(x, pre)
        past = self.b_dec if self.W_skip is None else self.b_dec + x @ self.W_skip.T
        error = y - past - decoded(found.values, self.W_dec, found.pairs)
        squared = error.square().sum(1).mean() / y.shape[1]
        loss = squared + self.recipe.sparsity * found.penalty
        if found.aside is not None:
            aside = y - past.detach() - decoded(found.aside, self.W_dec.detach(), found.pairs)
            loss = loss + aside.square().sum(1).mean() / y.shape[1]
        if dead is not None and len(dead):
            loss = loss + self._revived(x, error.detach(), dead, squared.detach())
        shown = (values := found.values.detach()) > 0
        lowest = values[shown].topk(1, largest=False).values if bool(shown.any()) else values[:0]
        return Loss(loss, squared.detach(), found.pairs.features[shown], error.detach(), lowest)

    @torch.no_grad()
    def _products(self, x: Tensor) -> Tensor:
        """(token, feature): W_enc x + b_enc, without gradients: those of the active ones are made anew."""
        pre = x.new_empty(len(x), self.recipe.n_features)
        for begin in range(0, len(x), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            torch.addmm(self.b_enc, x[part], self.W_enc.T, out=pre[part])
        return pre

    def _found(self, x: Tensor, pre: Tensor) -> Found:
        match self.recipe.activation:
            case "topk":
                return self._topk(x, pre)
            case "batchtopk":
                return self._simple(x, pre, (pre >= self._bound(pre)) & (pre > 0), 0.0)
            case "relu":
                return self._simple(x, pre, pre > 0, 1.0)
            case "jumprelu":
                return self._jumprelu(x, pre)
            case "gated":
                return self._gated(x, pre)

    def _topk(self, x: Tensor, pre: Tensor) -> Found:
        both = [largest(block, self.recipe.k) for block in pre.split(_BLOCK)]
        values, features = torch.cat([v for v, _ in both]), torch.cat([f for _, f in both])
        tokens, k = features.shape
        offsets = torch.arange(0, tokens * k + 1, k, device=x.device)
        pairs = Pairs(features.flatten(), offsets, self.recipe.n_features)
        return Found(pairs, pre_activations(x, self.W_enc, self.b_enc, pairs, values.flatten()).relu(), 0.0)

    def _simple(self, x: Tensor, pre: Tensor, active: Tensor, weight: float) -> Found:
        pairs = _pairs(active)
        values = pre_activations(x, self.W_enc, self.b_enc, pairs, pre[active])
        return Found(pairs, values, weight * self._l1(values, pairs, len(x)) if weight else 0.0)

    def _bound(self, pre: Tensor) -> float:
        """What the k-th largest per token of the whole batch is. Sorting all would take longer than the products."""
        count = self.recipe.k * len(pre) * self.processes.count
        likely = self.processes.joined(pre[pre > self._guess])
        if len(likely) < count:
            likely = self.processes.joined(pre.flatten())
        bound = float(likely.kthvalue(len(likely) - count + 1).values)
        self._guess = bound - 0.3 * abs(bound)  # the next batch's is near it, and a wrong guess costs time only
        return bound

    def _l1(self, values: Tensor, pairs: Pairs, tokens: int) -> Tensor:
        """The mean over tokens of the active values, each times the length of what it writes."""
        if self.recipe.unit_norm:
            return values.sum() / tokens
        return (values * self.W_dec.norm(dim=1)[pairs.features]).sum() / tokens

    def _jumprelu(self, x: Tensor, pre: Tensor) -> Found:
        width, threshold = self.recipe.bandwidth, self.log_threshold.exp()
        # What is just below its threshold is 0, and yet says which way the threshold should move.
        pairs = _pairs(near := pre > threshold.detach() - width / 2)
        values = pre_activations(x, self.W_enc, self.b_enc, pairs, pre[near])
        mine = threshold[pairs.features]
        passed: Tensor = _Jump.apply(values, mine, width)
        count: Tensor = _Step.apply(values, mine, width)
        return Found(pairs, passed, count.sum() / len(x))

    def _gated(self, x: Tensor, pre: Tensor) -> Found:
        pairs = _pairs(open_ := pre > 0)  # b_enc is the gate's bias
        gate = pre_activations(x, self.W_enc, self.b_enc, pairs, pre[open_])
        product = gate - self.b_enc[pairs.features]
        size = product * self.log_scale.exp()[pairs.features] + self.b_magnitude[pairs.features]
        return Found(pairs, size.relu(), self._l1(gate, pairs, len(x)), aside=gate)

    def _revived(self, x: Tensor, error: Tensor, dead: Tensor, squared: Tensor) -> Tensor:
        """A loss that gives dead features something to do, about as large as what was missed."""
        pre = x @ self.W_enc[dead].T + self.b_enc[dead]
        if self.recipe.revival == "aux-k":
            values, chosen = pre.topk(min(self.recipe.aux_k, len(dead)), sorted=False)
            offered = torch.zeros_like(pre).scatter(1, chosen, values.relu()) @ self.W_dec[dead]
            return (error - offered).square().sum(1).mean() / error.shape[1] / 32
        ghosts = pre.clamp(max=10.0).exp() @ self.W_dec[dead]
        ratio = error.norm(dim=1, keepdim=True) / (2 * ghosts.norm(dim=1, keepdim=True)).clamp_min(1e-12)
        missed = (error - ghosts * ratio.detach()).square().sum(1).mean() / error.shape[1]
        whole, offered = self.processes.mean(torch.stack([squared, missed.detach()])).unbind()
        return missed * (whole / offered.clamp_min(1e-12))

    # Its end

    def activation(self, threshold: float | None) -> Activation:
        """The activation as the trained dictionary has it; `threshold` is a "batchtopk" one's."""
        match self.recipe.activation:
            case "topk":
                return TopK(self.recipe.k)
            case "batchtopk":
                return BatchTopK(self.recipe.k, threshold)
            case "relu":
                return ReLU()
            case "jumprelu":
                return JumpReLU(self.log_threshold.detach().exp())
            case "gated":
                bias = self.b_enc.detach()
                return Gated(bias.clone(), self.log_scale.detach().clone(), self.b_magnitude.detach().clone())


class _Jump(torch.autograd.Function):
    """`pre` where it exceeds its threshold, else 0; the threshold's gradient is that of a step `width` wide."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        at_step = ((pre - threshold).abs() < ctx.width / 2) / ctx.width
        return grad * (pre > threshold), -grad * threshold * at_step, None


class _Step(torch.autograd.Function):
    """1 where `pre` exceeds its threshold, else 0; likewise."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        return None, -grad * ((pre - threshold).abs() < ctx.width / 2) / ctx.width, None


def _pairs(active: Tensor) -> Pairs:
    """Of (token, feature)."""
    offsets = nn.functional.pad(active.sum(1).cumsum(0), (1, 0))
    return Pairs(active.nonzero(as_tuple=True)[1], offsets, active.shape[1])
