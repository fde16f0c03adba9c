"""The Dirichlet distribution that a set of predictions looks most like: maximum likelihood from two averages."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 200


def fit_dirichlet(mean: Tensor, mean_log: Tensor, *, tolerance: float = 1e-10) -> Tensor:
    """(token,) the parameters of the Dirichlet that makes the distributions likeliest of which these are the averages.

    All that is needed of any number of distributions is the mean of their logarithms (and, to begin near the answer,
    their mean). Newton's method, whose Hessian is a diagonal and one number, so that a step costs what a sum costs; a
    step that would leave the positive numbers or lose likelihood is shortened. In float64.

    Args:
        mean, mean_log: (token,) the averages of the probabilities and of their logarithms.
        tolerance: the largest relative change of a parameter at which it ends.

    Raises `ValueError` where the distributions are all the same: then there is no maximum.
    Source: Minka, "Estimating a Dirichlet distribution" (2000).

    >>> samples = torch.distributions.Dirichlet(torch.tensor([2.0, 5.0, 1.0])).sample((1000,))
    >>> fit_dirichlet(samples.mean(0), samples.log().mean(0)).shape
    torch.Size([3])
    """
    mean, mean_log = mean.double(), mean_log.double()
    alpha = _start(mean, mean_log)
    for _ in range(_STEPS):
        gradient = torch.digamma(alpha.sum()) - torch.digamma(alpha) + mean_log
        diagonal = -torch.polygamma(1, alpha)
        common = torch.polygamma(1, alpha.sum())
        shift = (gradient / diagonal).sum() / (1 / common + (1 / diagonal).sum())
        step = (gradient - shift) / diagonal
        new = _shortened(alpha, step, mean_log)
        change = ((new - alpha).abs() / alpha).max()
        alpha = new
        if change <= tolerance:
            break
    return alpha


def log_likelihood(alpha: Tensor, mean_log: Tensor) -> Tensor:
    """The mean log-likelihood of distributions whose logarithms have this mean, in nats."""
    return torch.lgamma(alpha.sum()) - torch.lgamma(alpha).sum() + ((alpha - 1) * mean_log).sum()


def _start(mean: Tensor, mean_log: Tensor) -> Tensor:
    """The mean, times the precision that the likelihood says where the mean is held: Stirling's approximation."""
    mean = mean / mean.sum()
    spread = (mean * (mean.clamp_min(1e-300).log() - mean_log)).sum()
    if not bool(spread > 1e-12):
        raise ValueError("the distributions are all the same: no Dirichlet is likelier than every other.")
    alpha = (mean * ((len(mean) - 1) / 2 / spread)).clamp_min(1e-8)
    for _ in range(3):  # the fixed point: slow, but it never loses likelihood
        alpha = _inverse_digamma(torch.digamma(alpha.sum()) + mean_log)
    return alpha


def _shortened(alpha: Tensor, step: Tensor, mean_log: Tensor) -> Tensor:
    before, share = log_likelihood(alpha, mean_log), 1.0
    for _ in range(40):
        new = alpha - share * step
        if bool((new > 0).all()) and bool(log_likelihood(new, mean_log) >= before - 1e-9 * before.abs()):
            return new
        share /= 2
    return _inverse_digamma(torch.digamma(alpha.sum()) + mean_log)


def _inverse_digamma(y: Tensor) -> Tensor:
    x = torch.where(y >= -2.22, y.exp() + 0.5, -1 / (y - torch.digamma(torch.ones((), dtype=y.dtype))))
    for _ in range(6):
        x = x - (torch.digamma(x) - y) / torch.polygamma(1, x)
    return x
