"""The Dirichlet fit finds planted parameters, and what a plain Newton with the whole Hessian finds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lenskit.lenses.dirichlet import fit_dirichlet, log_likelihood


def plain_newton(mean_log: Tensor) -> Tensor:
    """With the Hessian as a matrix: the likelihood is concave, so a step climbs if it is short enough."""
    alpha = torch.ones_like(mean_log)
    for _ in range(1000):
        gradient = torch.digamma(alpha.sum()) - torch.digamma(alpha) + mean_log
        hessian = torch.polygamma(1, alpha.sum()) - torch.diag(torch.polygamma(1, alpha))
        step = torch.linalg.solve(hessian, gradient)
        if (step / alpha).abs().max() < 1e-12:
            break
        share = 1.0
        while share > 1e-9 and not _climbs(alpha, alpha - share * step, mean_log):
            share /= 2
        alpha = alpha - share * step
    return alpha


def _climbs(alpha: Tensor, new: Tensor, mean_log: Tensor) -> bool:
    return bool((new > 0).all()) and bool(log_likelihood(new, mean_log) >= log_likelihood(alpha, mean_log) - 1e-12)


def averages(alpha: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    samples = torch.distributions.Dirichlet(alpha).sample((count,)).clamp_min(1e-300)
    return samples.mean(0), samples.log().mean(0)


@settings(max_examples=40)
@given(st.lists(st.floats(0.05, 50.0), min_size=2, max_size=12), st.integers(0, 1000), st.integers(20, 500))
def test_it_finds_what_a_plain_newton_finds(planted: list[float], seed: int, count: int) -> None:
    mean, mean_log = averages(torch.tensor(planted, dtype=torch.float64), count, seed)
    torch.testing.assert_close(fit_dirichlet(mean, mean_log), plain_newton(mean_log), rtol=1e-6, atol=1e-8)


def test_it_recovers_planted_parameters() -> None:
    planted = torch.tensor([0.3, 2.0, 7.0, 0.05, 12.0], dtype=torch.float64)
    torch.testing.assert_close(fit_dirichlet(*averages(planted, 200_000, 0)), planted, rtol=0.02, atol=0)


def test_it_is_quick_over_a_whole_vocabulary() -> None:
    """As sparse as predictions are: most parameters far below 1, some tokens likely."""
    torch.manual_seed(0)
    planted = torch.distributions.Gamma(0.3, 3.0).sample((50_000,)).double().clamp_min(1e-4)
    mean, mean_log = _exact(planted)
    found = fit_dirichlet(mean, mean_log)
    torch.testing.assert_close(found, planted, rtol=1e-6, atol=0)


def _exact(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The averages over infinitely many distributions, in closed form."""
    return alpha / alpha.sum(), torch.digamma(alpha) - torch.digamma(alpha.sum())


def test_distributions_that_are_all_the_same_are_refused() -> None:
    same = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    with pytest.raises(ValueError, match="the distributions are all the same"):
        fit_dirichlet(same, same.log())
