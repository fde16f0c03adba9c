"""Norms taken apart: what a LayerNorm or RMSNorm does to the residual stream before its learned gain and bias."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenskit.models.finding.placed import is_plain
from lenskit.models.finding.probe import same

_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "layer_norm_epsilon", "norm_eps")
_USUAL_EPS = (1e-5, 1e-6, 1e-12)


@dataclass(frozen=True)
class Norm:
    """A norm as `normalise(x) * gain + bias`; gain and bias are read from the model whenever they are asked for.

    Attributes:
        module: the norm in the model, or None where nothing stands between the residual stream and what reads it.
        centres: whether it subtracts the mean (LayerNorm) or not (RMSNorm).
        eps: what it adds to the variance.
        offset: what it adds to its weight: Gemma's gain is `1 + weight`.
        gain_name, bias_name: the parameters of `module`, or None where it has none.

    >>> norm = model.weights.norm("attn_in", 5)                                        # doctest: +SKIP
    >>> norm.normalise(run["resid_pre", 5]) * norm.gain + norm.bias                    # doctest: +SKIP
    """

    module: nn.Module | None = None
    centres: bool = False
    eps: float = 0.0
    offset: float = 0.0
    gain_name: str | None = None
    bias_name: str | None = None

    @property
    def kind(self) -> str:
        """`"LayerNorm"`, `"RMSNorm"`, or `"none"`."""
        return "none" if self.module is None else "LayerNorm" if self.centres else "RMSNorm"

    @property
    def gain(self) -> Tensor | None:
        """(d_model,) in float32 at least, a copy; None where there is none to multiply with."""
        gain = self._parameter(self.gain_name)
        return None if gain is None else gain + self.offset

    @property
    def bias(self) -> Tensor | None:
        """(d_model,) in float32 at least, a copy; None where there is none to add."""
        return self._parameter(self.bias_name)

    def scale(self, x: Tensor) -> Tensor:
        """What `normalise` divides by, (..., 1): fix it, and the norm of a clean run is linear."""
        if self.module is None:
            return torch.ones_like(wide(x[..., :1]))
        return (self._centred(wide(x)).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def normalise(self, x: Tensor) -> Tensor:
        """`x` (..., d_model) before gain and bias, in float32 at least."""
        return self._centred(wide(x)) / self.scale(x)

    def held(self, x: Tensor, scale: Tensor) -> Tensor:
        """What the norm gives for `x` (..., d_model) if it divides by `scale` (..., 1) whatever `x` is."""
        made = self._centred(wide(x)) / scale
        made = made if self.gain is None else made * self.gain
        return made if self.bias is None else made + self.bias

    def back(self, directions: Tensor) -> Tensor:
        """Directions (..., d_model) of what the norm gives as those of what it reads, but for what it divides by.

        Taking off the mean takes it off a direction, too: `held(x, 1) @ d == x @ back(d)`, biases left out.
        """
        gain = self.gain
        return self._centred(wide(directions) if gain is None else wide(directions) * gain.to(directions.device))

    def _centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centres else x

    def _parameter(self, name: str | None) -> Tensor | None:
        if name is None:
            return None
        parameter = getattr(self.module, name).detach()
        return wide(parameter).clone()


def norm_of(module: nn.Module, x: Tensor, y: Tensor) -> Norm | None:
    """The norm that this module is, as its own call `x -> y` (..., d_model) proves it; None if it is none.

    Which kind, which of its parameters is the gain and which the bias, and whether one is added to the gain: the first
    combination that gives `y` is the answer.
    """
    for norm in _candidates(module, x.shape[-1]):
        made = norm.normalise(x)
        made = made if norm.gain is None else made * norm.gain
        made = made if norm.bias is None else made + norm.bias
        if same(made.to(y.dtype), y):
            return norm
    return None


def _candidates(module: nn.Module, width: int) -> Iterator[Norm]:
    named = [getattr(module, name, None) for name in _EPS_NAMES]
    stated = [float(eps) for eps in named if isinstance(eps, float)]
    vectors = [name for name, p in module.named_parameters(recurse=False) if p.shape == (width,) and is_plain(p)]
    for eps in stated or _USUAL_EPS:
        for centres in (False, True):
            for gain in (*vectors, None):
                for bias in (*(name for name in vectors if name != gain), None):
                    for offset in (0.0, 1.0) if gain else (0.0,):
                        yield Norm(module, centres, eps, offset, gain, bias)


def wide(x: Tensor) -> Tensor:
    """At least float32: a product rounded to half precision would not give the model back."""
    return x if x.dtype is torch.float64 else x.float()
