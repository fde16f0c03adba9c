"""A tuned lens in closed form: ridge regression of the final residual on each layer's, from one pass over a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lenskit.lenses.residuals import paired, residuals
from lenskit.lenses.translators import Translators
from lenskit.models.model import Model

# Of the mean square of what a layer reads: enough to keep directions that the text hardly used from running wild.
RIDGE = 1e-3
TOKENS_AT_ONCE = 1024


class Moments:
    """Running sums over rows, from which each layer's regression is solved: X'X and X'Y in float64.

    X is a layer's residual with a 1 appended, Y what has to be added to it to have the final residual.
    Memory: 16 d_model^2 bytes for each layer.
    """

    def __init__(self, layers: int, d_model: int, device: torch.device) -> None:
        self.count = 0
        self.xx = torch.zeros(layers, d_model + 1, d_model + 1, dtype=torch.float64, device=device)
        self.xy = torch.zeros(layers, d_model + 1, d_model, dtype=torch.float64, device=device)

    def add(self, states: Tensor, final: Tensor, weight: Tensor) -> None:
        """Add rows: states (layer, row, d_model), final residuals (row, d_model), weights (row, 1)."""
        for layer, h in enumerate(states):
            h = h.to(final.dtype)
            x = torch.cat([h, torch.ones_like(h[:, :1])], 1) * weight
            self.xx[layer] += (x.T @ x).double()
            self.xy[layer] += (x.T @ ((final - h) * weight)).double()
        self.count += len(final)

    def solve(self, ridge: float = RIDGE, bias_only: bool = False) -> Translators:
        """The translators that minimise the weighted squares plus the ridge, which shrinks them to the identity."""
        layers, width = self.xx.shape[0], self.xx.shape[1]
        d_model = width - 1
        if bias_only:
            bias = self.xy[:, -1] / self.xx[:, -1:, -1]
            return Translators(torch.zeros(layers, d_model, d_model, device=self.xx.device), bias.float())
        weight = torch.empty(layers, d_model, d_model, device=self.xx.device)
        bias = torch.empty(layers, d_model, device=self.xx.device)
        for layer in range(layers):
            penalty = torch.full((width,), float(self.xx[layer].diagonal().mean()) * ridge, device=self.xx.device)
            penalty[-1] = 0  # the bias is free
            solution = torch.linalg.solve(self.xx[layer] + penalty.double().diag(), self.xy[layer])
            weight[layer], bias[layer] = solution[:-1].T, solution[-1]
        return Translators(weight, bias)

    @property
    def metric(self) -> Tensor:
        """(layer, d_model, d_model) mean weighted second moments of what the layers read."""
        return self.xx[:, :-1, :-1] / max(1, self.count)


def gathered(
    model: Model,
    ids: Tensor,
    layers: Sequence[int],
    *,
    ahead: int = 0,
    skip_first: int = 1,
    progress: Callable[[float], object] | None = None,
) -> Moments:
    """The moments of chunks (chunk, pos) in one pass of the model; `progress` hears the share done after each batch."""
    at_once = max(1, TOKENS_AT_ONCE // ids.shape[1])
    moments: Moments | None = None
    for begin in range(0, len(ids), at_once):
        states, final = residuals(model, ids[begin : begin + at_once], layers)
        rows, target = paired(states, final, ahead, skip_first)
        target = target if target.dtype == torch.float64 else target.float()
        if moments is None:
            moments = Moments(len(layers), target.shape[-1], target.device)
        with torch.no_grad():
            moments.add(rows, target, seen_weight(model.anatomy.tail.modules, target))
        if progress is not None:
            progress(min(1.0, (begin + at_once) / len(ids)))
    assert moments is not None, "chunks are never empty"
    return moments


@torch.no_grad()
def seen_weight(norms: Sequence[nn.Module], final: Tensor) -> Tensor:
    """(row, 1): 1 over what the final norm divides by, so that errors count as the norm will see them.

    Measured on the norm itself: one that does not mind the scale divides by the root mean square; one that does not
    mind a constant either (LayerNorm) divides by that of the centred residual. Without a norm, rows count alike.
    """

    def minds(changed: Tensor) -> bool:
        before, after = _through(norms, final), _through(norms, changed)
        # The usual row decides: in one that is nearly constant, what the norm adds to the variance shows.
        return float(((after - before).norm(dim=-1) / before.norm(dim=-1)).median()) > 0.01

    size = final.square().mean(-1, keepdim=True).sqrt()
    if not norms or minds(2 * final):
        return torch.ones_like(size)
    if minds(final + size):
        return 1 / size.clamp_min(1e-12)
    centred = final - final.mean(-1, keepdim=True)
    return 1 / centred.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def _through(norms: Sequence[nn.Module], h: Tensor) -> Tensor:
    kind = next((weight.dtype for norm in norms for weight in norm.parameters()), h.dtype)
    h = h.to(kind)
    for norm in norms:
        h = norm(h)
    return h.float()
