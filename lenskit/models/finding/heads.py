"""Heads: where a block's attn_in, q, k, v, scores, pattern and z are, each verified on the probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from lenskit.models.finding.probe import AttentionCall, Call, Probe, same
from lenskit.models.finding.recipes import NO_ATTENTION, WrittenOut, written_out
from lenskit.models.finding.spots import Spot
from lenskit.models.running.attention_written import RECIPES
from lenskit.models.taps import Point

NO_MIXER = "the block has no module that mixes positions"
INSIDE = ("q", "k", "v", "scores", "pattern")

Written = Mapping[nn.Module, WrittenOut | str]


@dataclass
class Found:
    """Spots by site name, and the reasons for the sites that were not found."""

    spots: dict[str, Spot] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, spots: Mapping[str, Spot], missing: Mapping[str, str]) -> None:
        """Note what was found elsewhere, and what was not."""
        self.spots |= spots
        self.missing |= missing

    def lacks(self, reason: str, *names: str) -> None:
        """Note the reason for each of these sites that has no spot."""
        for name in names:
            if name not in self.spots:
                self.missing.setdefault(name, reason)


def find_heads(probe: Probe, block: nn.Module, mixer: Call | None, written: Written) -> Found:
    """The sites of attention in one block. `mixer` is the call of its attention module, where one was found."""
    found = Found()
    members = set(block.modules())
    calls = [call for call in probe.attention if call.module in members]
    if mixer is not None:
        _find_attn_in(probe, mixer, found)
    found.lacks(NO_MIXER, "attn_in")
    if len(calls) != 1:
        found.lacks(_why_no_call(calls, mixer, written), *INSIDE, "z")
        return found
    (call,) = calls
    if sum(other.module is call.module for other in probe.attention) > 1:
        found.lacks("several layers share this attention module", *INSIDE, "z")
        return found
    output = output_projection(probe, block, call)
    if output is None:
        found.lacks("no output projection reads what the heads give", "z")
    else:
        found.spots["z"] = Spot(Point(output.module, "input"), heads=call.heads)
    if call.differs is not None:
        found.lacks(call.differs, *INSIDE)
    elif output is not None and not _reads(output, call):
        found.lacks("a gate or a norm stands between pattern @ v and z", "scores", "pattern")
    if call.unrelated is not None:
        found.lacks(call.unrelated, "q", "k")
    for name in INSIDE:
        if name not in found.missing:
            found.spots[name] = Spot(Point(call.module, name))
    return found


def _why_no_call(calls: list[AttentionCall], mixer: Call | None, written: Written) -> str:
    if len(calls) > 1:
        return f"the block calls attention {len(calls)} times"
    if mixer is None:
        return NO_MIXER
    reason = written.get(mixer.module)
    return reason if isinstance(reason, str) else NO_ATTENTION


def find_written_out(model: nn.Module, probe: Probe, mixers: list[Call | None]) -> Written:
    """Look for attention that modules compute by themselves, where they call no attention function of transformers.

    What is found is noted among the attention calls of the probe; the reasons come back.
    """
    silent = [mixer for mixer in mixers if mixer is not None and not _calls_attention(probe, mixer.module)]
    written = written_out(model, [mixer.module for mixer in silent], probe.tokens) if silent else {}
    for mixer in silent:
        found = written[mixer.module]
        if isinstance(found, WrittenOut):
            recipe = found.recipe
            call = AttentionCall(
                mixer.module, mixer.begin, recipe.heads, recipe.kv_heads, found.out, found.no_scores, found.no_product
            )
            output = output_projection(probe, mixer.module, call)
            call.at = mixer.end if output is None else output.begin
            probe.attention.append(call)
            RECIPES[mixer.module] = recipe
    return written


def _calls_attention(probe: Probe, module: nn.Module) -> bool:
    return any(call.module in set(module.modules()) for call in probe.attention)


def _find_attn_in(probe: Probe, mixer: Call, found: Found) -> None:
    if probe.times(mixer.module) > 1:
        return found.lacks("several layers share this attention module", "attn_in")
    inside = probe.descendants(mixer.module)
    if inside and not any(c.input.numel() == mixer.input.numel() and _equal(c, mixer) for c in inside):
        return found.lacks("no module inside attention reads what attention is given", "attn_in")
    found.spots["attn_in"] = Spot(Point(mixer.module, "input"))
    return None


def _equal(call: Call, mixer: Call) -> bool:
    return same(call.input.reshape(mixer.input.shape), mixer.input)


def _reads(call: Call, attention: AttentionCall) -> bool:
    out = attention.out
    return call.input.numel() == out.numel() and same(call.input.reshape(out.shape), out)


def output_projection(probe: Probe, block: nn.Module, attention: AttentionCall) -> Call | None:
    """The first matrix product that reads the heads' output; or, past a gate or a norm, the last one in the module."""
    inside = [c for c in probe.descendants(block) if c.is_linear and c.end > attention.at]
    inside.sort(key=lambda call: call.begin)
    direct = next((c for c in inside if _reads(c, attention)), None)
    if direct is not None:
        return direct
    own = set(attention.module.modules())
    last = [c for c in inside if c.module in own and c.input.numel() == attention.out.numel()]
    return last[-1] if last and last[-1].input.shape[:2] == attention.out.shape[:2] else None
