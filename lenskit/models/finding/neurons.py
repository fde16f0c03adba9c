"""Neurons: where a block's mlp_in, mlp_pre and mlp_post are, each verified on the probe."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenskit.models.finding.heads import Found
from lenskit.models.finding.probe import Call, Probe, same
from lenskit.models.finding.spots import Spot
from lenskit.models.taps import Point

NEURONS = ("mlp_pre", "mlp_post")
_EXPERTS = "the MLP is a mixture of experts: each token has other neurons"

# The nonlinearities that are written as functions; those that are modules are found as such.
_FUNCTIONS = (F.gelu, F.relu, F.silu, torch.tanh, lambda x: F.gelu(x, approximate="tanh"), lambda x: F.relu(x) ** 2)


def find_neurons(probe: Probe, block: nn.Module, mlp: Call | None) -> Found:
    """The sites of the MLP in one block. `mlp` is the call of its MLP, where one was found."""
    found = Found()
    if mlp is None:
        found.lacks("no MLP was found in the block", "mlp_in", *NEURONS)
        return found
    if probe.times(mlp.module) > 1:
        found.lacks("several layers share this MLP", "mlp_in", *NEURONS)
        return found
    inside = probe.descendants(mlp.module) if not mlp.is_linear else probe.descendants(block)
    down = mlp if mlp.is_linear else _down(inside, mlp)
    if down is None:
        found.lacks(
            _EXPERTS if _has_router(mlp.module) else "no one down projection gives what the MLP gives", *NEURONS
        )
    else:
        found.spots["mlp_post"] = _before(down)
    ups = _ups(inside, down) if down is not None else []
    _find_mlp_in(mlp, inside, ups, found)
    if down is not None:
        _find_pre(inside, down, ups, found)
    return found


def _before(call: Call) -> Spot:
    """What goes into a module, be it (batch * pos, ...)."""
    return Spot(Point(call.module, "input"), flat=call.input.dim() == 2)


def _down(inside: list[Call], mlp: Call) -> Call | None:
    """The last matrix product, if what it gives is what the MLP gives."""
    linear = [c for c in inside if c.is_linear and c.output.numel() == mlp.output.numel()]
    if linear and same(linear[-1].output.reshape(mlp.output.shape), mlp.output):
        return linear[-1] if linear[-1].input.dim() == 3 else None
    return None


def _ups(inside: list[Call], down: Call) -> list[Call]:
    """The matrix products that end before the down projection and are as wide as its input, or twice as wide."""
    width = down.input.shape[-1]
    return [
        c
        for c in inside
        if c.is_linear
        and c.end < down.begin
        and c.output.shape[-1] in (width, 2 * width)
        and c.output.dim() == down.input.dim()
    ][-2:]


def _find_mlp_in(mlp: Call, inside: list[Call], ups: list[Call], found: Found) -> None:
    if not mlp.is_linear:
        if inside and not any(
            c.input.numel() == mlp.input.numel() and same(c.input.reshape(mlp.input.shape), mlp.input) for c in inside
        ):
            return found.lacks("no module inside the MLP reads what the MLP is given", "mlp_in")
        found.spots["mlp_in"] = _before(mlp)
    elif len(ups) == 1:
        found.spots["mlp_in"] = _before(ups[0])
    found.lacks("the MLP has no module of its own", "mlp_in")
    return None


def _find_pre(inside: list[Call], down: Call, ups: list[Call], found: Found) -> None:
    """What enters the nonlinearity: a module, or a function between one matrix product and the next."""
    post = down.input
    for call in inside:
        between = call.end < down.begin and not call.is_linear and not list(call.module.children())
        if not between or call.input.shape != post.shape or same(call.input, call.output):
            continue
        if any(same(made, post) for made in _gated(call.output, ups)):
            found.spots["mlp_pre"] = _before(call)
            return
    for up in ups:
        if up.output.shape == post.shape:
            for function in _FUNCTIONS:
                if any(same(made, post) for made in _gated(function(up.output), ups)):
                    found.spots["mlp_pre"] = Spot(Point(up.module, "output"), flat=up.output.dim() == 2)
                    return
    found.lacks("the nonlinearity before the down projection was not found", "mlp_pre")


def _gated(active: Tensor, ups: list[Call]) -> Iterator[Tensor]:
    """The active neurons by themselves, and multiplied with each thing that may gate them."""
    yield active
    width = active.shape[-1]
    for up in ups:
        for part in (
            (up.output,)
            if up.output.shape[-1] == width
            else (*up.output.chunk(2, -1), up.output[..., ::2], up.output[..., 1::2])
        ):
            yield active * part


def _has_router(module: nn.Module) -> bool:
    return any("expert" in name or "router" in name for name, _ in module.named_modules())
