"""Writers: the modules of a block that write to the residual stream, found by putting their outputs together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lenskit.models.finding.probe import Call, Probe, factor_of, same, share
from lenskit.models.finding.spots import Spot
from lenskit.models.taps import Point

_USE = "Use 'resid_pre' and 'resid_post'."
_NO_SUM = f"no two modules of a block add up to what the block adds to the residual stream. {_USE}"
_NORMED = f"the residual stream itself goes through a norm in each block, so that nothing is simply added to it. {_USE}"
_PARALLEL = "attention and MLP run in parallel. Use 'attn_out' or 'mlp_out'."
_HIDDEN = "no module reads the residual stream between attention and MLP"


@dataclass
class Writers:
    """What was found in one block: its spots, why others are missing, and the calls of attention and MLP themselves."""

    spots: dict[str, Spot] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    attention: Call | None = None
    mlp: Call | None = None


def find_writers(probe: Probe, block: nn.Module) -> Writers:
    """Search the block's modules for the two whose outputs make up what the block adds to the residual stream.

    In a block that has only attention, or a state space, or only an MLP, it is one.
    """
    pre, post = probe.residuals(block)
    found = Writers()
    for inside in (probe.children(block), probe.descendants(block)):
        # What is called twice (one dropout after attention and after the MLP) would be two places.
        outputs = [call for call in inside if call.writes_like(pre) and probe.times(call.module) == 1]
        mixer = next((call for call in outputs if call.mixes_positions), None)
        found.attention = found.attention or mixer
        if _pair(probe, found, inside, outputs, mixer, pre, post) or _single(found, inside, outputs, mixer, pre, post):
            return found
    if not found.spots:
        reason = _NORMED if _ends_in_norm(probe.descendants(block), pre, post) else _scaled(outputs, pre, post)
        found.missing |= dict.fromkeys(("attn_out", "resid_mid", "mlp_out"), reason)
    return found


def _pair(
    probe: Probe, found: Writers, inside: list[Call], outputs: list[Call], mixer: Call | None, pre: Tensor, post: Tensor
) -> bool:
    """Two writers: attention, or what is made of its output, and something that ends later."""
    if mixer is None:
        return False
    first = [call for call in outputs if call.begin >= mixer.begin]
    shifts = [None, *_shifts(mixer.module, pre)]
    for shift in shifts:
        plus = 0.0 if shift is None else shift.detach()
        for attn in first:
            for mlp in reversed(outputs):
                if mlp is attn or mlp.end < attn.end or attn.begin < mlp.begin < attn.end:
                    continue
                factors = share(pre + plus, post, attn.output.reshape(pre.shape), mlp.output.reshape(pre.shape))
                if factors is None or (shift is not None and factors[0] != 1.0):
                    continue
                found.spots["attn_out"] = _written(attn, factors[0], pre, shift)
                found.spots["mlp_out"] = _written(mlp, factors[1], pre)
                _find_middle(found, inside, attn, mlp, pre + plus + factors[0] * attn.output.reshape(pre.shape))
                found.attention, found.mlp = mixer, _before_norm(mlp, inside)
                return True
    return False


def _shifts(module: nn.Module, pre: Tensor) -> Iterator[Tensor]:
    """The vectors that a module hands to its block instead of adding them itself."""
    yield from (p for name, p in module.named_parameters() if "bias" in name and p.shape == pre.shape[-1:])


def _single(
    found: Writers, inside: list[Call], outputs: list[Call], mixer: Call | None, pre: Tensor, post: Tensor
) -> bool:
    """One writer: what mixes positions, or else an MLP."""
    for call in outputs:
        factor = factor_of(call.output.reshape(pre.shape), post - pre)
        if factor is None:
            continue
        if mixer is not None and call.begin >= mixer.begin:
            name, other, found.attention = "attn_out", "mlp_out", mixer
        elif mixer is None:
            name, other, found.mlp = "mlp_out", "attn_out", _before_norm(call, inside)
        else:
            continue
        found.spots[name] = _written(call, factor, pre)
        what = "MLP" if other == "mlp_out" else "attention"
        found.missing[other] = f"the block has no {what}. Use {name!r}."
        found.missing["resid_mid"] = f"the block has no {what}, so that nothing is in between. {_USE}"
        return True
    return False


def _written(call: Call, factor: float, pre: Tensor, shift: Tensor | None = None) -> Spot:
    return Spot(Point(call.module, "output"), factor, shift=shift, flat=call.output.shape != pre.shape)


def _find_middle(found: Writers, inside: list[Call], attn: Call, mlp: Call, middle: Tensor) -> None:
    reader = next(
        (
            c
            for c in inside
            if c.begin > attn.begin and c.reads_like(middle) and same(c.input.reshape(middle.shape), middle)
        ),
        None,
    )
    if reader is not None:
        flat = reader.input.shape != middle.shape
        found.spots["resid_mid"] = Spot(Point(reader.module, "input"), shared=True, flat=flat)
    else:
        found.missing["resid_mid"] = _PARALLEL


def _before_norm(writer: Call, inside: list[Call]) -> Call:
    """The MLP itself, where what is added is its output after a norm or a dropout."""
    while not writer.is_linear and not list(writer.module.children()):
        source = [c for c in inside if c.end <= writer.begin and same(c.output, writer.input)]
        if not source:
            return writer
        writer = max(source, key=lambda call: call.end)
    return writer


def _ends_in_norm(inside: Iterable[Call], pre: Tensor, post: Tensor) -> bool:
    """Whether the last thing in the block is a norm of the residual stream."""
    return any(
        call.writes_like(pre)
        and not call.is_linear
        and not list(call.module.children())
        and same(call.output.reshape(post.shape), post)
        and not same(call.input.reshape(post.shape), post)
        for call in inside
    )


def _scaled(outputs: list[Call], pre: Tensor, post: Tensor) -> str:
    """The reason where a block multiplies the whole stream by one number, or the general one."""
    for attn in outputs:
        for mlp in outputs:
            if attn.end > mlp.begin:
                continue
            parts = torch.stack([t.double().flatten() for t in (pre, attn.output, mlp.output)], 1)
            solved = torch.linalg.lstsq(parts, post.double().flatten()[:, None]).solution
            by = float(solved[0])
            if same((parts @ solved).reshape(post.shape), post.double()) and abs(by) > 0.01 and abs(by - 1) > 1e-4:
                return (
                    f"the block multiplies the residual stream by {by:.4g}, so that nothing is simply added to it. "
                    f"{_USE}"
                )
    return _NO_SUM
