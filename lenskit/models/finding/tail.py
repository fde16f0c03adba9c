"""The model's own way from the last residual to the logits, followed tensor by tensor on the probe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.finding.probe import Call, Probe, factor_of, same
from lenskit.models.sites import SiteUnavailable

# What configurations call the number at which the logits are capped.
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True)
class Tail:
    """The model's own way from the last residual to the logits: modules, then head, then scale and soft-cap."""

    modules: tuple[nn.Module, ...]
    head: nn.Module
    scale: float = 1.0
    softcap: float | None = None
    before_head: float = 1.0

    def normed(self, h: Tensor) -> Tensor:
        """What the head reads: `h` (..., d_model) after the final norm."""
        for module in self.modules:
            h = module(h)
        return h if self.before_head == 1.0 else h * self.before_head

    def finish(self, scores: Tensor) -> Tensor:
        """Logits from the head's output: scaled and soft-capped as the model does it, in place where it may."""
        if self.scale != 1.0:
            scores = scores * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        return scores


def find_tail(probe: Probe, head: nn.Module, config: Any, family: str) -> Tail:
    """Follow the last residual through the modules that read it, up to the head, and see what becomes of its scores.

    Raises `SiteUnavailable` where something other than modules and a factor stands between.
    """
    value, modules = probe.by_module[probe.blocks[-1]][-1].output, []
    calls = probe.after_blocks()
    scores: Call | None = next((call for call in calls if call.module is head), None)
    if scores is None:
        raise SiteUnavailable(f"'logits' does not exist in {family}: it has no output embedding that is called.")
    whole: tuple[int, Call] | None = None
    for call in calls:
        if call.begin >= scores.begin or same(scores.input, value):
            break
        if same(call.input, value):
            if head in set(call.module.modules()):  # the head with layers of its own: its smallest part that reads this
                whole = (len(modules), call)
            else:
                modules.append(call.module)
                value = call.output
    factor = factor_of(value, scores.input)
    if factor is None and whole is not None:
        modules, scores, factor = modules[: whole[0]], whole[1], 1.0
    if factor is None:
        raise SiteUnavailable(
            f"the way from the last residual to the logits of {family} could not be followed: something other "
            "than modules changes the residual before the head. A lens needs it; model.run() works."
        )
    scale, softcap = _find_finish(config, scores.output, probe.logits, family)
    return Tail(tuple(modules), scores.module, scale, softcap, factor)


def _find_finish(config: Any, scores: Tensor, logits: Tensor, family: str) -> tuple[float, float | None]:
    """The scale and the soft-cap between the head's output and the logits. Raises where neither explains them."""
    if same(scores, logits):
        return 1.0, None
    for cap in (getattr(config, name, None) for name in _SOFTCAPS):
        if cap and same(torch.tanh(scores / cap) * cap, logits):
            return 1.0, float(cap)
    if scores.shape != logits.shape:
        raise SiteUnavailable(f"the logits of {family} are not its head's output. A lens cannot read it; run() works.")
    scale = float((scores.double() * logits.double()).sum() / scores.double().square().sum())
    for stated in (getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)):
        for candidate in (stated, 1 / stated) if stated else ():
            scale = candidate if math.isclose(scale, candidate, rel_tol=1e-4) else scale
    if same(scores * scale, logits):
        return scale, None
    raise SiteUnavailable(
        f"what {family} does to its head's output is neither a scale nor a soft-cap: a lens cannot repeat it. "
        "model.run() works."
    )
