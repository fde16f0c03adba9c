"""A small forward in which every module is watched: the evidence on which the anatomy is verified."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.attention import recorded
from lenskit.models.finding.placed import entrance
from lenskit.models.finding.wrapped import eager
from lenskit.models.running.attention_math import mix, pattern_of, scores_of
from lenskit.models.sites import SiteUnavailable
from lenskit.models.taps import first_tensor, watched

# What only a module that mixes positions is given: a mask, or the state of earlier positions.
_MIXING = {"attention_mask", "past_key_values", "past_key_value", "layer_past", "cache_params", "cache", "state"}
_TOKENS = 5


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a matrix product, as `Call.is_linear` says."""
    weight = getattr(getattr(module, "base_layer", module), "weight", None)
    if isinstance(module, nn.Linear) or (isinstance(weight, Tensor) and weight.dim() == 2):
        return True
    return all(isinstance(getattr(module, side, None), int) for side in ("in_features", "out_features"))


@dataclass(eq=False)
class Call:
    """One module's call in the probe: what went in and came out, and when it began and ended."""

    module: nn.Module
    begin: int
    input: Tensor
    output: Tensor
    end: int
    form: int | None = None  # the length of the tuple that came out; None for a tensor by itself

    @property
    def mixes_positions(self) -> bool:
        """Whether the module is attention, or what stands in its place: its forward asks for a mask or a cache."""
        return bool(_MIXING & set(inspect.signature(type(self.module).forward).parameters))

    def reads_like(self, stream: Tensor) -> bool:
        """Whether what goes in has the size of the residual stream, be it as (batch * pos, d_model)."""
        return self.input.numel() == stream.numel() and self.input.shape[-1] == stream.shape[-1]

    def writes_like(self, stream: Tensor) -> bool:
        """Whether what comes out has the size of the residual stream, be it as (batch * pos, d_model)."""
        return self.output.numel() == stream.numel() and self.output.shape[-1] == stream.shape[-1]

    @property
    def is_linear(self) -> bool:
        """Whether the module is a matrix product: a linear layer, transformers' Conv1D, or one that wraps either.

        A quantised one may hold its weight packed, under another name: then it still says how wide it is.
        """
        return is_linear(self.module)


@dataclass(eq=False)
class AttentionCall:
    """One call of an attention function: its output (batch, pos, head, d_head) and whether we can repeat it.

    `differs` is None where the softmax of the scores, times the values, is what the model's own function gave; else
    the reason why scores and pattern cannot be shown; `unrelated` is the reason why q and k cannot be. With attention
    `sinks` the rows of the pattern sum to less than 1.
    """

    module: nn.Module
    at: int
    heads: int
    kv_heads: int
    out: Tensor
    differs: str | None
    unrelated: str | None = None
    sinks: bool = False


