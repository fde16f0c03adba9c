"""A small forward in which every module is watched: the evidence on which the anatomy is verified."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.taps import first_tensor, watched

# What only a module that mixes positions is given: a mask, or the state of earlier positions.
_MIXING = {"attention_mask", "past_key_values", "past_key_value", "layer_past", "cache_params"}
_TOKENS = 5


@dataclass(eq=False)
class Call:
    """One module's call in the probe: what went in and came out, and when it began and ended."""

    module: nn.Module
    begin: int
    input: Tensor
    output: Tensor
    end: int

    @property
    def mixes_positions(self) -> bool:
        """Whether the module is attention, or what stands in its place: its forward asks for a mask or a cache."""
        return bool(_MIXING & set(inspect.signature(type(self.module).forward).parameters))


@dataclass(eq=False)
class Probe:
    """The calls of one forward of five tokens, in the order in which they ended, the tokens and the logits."""

    calls: list[Call]
    blocks: nn.ModuleList
    tokens: Tensor
    logits: Tensor

    @classmethod
    def take(cls, model: nn.Module, blocks: nn.ModuleList, vocab: int) -> Probe:
        """Run the model on five fixed tokens and keep every module's first tensors. The hooks are gone afterwards."""
        device = next(model.parameters()).device
        tokens = torch.tensor([[(vocab * k) // 7 for k in range(1, _TOKENS + 1)]], device=device)
        calls: list[Call] = []
        open_calls: list[tuple[int, Tensor | None]] = []
        clock = count()

        def begin(module: nn.Module, given: list[Any]) -> None:
            tensor = first_tensor(given)
            open_calls.append((next(clock), None if tensor is None else tensor.clone()))

        def end(module: nn.Module, output: object) -> None:
            (begun, given), tensor = open_calls.pop(), first_tensor(output)
            if given is not None and tensor is not None:
                calls.append(Call(module, begun, given, tensor.clone(), next(clock)))

        with watched(model.modules(), begin, end), torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits
        return cls(calls, blocks, tokens, logits)

    def residuals(self, block: nn.Module) -> tuple[Tensor, Tensor]:
        """The block's input and output."""
        call = next(call for call in self.calls if call.module is block)
        return call.input, call.output

    def children(self, block: nn.Module) -> list[Call]:
        """The calls of the block's direct children."""
        members = set(block.children())
        return [call for call in self.calls if call.module in members]

    def descendants(self, block: nn.Module) -> list[Call]:
        """The calls of everything inside the block."""
        members = set(block.modules()) - {block}
        return [call for call in self.calls if call.module in members]

    def after_blocks(self) -> list[Call]:
        """The calls that began when the last block had ended, in order."""
        last = next(call.end for call in self.calls if call.module is self.blocks[-1])
        return sorted((call for call in self.calls if call.begin > last), key=lambda call: call.begin)


def same(a: Tensor, b: Tensor, least: float = 0.0) -> bool:
    """Whether two tensors are equal up to the noise of their dtype, or `least`, relative to the largest value."""
    return a.shape == b.shape and _close(a.double(), b.double(), max(_noise(a), least))


def share(pre: Tensor, post: Tensor, a: Tensor, b: Tensor) -> tuple[float, float] | None:
    """Factors with which `a` and `b` make `post` out of `pre`, or None: one and one, or else by least squares.

    Each position is measured by itself: at an attention sink the residual can be thousands of times what a block adds,
    and the rounding of that sum must neither hide a mismatch elsewhere nor count as one.
    """
    total = (post - pre).double()
    grain = torch.finfo(post.dtype).eps * post.double().abs().amax(-1, keepdim=True)
    allowed = _noise(post) * total.abs().amax(-1, keepdim=True) + 8 * grain
    a, b = a.double(), b.double()
    if bool(((total - a - b).abs() <= allowed).all()):
        return 1.0, 1.0
    columns = torch.stack([(a / allowed).flatten(), (b / allowed).flatten()], dim=1)
    solved = torch.linalg.lstsq(columns, (total / allowed).flatten()[:, None]).solution.flatten()
    x, y = round(float(solved[0]), 6), round(float(solved[1]), 6)
    if bool(((total - x * a - y * b).abs() <= allowed).all()) and min(abs(x), abs(y)) > 1e-3:
        return x, y
    return None


def _noise(x: Tensor) -> float:
    return 1e-5 if x.dtype in (torch.float32, torch.float64) else 2e-2


def _close(a: Tensor, b: Tensor, noise: float) -> bool:
    return bool((a - b).abs().max() <= noise * b.abs().max().clamp_min(1e-30))
