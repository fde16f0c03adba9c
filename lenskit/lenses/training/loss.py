"""The loss of carried residuals and its gradient, in closed form and in blocks of rows.

With logits z = W n of a normed row n and their softmax q, both losses are log-sum-exp(z) less the target's expected
logit, and the gradient at n is what q expects of the rows of W less what the target does:

    loss = lse(W n) - n . m + c,    d loss / d n = W' q - m,    m = W' p

For KL(p || q), p is the model's own prediction and c its negative entropy; for cross-entropy, p is the token that
comes, m its row of W, and c 0. So a target is d_model numbers, worked out once for all layers; and a layer costs two
products with W and four passes over one reused buffer of logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lenskit.lenses.product import has_rows
from lenskit.models.finding.tail import Tail

# Numbers in the one buffer of logits: 256 rows of 49,152 tokens, 50 MB. With fewer rows, reading W takes as long as
# multiplying with it.
BUFFER = 12 << 20
FEWEST_ROWS = 16
LEAST = -80.0  # nats below the peak at which a token counts no less: 1e-35

Towards = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From carried residuals (row, d_model) to each row's loss (row,), in nats, and its gradient there (row, d_model)."""


class PlainHead:
    """Losses through a head that is a matrix, perhaps with a bias and a scale."""

    def __init__(self, tail: Tail, head: nn.Linear) -> None:
        self.tail, self.weight = tail, head.weight.detach()
        self.bias = None if head.bias is None else head.bias.detach().to(_wide(self.weight)) * tail.scale
        self.buffer: Tensor | None = None

    def to_prediction(self, final: Tensor) -> Towards:
        """Towards the model's own prediction, where these are its final residuals (row, d_model)."""
        n = self._normed(final) * self.tail.scale
        weights, mass, lse = self._exponentials(n)
        mean = self._expected(weights, mass)
        bias = n.new_zeros(len(n)) if self.bias is None else (weights @ self.bias) / mass
        return partial(self._loss, mean, bias, (n * mean).sum(-1) + bias - lse)

    def to_tokens(self, ids: Tensor) -> Towards:
        """Towards the tokens (row,) that come next."""
        mean = self.weight[ids].to(_wide(self.weight))
        bias = mean.new_zeros(len(ids)) if self.bias is None else self.bias[ids]
        return partial(self._loss, mean, bias, torch.zeros_like(bias))

    def _loss(self, mean: Tensor, bias: Tensor, constant: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            h = carried.detach().requires_grad_()
            normed = self.tail.normed(h.to(self.weight.dtype))
        n = normed.detach().to(_wide(self.weight)) * self.tail.scale
        weights, mass, lse = self._exponentials(n)
        gradient = (self._expected(weights, mass) - mean) * self.tail.scale
        [at_h] = torch.autograd.grad(normed, h, gradient.to(normed.dtype))
        return lse - (n * mean).sum(-1) - bias + constant, at_h

    def _normed(self, rows: Tensor) -> Tensor:
        return self.tail.normed(rows.to(self.weight.dtype)).to(_wide(self.weight))

    def _exponentials(self, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """exp(logit - peak) (row, vocab), in the buffer until the next call; their sum and the log-sum-exp (row,)."""
        scores = self._scores(n)
        if self.bias is not None:
            scores += self.bias
        peak = scores.amax(-1, keepdim=True)
        # Below, exp gives denormal numbers, with which a product takes ten times as long.
        mass = scores.sub_(peak).clamp_min_(LEAST).exp_().sum(-1)
        return scores, mass, mass.log() + peak[:, 0]

    def _scores(self, n: Tensor) -> Tensor:
        if n.dtype != self.weight.dtype:
            return (n.to(self.weight.dtype) @ self.weight.T).to(n.dtype)
        if self.buffer is None or len(self.buffer) < len(n):
            self.buffer = n.new_empty(len(n), len(self.weight))
        return torch.mm(n, self.weight.T, out=self.buffer[: len(n)])

    def _expected(self, weights: Tensor, mass: Tensor) -> Tensor:
        """(row, d_model) what the softmax expects of the rows of W."""
        if weights.dtype != self.weight.dtype:  # a sum of them could be too large for half precision
            return ((weights / mass[:, None]).to(self.weight.dtype) @ self.weight).to(weights.dtype)
        return (weights @ self.weight).div_(mass[:, None])


class AnyHead:
    """Losses through whatever stands there: a soft-cap, a quantised head, one that is brought when it is needed."""

    def __init__(self, tail: Tail) -> None:
        self.tail = tail

    def to_prediction(self, final: Tensor) -> Towards:
        """Towards the model's own prediction, where these are its final residuals (row, d_model)."""
        log_probs = _float(self.tail.finish(self.tail.head(self.tail.normed(final)))).log_softmax(-1)
        probs = log_probs.exp()
        return partial(self._loss, probs, (probs * log_probs).sum(-1), None)

    def to_tokens(self, ids: Tensor) -> Towards:
        """Towards the tokens (row,) that come next."""
        return partial(self._loss, None, None, ids)

    def _loss(
        self, probs: Tensor | None, constant: Tensor | None, ids: Tensor | None, carried: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            h = carried.detach().requires_grad_()
            logits = self.tail.finish(self.tail.head(self.tail.normed(h)))
        scores = _float(logits.detach())
        lse = scores.logsumexp(-1)
        gradient = (scores - lse[:, None]).exp_()
        if probs is not None and constant is not None:
            losses = lse - (probs * scores).sum(-1) + constant
            gradient -= probs
        else:
            assert ids is not None
            losses = lse - scores.gather(1, ids[:, None])[:, 0]
            gradient.scatter_add_(1, ids[:, None], gradient.new_full((len(ids), 1), -1.0))
        [at_h] = torch.autograd.grad(logits, h, gradient.to(logits.dtype))
        return losses, at_h


def head_of(tail: Tail) -> PlainHead | AnyHead:
    """The losses of a model's own way to its logits."""
    if has_rows(tail.head) and tail.softcap is None:
        return PlainHead(tail, tail.head)
    return AnyHead(tail)


def blocks_of_rows(rows: int, vocab: int) -> list[slice]:
    """Rows in blocks whose logits fit the buffer."""
    size = max(FEWEST_ROWS, BUFFER // vocab)
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def _wide(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _float(logits: Tensor) -> Tensor:
    return logits.to(_wide(logits))