@dataclass(eq=False)
class Probe:
    """The calls of one forward of five tokens, in the order in which they ended, the tokens and the logits."""

    calls: list[Call]
    attention: list[AttentionCall]
    blocks: nn.ModuleList
    tokens: Tensor
    logits: Tensor
    _of: dict[nn.Module, list[Call]] = field(default_factory=dict, repr=False)

    @classmethod
    def take(cls, model: nn.Module, blocks: nn.ModuleList, vocab: int) -> Probe:
        """Run the model on five fixed tokens and keep every module's first tensors. The hooks are gone afterwards.

        Raises `SiteUnavailable` for a model with active dropout, and for one whose numbers overflow.
        """
        device = entrance(model, model.get_input_embeddings())  # pyright: ignore[reportCallIssue] -- a PreTrainedModel
        tokens = torch.tensor([[(vocab * k) // 7 for k in range(1, _TOKENS + 1)]], device=device)
        _refuse_dropout(model, tokens)
        calls: list[Call] = []
        attention: list[AttentionCall] = []
        open_calls: list[tuple[int, Tensor | None]] = []
        clock = count()

        def begin(module: nn.Module, given: list[Any]) -> None:
            tensor = first_tensor(given)
            open_calls.append((next(clock), None if tensor is None else tensor.clone()))

        def end(module: nn.Module, output: object) -> None:
            (begun, given), tensor = open_calls.pop(), first_tensor(output)
            if given is not None and tensor is not None:
                form = len(output) if isinstance(output, tuple) else None
                calls.append(Call(module, begun, given, tensor.clone(), next(clock), form))

        def attend(
            module: nn.Module,
            q: Tensor,
            k: Tensor,
            v: Tensor,
            mask: Tensor | None,
            more: Mapping[str, Any],
            out: Tensor,
        ) -> None:
            differs = _differs(module, q, k, v, mask, more, out)
            sinks = more.get("s_aux") is not None
            attention.append(
                AttentionCall(module, next(clock), q.shape[1], k.shape[1], out.clone(), differs, sinks=sinks)
            )

        with watched(model.modules(), begin, end), recorded(attend), eager(model.modules()), torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits
        made = cls(calls, attention, blocks, tokens, logits)
        _refuse_overflow(model, made)
        return made

    @cached_property
    def by_module(self) -> dict[nn.Module, list[Call]]:
        """The calls of each module, in order."""
        found = dict[nn.Module, list[Call]]()
        for call in self.calls:
            found.setdefault(call.module, []).append(call)
        return found

    def times(self, module: nn.Module) -> int:
        """How often the module was called."""
        return len(self.by_module.get(module, ()))

    def form(self, block: nn.Module) -> int | None:
        """The length of the tuple that the block gives, or None where it gives a tensor by itself."""
        calls = self.by_module.get(block)
        return calls[0].form if calls else None

    def residuals(self, block: nn.Module) -> tuple[Tensor, Tensor]:
        """The block's input and output."""
        call = self.by_module[block][0]
        return call.input, call.output

    def children(self, block: nn.Module) -> list[Call]:
        """The calls of the block's direct children."""
        return self._within(block, set(block.children()))

    def descendants(self, block: nn.Module) -> list[Call]:
        """The calls of everything inside the module."""
        return self._within(block, set(block.modules()) - {block})

    def _within(self, module: nn.Module, members: set[nn.Module]) -> list[Call]:
        found = [call for member in members for call in self.by_module.get(member, ())]
        whole = self.by_module.get(module, [])
        inside = [c for c in found if any(w.begin < c.begin and c.end < w.end for w in whole[:1])] if whole else found
        return sorted(inside, key=lambda call: call.end)

    def after_blocks(self) -> list[Call]:
        """The calls that began when the last block had ended, in order."""
        last = self.by_module[self.blocks[-1]][-1].end
        return sorted((call for call in self.calls if call.begin > last), key=lambda call: call.begin)

    def before_blocks(self) -> list[Call]:
        """The calls that had ended when the first block began."""
        first = self.by_module[self.blocks[0]][0].begin
        return [call for call in self.calls if call.end < first]


def _refuse_overflow(model: nn.Module, probe: Probe) -> None:
    """Raise where the blocks hand on inf or nan: of such numbers nothing can be told apart."""
    for layer, block in enumerate(probe.blocks):
        for call in probe.by_module.get(block, ()):
            if call.output.is_floating_point() and not bool(call.output.isfinite().all()):
                name = str(call.output.dtype).removeprefix("torch.")
                raise SiteUnavailable(
                    f"what layer {layer} of this {type(model).__name__} gives is inf or nan, in {name}, so no site can "
                    "be verified. Where numbers are too large for float16, load the model with dtype='float32'; else "
                    "look for nan in its weights."
                )


def _refuse_dropout(model: nn.Module, tokens: Tensor) -> None:
    """Raise if the model gives the same tokens two different predictions, as it does while dropout is active."""
    if not any(module.training for module in model.modules()):
        return
    # The person's own random numbers must not depend on when lenskit looked.
    forked = torch.random.fork_rng([tokens.device] if tokens.device.type == "cuda" else [])
    with forked, eager(model.modules()), torch.no_grad():
        first, second = (model(input_ids=tokens, use_cache=False).logits for _ in range(2))
    if not bool(first.isnan().any()) and not same(first, second, least=1e-4):
        raise SiteUnavailable(
            f"this {type(model).__name__} is in training mode and its dropout is active: two forwards of the same "
            "tokens differ, so no site can be verified on them. Switch that off, model.hf_model.eval(), and back on "
            "with .train() when you train again."
        )


def _differs(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, more: Mapping[str, Any], out: Tensor
) -> str | None:
    try:
        ours = mix(pattern_of(scores_of(module, q, k, mask, more), more.get("s_aux")), v)
    except (RuntimeError, TypeError, AttributeError) as error:  # an attention of another kind: this is the finding
        return f"its attention function takes arguments of its own kind ({str(error).splitlines()[0]})"
    if same(ours, out):
        return None
    return "the softmax of the scores, times the values, is not what its attention function gives"


def same(a: Tensor, b: Tensor, least: float = 0.0) -> bool:
    """Whether two tensors are equal up to the noise of their dtype, or `least`, relative to the largest value."""
    return a.shape == b.shape and _close(a.double(), b.double(), max(noise(a), least))


def share(pre: Tensor, post: Tensor, a: Tensor, b: Tensor) -> tuple[float, float] | None:
    """Factors with which `a` and `b` make `post` out of `pre`, or None: one and one, or else by least squares.

    Each position is measured by itself: at an attention sink the residual can be thousands of times what a block adds,
    and the rounding of that sum must neither hide a mismatch elsewhere nor count as one.
    """
    total = (post - pre).double()
    grain = torch.finfo(post.dtype).eps * post.double().abs().amax(-1, keepdim=True)
    allowed = noise(post) * total.abs().amax(-1, keepdim=True) + 8 * grain
    a, b = a.double(), b.double()
    if bool(((total - a - b).abs() <= allowed).all()):
        return 1.0, 1.0
    columns = torch.stack([(a / allowed).flatten(), (b / allowed).flatten()], dim=1)
    if not bool(columns.isfinite().all()):
        return None
    solved = torch.linalg.lstsq(columns, (total / allowed).flatten()[:, None]).solution.flatten()
    x, y = _intended(float(solved[0])), _intended(float(solved[1]))
    if bool(((total - x * a - y * b).abs() <= allowed).all()) and min(abs(x), abs(y)) > 1e-3:
        return x, y
    return None


def factor_of(part: Tensor, whole: Tensor) -> float | None:
    """The one number with which `whole` is made of `part`, or None where there is none."""
    if part.shape != whole.shape:
        return None
    if same(part, whole):
        return 1.0
    size = part.double().square().sum()
    factor = _intended(float((part.double() * whole.double()).sum() / size)) if size > 0 else 0.0
    return factor if abs(factor) > 1e-3 and same(part.double() * factor, whole.double(), noise(whole)) else None


def _intended(factor: float) -> float:
    """The number that was meant by a measured one: of six digits, or one over such, if that is as near as can be."""
    near = [round(factor, 6)] + ([1 / round(1 / factor, 6)] if 1e-5 < abs(factor) < 1e5 else [])
    best = min(near, key=lambda each: abs(each - factor))
    return best if abs(best - factor) <= 2e-7 * abs(factor) else factor


def noise(x: Tensor) -> float:
    """How far apart two results of this dtype may be, relative to the largest value."""
    return 1e-5 if x.dtype in (torch.float32, torch.float64) else 2e-2


def _close(a: Tensor, b: Tensor, part: float) -> bool:
    return bool((a - b).abs().max() <= part * b.abs().max().clamp_min(1e-30))
